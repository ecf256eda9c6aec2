"""examples/dokuwiki: DokuWiki on three replicas of PHP-FPM, and nginx in a container of its own beside them."""

import glob
import os
import shutil
import time

from suite.browser import Browser, browser
from suite.kit import EXAMPLES, Compose, Running, Setting, eventually, expect, run
from suite.lab import build, debian
from suite.recipe import Steps, kill_the_one_that, stand_in, throttle
from suite.wordpress import PIXELS, picture

SITE = "wiki.test"
STYLE = "/lib/tpl/dokuwiki/css/content.less"
PASSWORD = "correct horse battery staple"
# Debian keeps the parts of DokuWiki in three places: back to where its authors have them.
GATHER = """
cp -aL /usr/share/dokuwiki/. /out && cp -aL /var/lib/dokuwiki/data /var/lib/dokuwiki/lib /out && mkdir /out/conf
cp -a /etc/dokuwiki/*.conf /etc/dokuwiki/*.php /etc/dokuwiki/*.dist /etc/dokuwiki/*.css /out/conf/
rm -f /out/inc/preload.php /out/conf/local.php /out/conf/*.auth.php
sed -i "s|'/var/lib/dokuwiki/data'|'./data'|" /out/conf/dokuwiki.php
"""


def images(setting: Setting) -> tuple[str, str]:
    """Of Debian's version, and of the next one, which is made of it."""
    stand_in("php-fpm", "php-fpm")
    context = os.path.join(setting.scratch, "dokuwiki")
    shutil.copytree(os.path.join(EXAMPLES, "dokuwiki"), context)
    app = os.path.join(context, "app")
    os.mkdir(app)
    run("docker", "run", "--rm", "-v", f"{app}:/out", debian("apps"), "sh", "-c", GATHER, check=False)
    with open(os.path.join(app, "VERSION")) as file:
        old = file.read().split()[0]
    new = old[:-1] + chr(ord(old[-1]) + 1)
    for tag in (old, new):
        build(f"wiki:{tag}", context, "--build-arg", "PHP=php-fpm", "--build-arg", f"TAG={tag}")
        build(f"wiki-web:{tag}", context, "-f", os.path.join(context, "web.Dockerfile"), "--build-arg", f"NGINX={debian('base')}", "--build-arg", f"TAG={tag}")
        next_release(app, new)
    return old, new


def next_release(app: str, version: str) -> None:
    for path in glob.glob(f"{app}/inc/*.php") + [app + STYLE, f"{app}/conf/dokuwiki.php"]:
        with open(path, "a") as file:
            file.write("\n/* The next release */\n" if path.endswith(".less") else "\n// The next release\n")
    with open(os.path.join(app, "VERSION"), "w") as file:
        file.write(f'{version} "Next"\n')
    os.makedirs(os.path.join(app, "inc", "Next"), exist_ok=True)
    shutil.rmtree(os.path.join(app, "vendor", "simplepie"), ignore_errors=True)


class Wiki:
    """The replicas, the web server, and what a user has made of them."""

    def __init__(self, compose: Compose):
        self.compose = compose

    def web(self) -> Running:
        return self.compose.containers("web")[0]

    def deploy(self, version: str, replicas: int = 3, disturbed: str = "", **variables: str) -> None:
        """Starts a version; the replica that says what is to be disturbed is killed."""
        self.compose.variables |= {"TAG": version} | variables
        self.compose("up", "--no-start", "--scale", f"php={replicas}")
        containers = [Running(each) for each in self.compose("ps", "-a", "-q", "php").split()]
        throttle(containers, 0.03 if disturbed else 0)
        self.compose("start")
        if disturbed:
            kill_the_one_that(disturbed, containers)
            expect(not any("handing over" in each.logs() for each in containers), "the kill came too late")
            throttle(containers, 0)
        eventually(lambda: f"{version} is served; it said: {self.web().logs()[-500:]}", lambda: replicas == 0 or self.serves(version), 120)

    def serves(self, version: str) -> bool:
        """Whether it answers; it must not where the volume is at another version."""
        if self.web().get("/install.php", SITE)[0] != 200:
            return False
        served = self.version()
        expect(served == version, f"it serves {served}")
        return True

    def install(self, setting: Setting) -> None:
        file = os.path.join(setting.scratch, "wiki.png")
        picture(file)
        with browser(SITE, self.web().address()) as page:
            page.open("/install.php")
            names = {"title": "A wiki on a volume", "superuser": "editor", "fullname": "The editor", "email": "editor@wiki.test", "password": PASSWORD, "confirm": PASSWORD}
            page.fill(**{f"d[{name}]": text for name, text in names.items()})
            page.click("button[name=submit]")
            page.says("finished successfully")
            log_in(page)
            page.open("/doku.php?id=start&do=edit")
            page.fill(wikitext="A page by the user: {{:wiki.png}}")
            page.click("#edbtn__save")
            page.says("A page by the user")
            page.open("/doku.php?id=start&do=media&tab_files=upload&ns=")
            page.attach("input[type=file]", file)
            page.click("#mediamanager__upload_button")
            page.find(".qq-upload-success")

    def check(self) -> None:
        with browser(SITE, self.web().address()) as page:
            log_in(page)
            page.open("/doku.php?id=start")
            page.says("A page by the user")
            expect(page.shows("/lib/exe/fetch.php?media=wiki.png") == PIXELS, "the picture is not shown")
        expect("by the user" in self.web().get(STYLE)[1], "the template is not the user's")
        expect("by the user" in self.web().run("cat", "/var/www/html/conf/local.php"), "the settings are not the user's")
        expect(self.web().get("/.volseed/record.json")[0] == 404, "the server shows .volseed")

    def version(self) -> str:
        return self.web().run("cat", "/var/www/html/VERSION").split()[0]


def log_in(page: Browser) -> None:
    page.open("/doku.php?id=start&do=login")
    page.fill(u="editor", p=PASSWORD)
    page.click("#dw__login button[type=submit]")
    page.says("Logged in as")


def dokuwiki_with_php_fpm_from_seed_to_rollback(setting: Setting) -> str:
    steps, began = Steps(), time.monotonic()
    old, new = images(setting)
    steps.done.append(f"images {time.monotonic() - began:.1f} s")
    with Compose("dokuwiki") as compose:
        wiki = Wiki(compose)
        with steps.step("first seed, killed in it"):
            wiki.deploy(old, disturbed=" seeding ")
        with steps.step("install, log in, write, upload, edit, check"):
            wiki.install(setting)
            for text, path in (("/* by the user */", STYLE[1:]), ("// by the user", "conf/local.php")):
                compose.containers("php")[0].run("sh", "-c", f"echo '{text}' >>{path}", user="www-data")
            wiki.check()
        with steps.step(f"upgrade to {new}, killed in it, check"):
            wiki.deploy(new, disturbed="staging what differs")
            expect(wiki.version() == new, f"version {wiki.version()}")
            wiki.check()
        with steps.step("rollback, check"):
            wiki.deploy(new, replicas=0)
            wiki.deploy(old, ROLLBACK_FROM=new)
            expect(wiki.version() == old, f"version {wiki.version()}")
            wiki.check()
    return str(steps)


TESTS = [dokuwiki_with_php_fpm_from_seed_to_rollback]
