"""examples/nextcloud, matomo and jenkins: the layouts of their official images, with a few files in the place of the apps.

What the stock entry point still does, what the hook does in its place, what an upgrade keeps and protects.
"""

import functools

from suite.kit import Container, Setting, docker, eventually, expect, volume
from suite.recipe import recipe, stand_in

HOME = "/var/www/html"


@functools.cache
def images(name: str, official: str, old: str, new: str) -> None:
    for tag in (old, new):
        stand_in(f"{official}:{tag}", name, TAG=tag)
        recipe(f"our-{name}:{tag}", name, TAG=tag, VARIANT="")


def opened(container: Container, text: str, path: str = "/", port: str = "") -> str:
    """Waits until it serves this; its log."""
    eventually(lambda: f"{text!r}; it said: {container.logs()[-500:]}", lambda: text in container.get(path, port=port)[1])
    expect("stock entry point copies" not in container.logs(), "the stock entry point copies")
    return container.logs()


def nextcloud_is_installed_and_upgraded_by_its_hook(setting: Setting) -> str:
    old, new = "31.0.9", "32.0.3"
    images("nextcloud", "nextcloud", old, new)
    with volume() as site:
        options = ("-v", f"{site}:{HOME}", "-e", "NEXTCLOUD_ADMIN_USER=admin", "-e", "NEXTCLOUD_ADMIN_PASSWORD=secret")
        options += tuple(f"-eMYSQL_{name}=nextcloud" for name in ("HOST", "DATABASE", "USER", "PASSWORD"))
        with Container(f"our-nextcloud:{old}", *options) as app:
            expect("before-starting" in opened(app, f"open: {old}"), "the stock entry point did not run")
            expect(f'"installed":true,"maintenance":false,"version":"{old}"' in app.get("/status.php")[1], app.get("/status.php")[1])
            app.run("sh", "-c", "echo '// mine' >>config/apps.config.php; echo mine >data/file; rm themes/README", user="www-data")
        with Container(f"our-nextcloud:{new}", *options) as app:
            opened(app, f"open: {new}")
            expect(f'"maintenance":false,"version":"{new}"' in app.get("/status.php")[1], app.get("/status.php")[1])
            tree = app.run("sh", "-c", "cat config/apps.config.php data/file; ls lib themes")
            expect(f"// {old}\n// mine\nmine\n" in tree and f"only-{old}" not in tree and "README" not in tree, tree)
        # A jump over a major version.
        with Container(f"our-nextcloud:{new}", "-v", f"{site}:{HOME}", "-e", "VOLSEED_SEED_VERSION=34.0.0", "-e", "VOLSEED_UPGRADE=33.*") as app:
            expect(app.ends() == 78, f"a jump: {app.logs()[-300:]}")
    return "installed, upgraded, config and data protected, no jump over a version"


def matomo_is_upgraded_by_its_hook(setting: Setting) -> str:
    old, new = "5.4.0", "5.5.1"
    images("matomo", "matomo", old, new)
    with volume() as site:
        options = ("-v", f"{site}:{HOME}")
        with Container(f"our-matomo:{old}", *options) as app:
            opened(app, f"open: {old}")
            app.run("sh", "-c", "echo '; mine' >config/config.ini.php; echo '// mine' >>plugins/Goals/Goals.php; mkdir plugins/Mine", user="www-data")
        with Container(f"our-matomo:{new}", *options) as app:
            opened(app, f"open: {new}")
            tree = app.run("sh", "-c", "cat tmp/updated config/*.php plugins/Goals/Goals.php; ls plugins")
            expect(f"to {new}; mine\n; {new}\n<?php // {old}\n// mine\nGoals\nMine\n" == tree, tree)
    return "core:update called, a changed plugin kept"


def jenkins_gets_its_reference_files_from_us(setting: Setting) -> str:
    old, new = "2.516.1", "2.528.2"
    images("jenkins", "jenkins/jenkins", old, new)
    with volume() as home:
        options = ("-v", f"{home}:/var/jenkins_home")
        with Container(f"our-jenkins:{old}", *options) as app:
            opened(app, "open", "/login", ":8080")
            expect(app.run("stat", "-c", "%U", "/var/jenkins_home/config.xml", "/var/jenkins_home/.volseed") == "jenkins\njenkins\n", "another owner")
            app.run("sh", "-c", "cd /var/jenkins_home; echo 'git 9' >plugins/git.jpi; echo '<mine/>' >config.xml; mkdir jobs", user="jenkins")
        with Container(f"our-jenkins:{new}", *options) as app:
            opened(app, "open", "/login", ":8080")
            tree = app.run("sh", "-c", "cd /var/jenkins_home; cat config.xml plugins/* init.groovy.d/*; ls -d jobs")
            expect(f"<mine/>\ngit 9\nmailer {new}\nexecutors {new}\njobs\n" == tree, tree)
            docker("stop", app.id)
            expect(app.state()["ExitCode"] in (0, 143), f"exit {app.state()['ExitCode']}")
    return "as user 1000; a plugin updated by a user kept, the others upgraded"


TESTS = [
    nextcloud_is_installed_and_upgraded_by_its_hook,
    matomo_is_upgraded_by_its_hook,
    jenkins_gets_its_reference_files_from_us,
]
