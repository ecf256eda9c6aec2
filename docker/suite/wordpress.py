"""examples/wordpress: WordPress on MariaDB, three replicas on one volume, from the first seed to a rollback."""

import functools
import os
import re
import struct
import time
import zlib

from suite.browser import Browser, browser
from suite.kit import Compose, Container, Running, Setting, docker, eventually, expect, run
from suite.lab import debian
from suite.recipe import Steps, all_serve, kill_the_one_that, none_serves, recipe, stand_in, throttle

SITE = "blog.test"
THEME = "/wp-content/themes/twentytwentythree/style.css"
PASSWORD = "correct horse battery staple"
PIXELS = 640


@functools.cache
def versions() -> tuple[str, str]:
    """Debian's, and the next one, which is made of it; their images are built."""
    found = run("docker", "run", "--rm", debian("apps"), "cat", "/usr/share/wordpress/wp-includes/version.php").stdout
    old = re.search(r"\$wp_version = '([\d.]+)'", found)[1]
    release, patch = old.rsplit(".", 1)
    new = f"{release}.{int(patch) + 1}"
    stand_in(f"wordpress:{old}", "wordpress")
    stand_in(f"wordpress:{new}", "wordpress", "next.Dockerfile", BEFORE=f"wordpress:{old}")
    for tag in (old, new):
        recipe(f"blog:{tag}", "wordpress", TAG=tag, VARIANT="")
    stand_in("mariadb", "mariadb")
    return old, new


def picture(path: str) -> None:
    """Writes a PNG of noise."""
    rows = b"".join(b"\0" + os.urandom(3 * PIXELS) for _ in range(PIXELS))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", PIXELS, PIXELS, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def install(page: Browser) -> None:
    page.open("/")
    page.fill(weblog_title="A blog on a volume", user_login="editor", pass1=PASSWORD, admin_email="editor@blog.test")
    page.click("#submit")
    page.says("Success!")


def log_in(page: Browser) -> None:
    page.open("/wp-login.php")
    page.fill(user_login="editor", user_pass=PASSWORD)
    page.click("#wp-submit")
    page.find("#wpadminbar")


def upload(page: Browser, file: str) -> str:
    """Uploads a picture; its path on the site."""
    page.open("/wp-admin/media-new.php?browser-uploader")
    page.fill(**{"async-upload": file})
    page.click("#html-upload")
    page.open("/wp-admin/upload.php?mode=list")
    page.click("#the-list .column-title a")
    address = page.find("#attachment_url").get_attribute("value")
    return address.removeprefix(f"http://{SITE}")


class Blog:
    """The replicas, and what a user has made of them."""

    def __init__(self, compose: Compose):
        self.compose = compose
        self.picture = ""

    def replicas(self) -> list[Running]:
        return self.compose.containers("wordpress")

    def sql(self, statement: str) -> str:
        [db] = self.compose.containers("db")
        return db.run("mariadb", "-N", "wordpress", "-e", statement).strip()

    def schema(self) -> str:
        return self.sql("SELECT option_value FROM blog_options WHERE option_name = 'db_version'")

    def edit(self) -> None:
        """What a user does to files: a theme, the server's rules, the settings."""
        for path, text in (("." + THEME, "/* by the user */"), (".htaccess", 'Header set X-By "the user"'), ("wp-config.php", "// by the user")):
            self.replicas()[0].run("sh", "-c", f"echo '{text}' >>{path}", user="www-data")
        self.settings = self.replicas()[0].run("cat", "wp-config.php")

    def check(self) -> None:
        """All of it is there, through each of the web servers, and through one of them in a browser."""
        for each in self.replicas():
            expect("/* by the user */" in each.get(THEME, SITE)[1], "the theme is not the user's")
            expect(each.run("cat", "wp-config.php") == self.settings, "wp-config.php differs")
            headers = run("curl", "-sI", "-H", f"Host: {SITE}", f"http://{each.address()}/readme.html").stdout
            expect("X-By: the user" in headers, f".htaccess is not the user's: {headers}")
            expect(each.get("/.volseed/record.json", SITE)[0] in (403, 404), "the server shows .volseed")
            expect("Hello world!" in each.get("/", SITE)[1], "the page is not there")
            expect(each.get(self.picture, SITE)[0] == 200, "the picture is not there")
        with browser(SITE, self.replicas()[-1].address()) as page:
            page.open("/")
            page.says("Hello world!")
            expect(page.shows(self.picture) == PIXELS, f"the picture is not shown: {page.text()[:200]}")
            log_in(page)
            page.open("/wp-admin/upload.php?mode=list")
            page.says("mine")

    def version(self) -> str:
        return re.search(r"\$wp_version = '([\d.]+)'", self.replicas()[0].run("cat", "wp-includes/version.php"))[1]

    def deploy(self, version: str, replicas: int = 3, **variables: str) -> list[Running]:
        self.compose.variables |= {"TAG": version} | variables
        self.compose("up", "-d", "--scale", f"wordpress={replicas}")
        return self.replicas()


