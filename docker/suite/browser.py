"""A user's browser: Chromium without a screen, driven by selenium."""

import contextlib
import shutil
from typing import Iterator

from suite.kit import Skipped, Wrong

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None


class Browser:
    """Pages of one site, which has this name, at this address."""

    def __init__(self, driver, site: str):
        self.driver, self.site = driver, site

    def open(self, path: str) -> None:
        self.driver.get(f"http://{self.site}{path}")

    def wait(self, seconds: float):
        # A page that is being replaced has elements that are gone.
        return WebDriverWait(self.driver, seconds, ignored_exceptions=[WebDriverException])

    def find(self, selector: str, seconds: float = 60):
        """The first element, once it is there to be clicked or filled in."""
        try:
            return self.wait(seconds).until(lambda driver: next((each for each in driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()), None))
        except WebDriverException as error:
            raise Wrong(f"no {selector} at {self.driver.current_url}: {self.text()[-300:]}") from error

    def fill(self, **fields: str) -> None:
        """Fields by their id or name; a text that is there is replaced."""
        for name, text in fields.items():
            field = self.find(f'[id="{name}"], [name="{name}"]')
            if field.get_attribute("type") != "file":
                field.clear()
            field.send_keys(text)

    def attach(self, selector: str, file: str) -> None:
        """Chooses a file where the page shows a button of its own in the place of the field."""
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(file)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def says(self, text: str) -> None:
        try:
            self.wait(60).until(lambda _: text in self.text())
        except WebDriverException as error:
            raise Wrong(f"{self.driver.current_url} does not say {text!r}: {self.text()[-300:]}") from error

    def shows(self, image: str) -> int:
        """The width in pixels of an image that the site has under this path: 0 if it cannot be shown."""
        self.open(image)
        return self.driver.execute_script("return document.images.length ? document.images[0].naturalWidth : 0")


@contextlib.contextmanager
def browser(site: str, address: str) -> Iterator[Browser]:
    """A new one, without cookies, for which the site's name has this address."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not webdriver or not program or not shutil.which("chromedriver"):
        raise Skipped("apt-get install chromium chromium-driver, pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--host-resolver-rules=MAP {site} {address}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(120)
        yield Browser(driver, site)
    except WebDriverException as error:
        raise Wrong(f"in the browser: {error.msg}") from error
    finally:
        driver.quit()
