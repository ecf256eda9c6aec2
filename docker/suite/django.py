"""examples/django: three replicas of gunicorn, static files on the volume, a migration that cannot succeed at first."""

import os
import shutil
import time

from suite.browser import browser
from suite.kit import EXAMPLES, Compose, Running, Setting, eventually, expect
from suite.lab import build, debian
from suite.recipe import Steps, all_serve, none_serves
from suite.wordpress import PIXELS, picture

SITE = "library.test"
PASSWORD = "correct horse battery staple"
STYLE = "library/static/library/style.css"
UNIQUE_TITLES = '''from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("library", "0001_initial")]
    operations = [migrations.AlterField("document", "title", models.CharField(max_length=100, unique=True))]
'''


def images(setting: Setting) -> None:
    """Of two versions: the second one forbids two documents of the same title."""
    context = os.path.join(setting.scratch, "django")
    shutil.copytree(os.path.join(EXAMPLES, "django"), context)
    for tag in ("1.0", "1.1"):
        build(f"library:{tag}", context, "--build-arg", f"PYTHON={debian('apps')}", "--build-arg", f"TAG={tag}")
        build(f"library-web:{tag}", context, "-f", os.path.join(context, "web.Dockerfile"), "--build-arg", f"NGINX={debian('base')}", "--build-arg", f"TAG={tag}")
        app = os.path.join(context, "app")
        with open(os.path.join(app, "library/migrations/0002_unique_titles.py"), "w") as file:
            file.write(UNIQUE_TITLES)
        with open(os.path.join(app, STYLE), "a") as file:
            file.write("/* 1.1 */\n")


class Library:
    """The replicas, and the web server."""

    def __init__(self, compose: Compose):
        self.compose = compose

    def web(self) -> Running:
        return self.compose.containers("web")[0]

    def apps(self) -> list[Running]:
        return self.compose.containers("app")

    def deploy(self, version: str, replicas: int = 3, **variables: str) -> None:
        self.compose.variables |= {"TAG": version} | variables
        self.compose("up", "-d", "--scale", f"app={replicas}")

    def manage(self, *command: str) -> str:
        """In a container of its own, which neither seeds nor upgrades."""
        return self.compose("run", "--rm", "-u", "www-data", "app", "python3", "manage.py", *command)

    def visit(self, setting: Setting) -> None:
        file = os.path.join(setting.scratch, "django.png")
        picture(file)
        with browser(SITE, self.web().address()) as page:
            page.open("/admin/")
            page.fill(username="editor", password=PASSWORD)
            page.click("[type=submit]")
            page.says("Site administration")
            for _ in range(2):
                page.open("/admin/library/document/add/")
                page.fill(title="A document", file=file)
                page.click("[name=_save]")
                page.says("was added successfully")
        self.check()

    def check(self) -> None:
        with browser(SITE, self.web().address()) as page:
            page.open("/")
            page.says("A document")
            expect(page.shows("/media/django.png") == PIXELS, "the upload is not shown")
        for path in ("/.volseed/record.json", "/data/db.sqlite3"):
            expect(self.web().get(path)[0] == 404, f"the server shows {path}")


def django_from_seed_to_rollback(setting: Setting) -> str:
    steps, began = Steps(), time.monotonic()
    images(setting)
    steps.done.append(f"images {time.monotonic() - began:.1f} s")
    with Compose("django") as compose:
        library = Library(compose)
        with steps.step("first seed, migrate"):
            library.deploy("1.0")
            all_serve([library.web()], "Documents")
            expect(sum("hook=\"post-seed\"" in each.logs() for each in library.apps()) == 1, "not one of them has migrated")
            library.compose("exec", "-T", "-u", "www-data", "-e", f"DJANGO_SUPERUSER_PASSWORD={PASSWORD}", "app", "python3", "manage.py", "createsuperuser", "--noinput", "--username", "editor", "--email", "editor@library.test")
        with steps.step("log in, upload twice, check"):
            library.visit(setting)
        with steps.step("upgrade to 1.1, its migration fails"):
            library.deploy("1.1")
            eventually("a migration that fails, twice", lambda: sum(each.logs().count("call hook 'post-upgrade'") for each in library.apps()) > 1)
            none_serves([*library.apps(), library.web()])
        with steps.step("a document is removed, it succeeds, check"):
            library.manage("shell", "-c", "from library.models import Document; Document.objects.last().delete()")
            all_serve([library.web()], "A document")
            expect("1.1" in library.web().get("/static/library/style.css")[1], "the static files are the old ones")
            library.check()
        with steps.step("rollback, check"):
            library.deploy("1.1", replicas=0)
            library.manage("migrate", "library", "0001")
            library.deploy("1.0", ROLLBACK_FROM="1.1")
            all_serve([library.web()], "A document")
            expect("1.1" not in library.web().get("/static/library/style.css")[1], "the static files are the new ones")
            library.check()
    return str(steps)


TESTS = [django_from_seed_to_rollback]
