"""Runs tests and prints a table of them, with times."""

import os
import sys
import time
from typing import Callable, Sequence

from suite.kit import Skipped, Wrong


def title(test: Callable[..., str]) -> str:
    return test.__name__.replace("_", " ")


def chosen(tests: Sequence[Callable[..., str]], only: str) -> list[Callable[..., str]]:
    """Those whose name holds `only`."""
    return [test for test in tests if only in title(test)]


def run(tests: Sequence[Callable[..., str]], only: str, *arguments: object) -> bool:
    """The chosen ones; whether one failed, or there was none. With CI=true a skipped one has failed."""
    rows, failed = [], 0
    for test in chosen(tests, only):
        name, since = title(test), time.monotonic()
        try:
            result, note = "ok", test(*arguments)
        except Skipped as why:
            result, note = "skipped", str(why)
            failed += os.environ.get("CI") == "true"
        except Wrong as wrong:
            result, note = "FAILED", " ".join(str(wrong).split())
            failed += 1
        except Exception as wrong:
            result, note = "FAILED", f"{type(wrong).__name__}: {' '.join(str(wrong).split())}"
            failed += 1
        rows.append((name, result, f"{time.monotonic() - since:.1f}", note))
        print(f"{result}: {name} ({rows[-1][2]} s) {note}", file=sys.stderr)
    print("| test | | s | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return failed > 0 or not rows
