"""The commands in docs/, as a reader would run them."""

import re

from suite.kit import REPOSITORY, Setting, expect, run


def the_commands_in_docs_do_what_the_pages_say(setting: Setting) -> str:
    """Each block of a page that is fenced as `sh run`; tests/docs/commands.rs runs them, and says how long each page took."""
    ran = run("cargo", "test", "--locked", "--quiet", "--test", "docs", "--", "--nocapture", "the_commands", cwd=REPOSITORY)
    pages = sorted(re.findall(r"page (\S+)\.md: (\d+) blocks, ([0-9.]+ s)", ran.stdout + ran.stderr))
    expect(bool(pages), "no page has commands")
    return f"{sum(int(blocks) for _, blocks, _ in pages)} blocks: " + ", ".join(f"{name} {took}" for name, _, took in pages)


TESTS = [the_commands_in_docs_do_what_the_pages_say]