def first_seed(blog: Blog) -> None:
    """Three replicas that are slow enough to be disturbed; the one that seeds is killed."""
    blog.compose("up", "-d", "db")
    blog.compose("up", "--no-start", "--scale", "wordpress=3", "wordpress")
    replicas = [Running(each) for each in blog.compose("ps", "-a", "-q", "wordpress").split()]
    throttle(replicas, 0.03)
    for each in replicas:
        each.start()
    killed = kill_the_one_that(" seeding ", replicas)
    root = blog.compose.volume("site")
    expect(not os.path.exists(os.path.join(root, "wp-includes/version.php")), "the kill came after the seed")
    throttle(replicas, 0)
    all_serve(replicas, "WordPress", "/wp-admin/install.php", SITE)
    expect(sum("INFO seeded " in each.logs() for each in replicas) == 1, "not one of them has seeded")
    eventually("its restart", lambda: docker("inspect", "-f", "{{.RestartCount}}", killed.id) == "1")
    verified = run("docker", "exec", replicas[0].id, "volseed", "verify", check=False).stdout
    # Docker has put these on the volume, from the official image: they keep its mode.
    theirs = {"wp-content", "wp-content/plugins", "wp-content/themes"}
    expect(set(re.findall(r"^meta +(\S+)$", verified, re.M)) == theirs and "3 meta;" in verified, verified)
    salts = {each.run("cat", "wp-config.php") for each in replicas}
    expect(len(salts) == 1 and "put your unique" not in salts.pop(), "wp-config.php")


def first_visit(blog: Blog, setting: Setting) -> None:
    file = os.path.join(setting.scratch, "mine.png")
    picture(file)
    with browser(SITE, blog.replicas()[0].address()) as page:
        install(page)
        log_in(page)
        blog.picture = upload(page, file)
    blog.edit()
    blog.check()


def failed_migration(blog: Blog, old: str, new: str) -> None:
    """The database refuses to be written: the files are the new version's, and no app starts, of either version."""
    schema = blog.schema()
    blog.compose.variables["TAG"] = new
    plan = blog.compose("run", "--rm", "wordpress", "volseed", "plan", check=False)
    expect(re.search(rf"would be upgraded from {old} to {new}", plan) and re.search("^keep .*twentytwentythree/style.css", plan, re.M), plan[-500:])
    blog.sql("SET GLOBAL read_only = 1")
    replicas = blog.deploy(new)
    eventually("a migration that fails, twice", lambda: sum(each.logs().count("call hook 'post-upgrade'") for each in replicas) > 1)
    expect(blog.schema() == schema, "it has migrated")
    none_serves(replicas, host=SITE)
    mount, network = f"{blog.compose.project}_site:/var/www/html", f"{blog.compose.project}_default"
    with Container(f"blog:{old}", "-v", mount, "--network", network, "-e", "VOLSEED_WAIT_TIMEOUT=3s") as before:
        expect(before.ends() == 75 and "handing over" not in before.logs(), f"the old version: {before.logs()[-500:]}")
    expect("owes" in run("docker", "run", "--rm", "-v", mount, f"blog:{new}", "volseed", "status").stdout, "status does not say it")
    none_serves(replicas, host=SITE)


def succeeding_migration(blog: Blog, new: str) -> None:
    schema = int(blog.schema())
    blog.sql("SET GLOBAL read_only = 0")
    all_serve(blog.replicas(), "Hello world!", host=SITE)
    expect(int(blog.schema()) == schema + 1 and blog.version() == new, f"{blog.schema()}, {blog.version()}")
    blog.check()


def rollback(blog: Blog, old: str, new: str) -> None:
    schema = int(blog.schema())
    blog.deploy(new, replicas=0)
    all_serve(blog.deploy(old, ROLLBACK_FROM=new), "Hello world!", host=SITE)
    expect(int(blog.schema()) == schema - 1 and blog.version() == old, f"{blog.schema()}, {blog.version()}")
    blog.check()


def wordpress_with_mariadb_from_seed_to_rollback(setting: Setting) -> str:
    steps, began = Steps(), time.monotonic()
    old, new = versions()
    steps.done.append(f"images {time.monotonic() - began:.1f} s")
    extra = "define('WP_HTTP_BLOCK_EXTERNAL', true); $table_prefix = 'blog_';"
    with Compose("wordpress", TAG=old, DB_IMAGE="mariadb", CONFIG_EXTRA=extra) as compose:
        blog = Blog(compose)
        with steps.step("first seed, killed in it"):
            first_seed(blog)
        with steps.step("install, log in, upload, edit, check"):
            first_visit(blog, setting)
        with steps.step(f"upgrade to {new}, its migration fails"):
            failed_migration(blog, old, new)
        with steps.step("it succeeds, check"):
            succeeding_migration(blog, new)
        with steps.step("rollback, check"):
            rollback(blog, old, new)
    return str(steps)


TESTS = [wordpress_with_mariadb_from_seed_to_rollback]
