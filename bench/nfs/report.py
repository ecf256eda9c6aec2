"""What the lab's rows amount to: tables, targets met or missed, and the saved results.

A row is a dict with the scenario, its settings, and either a tool with what was measured, a fact with its value, a
fault with what came of it, or the mark that the scenario has ended.
Knows nothing of the guest.
"""

import fcntl
import glob
import json
import os
from typing import Callable, Iterable, NamedTuple

from kit import measure, setting

from lab import COMMON

RESULTS = os.path.join(setting.REPOSITORY, "bench", "results")
# Settings that only say how the machine is made.
MACHINE = ("memory", "limit", "tools", "faults", "phases")
# Scenarios that make their own source.
TREELESS = ("large", "faults", "upgrade-killed")
# Peers that use as many workers as volseed.
PARALLEL = ("64 × ", "fpsync", "xcp")

Row = dict
Rows = list[Row]


def variant(row: Row) -> dict[str, str]:
    """The settings of every scenario in which this row differs from the others. Older rows do not name those that came later."""
    usually = {**COMMON, "tree": "", "share": "1"}
    return {
        name: value
        for name, value in row["settings"].items()
        if name not in (*MACHINE, "slots") and name in usually and value != usually[name]
    }


def key(row: Row) -> tuple:
    """What a newer row replaces."""
    own = {name: value for name, value in row["settings"].items() if name not in (*MACHINE, *COMMON, "share")}
    slots = row["settings"].get("slots", "64")
    settings = tuple(sorted({**own, **variant(row), "slots": slots}.items()))
    return row["scenario"], settings, row.get("tool"), row.get("fact"), row.get("fault"), row.get("phase")


def merged(older: Rows, newer: Rows) -> Rows:
    return list({key(row): row for row in [*older, *newer]}.values())


def of_today(rows: Rows, scenario: str, settings: dict[str, str], date: str, binary: str) -> Rows:
    """What was measured of a scenario today, by this binary if it is volseed's."""
    wanted = key({"scenario": scenario, "settings": settings})
    found = [row for row in rows if key(row)[:2] == wanted[:2] and row["date"] == date]
    return [row for row in found if row.get("binary") == binary or not row.get("tool", "volseed").startswith("volseed")]


def saved() -> Rows:
    """The rows of the newest saved results."""
    paths = sorted(glob.glob(os.path.join(RESULTS, "nfs-*.jsonl")))
    return [json.loads(line) for line in open(paths[-1])] if paths else []


def save(newer: Rows, date: str, page: Callable[[Rows], str]) -> None:
    """Adds to the newest saved results, which another run may be adding to as well."""
    os.makedirs(RESULTS, exist_ok=True)
    folder = os.open(RESULTS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = merged(saved(), newer)
        path = os.path.join(RESULTS, f"nfs-{date}")
        with open(path + ".jsonl", "w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with open(path + ".md", "w") as file:
            file.write(page(rows))
    finally:
        os.close(folder)


def title(row: Row) -> str:
    """Rows of one title share a table: a round trip's peers stand beside volseed."""
    settings = dict(row["settings"])
    if row["scenario"] in ("corpus", "peers"):
        flags = [settings["flags"]] if settings.get("flags") else []
        return ", ".join([tree(row), f"{settings['rtt']} ms", *flags, *place(row)])
    own = [f"{name}={value}" for name, value in settings.items() if name not in (*MACHINE, *COMMON, "tree", "share") and value]
    source = [] if row["scenario"] in TREELESS else [tree(row)]
    return ": ".join([" ".join([row["scenario"], *own]), ", ".join([*source, *place(row)])])


def headline(rows: Rows) -> str:
    """What a page is about: each version, export, mount and tree that its rows were measured with."""
    measured = [row for row in rows if "ended" not in row]
    trees = dict.fromkeys(tree(row) for row in measured if row["scenario"] not in TREELESS)
    places = dict.fromkeys(" ".join(place(row)) for row in measured)
    dates = sorted({row["date"] for row in measured})
    return f"# {' and '.join(trees)} onto {'; '.join(places)}, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"


def tree(row: Row) -> str:
    """What was copied."""
    whole = row["settings"].get("tree") or "the corpus"
    share = row["settings"].get("share", "1")
    return {"1": whole, "5": f"a fifth of {whole}"}.get(share, f"a {share}th of {whole}")


def place(row: Row) -> list[str]:
    """Onto what it was copied: the protocol's version, the export, and what differs from the usual mount."""
    settings = {**COMMON, **row["settings"]}
    slots = [] if settings["slots"] == "64" else [f"{settings['slots']} requests in flight"]
    mount = [f"mounted with {settings['mount']}"] if settings["mount"] else []
    return [f"NFSv{settings['version']}", settings["export"], *mount, *slots]


def usual(row: Row, share: str = "1") -> bool:
    """Measured with as many requests in flight as the client asks for, no flags but its own, and this share of the corpus."""
    alike = {**row, "settings": {**row["settings"], "share": "1"}}
    same_share = row["settings"].get("share", "1") == share
    return same_share and row["settings"].get("slots", "64") == "64" and not row["settings"].get("flags") and not variant(alike)


def sections(rows: Rows) -> str:
    return "\n".join(section(name, rows) for name in dict.fromkeys(title(row) for row in rows))


def section(name: str, rows: Rows) -> str:
    return f"## {name}\n\n{table([row for row in rows if title(row) == name])}"


def table(rows: Rows) -> str:
    measured = [row for row in rows if "tool" in row]
    ours = next((row["seconds"] for row in measured if row["tool"] == "volseed"), None)
    cells = [
        [
            row["tool"],
            row["keeps"],
            row["workers"] or "",
            row["files"],
            row["rpcs"],
            f"{row['rpcs'] / row['files']:.2f}" if row["files"] else "",
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / ours:.1f}" if ours else "",
            row["date"],
        ]
        for row in sorted(measured, key=lambda row: not row["tool"].startswith("volseed"))
    ]
    lines = [measure.table(["", "keeps", "workers", "files", "RPCs", "RPCs a file", "virtual s", "×", "measured"], cells), ""] if cells else []
    struck = [row for row in rows if "fault" in row]
    lines += [faults(struck), ""] if struck else []
    lines += [f"- WRONG: {row['fault']}, {row['phase']}: {line}" for row in struck for line in row["wrong"]]
    facts = [row for row in rows if "fact" in row]
    lines += [f"- {row['fact']}: {row['value']}" for row in facts]
    lines += [f"- WRONG: {line}" for row in facts for line in row.get("wrong", ())]
    for row in measured:
        if row["tool"].startswith("volseed"):
            lines.append(f"- {row['tool']}: " + ", ".join(f"{name} {count}" for name, count in row["ops"].items()))
        lines += [f"- WRONG: {row['tool']}: {line}" for line in row["wrong"]]
    return "\n".join(lines) + "\n"


def faults(struck: Rows) -> str:
    """Each fault and phase: how the run ended that it struck, and the others."""
    heads = ["fault", "phase", "exit code", "virtual s after it", "while it lasts", "the next run, s", "says"]
    cells = [
        [
            *(row["fault"], row["phase"], row["code"], f"{row['ended']:.2f}"),
            "" if row["lasting"] is None else row["lasting"],
            f"{row['next']:.2f}",
            row["said"].replace("|", "\\|"),
        ]
        for row in struck
    ]
    return measure.table(heads, cells)


class Missing(Exception):
    """A target speaks of a row that was not measured."""


class Target(NamedTuple):
    says: str
    measured: Callable[["Finder"], float]
    # At most, or at least where `least`.
    limit: float
    unit: str = ""
    least: bool = False


class Finder:
    def __init__(self, rows: Rows):
        self.rows = [row for row in rows if usual(row)]

    def row(self, scenario: str, rtt: str, tool: str) -> Row:
        for row in self.rows:
            if (row["scenario"], row["settings"]["rtt"], row.get("tool")) == (scenario, rtt, tool):
                return row
        raise Missing

    def fact(self, scenario: str, name: str, **settings: str) -> float:
        for row in self.rows:
            if row["scenario"] == scenario and row.get("fact") == name and settings.items() <= row["settings"].items():
                try:
                    return float(row["value"])
                except ValueError:
                    return float("nan")
        raise Missing

    def seconds(self, rtt: str, tool: str = "volseed", scenario: str = "corpus") -> float:
        return self.row(scenario, rtt, tool)["seconds"]

    def calls_a_file(self, tool: str) -> float:
        row = self.row("corpus", "3", tool)
        return row["rpcs"] / row["files"]

    def fastest_parallel(self, rtt: str) -> float:
        found = [
            row["seconds"]
            for row in self.rows
            if row["scenario"] == "peers" and row["settings"]["rtt"] == rtt and row.get("tool", "").startswith(PARALLEL) and not row["wrong"]
        ]
        if not found:
            raise Missing
        return min(found)


def restart_share(found: Finder) -> float:
    again, full = (found.row("restart", "3", tool) for tool in ("volseed, killed at half, again", "volseed"))
    return 100 * again["rpcs"] / full["rpcs"]


def more_for_data(found: Finder) -> float:
    data, listing = (found.fact("manifest", f"{verb}, RPCs") for verb in ("verify --digest", "verify"))
    return (data - listing) / found.row("manifest", "3", "volseed")["files"]


def waiters_rpcs(found: Finder) -> float:
    return max(found.row("replicas-together", "3", f"volseed, {which} waiter")["rpcs"] for which in ("first", "second"))


def not_one(scenario: str, **settings: str) -> Callable[[Finder], float]:
    """How many seeds there were beyond one, or short of it."""
    return lambda found: abs(found.fact(scenario, "seeds", **settings) - 1)


TARGETS = (
    *(Target(f"corpus, {rtt} ms round trip", lambda found, rtt=rtt: found.seconds(rtt), limit, "s") for rtt, limit in (("3", 8), ("10", 12), ("30", 28))),
    Target("tar, tar at 3 ms", lambda found: found.seconds("3", "tar | tar, chown -R", "peers") / found.seconds("3"), 39, "×", least=True),
    Target("fastest parallel peer at 3 ms", lambda found: found.fastest_parallel("3") / found.seconds("3"), 7, "×", least=True),
    Target("RPCs a file", lambda found: found.calls_a_file("volseed"), 4.6),
    Target("RPCs a file, --no-times", lambda found: found.calls_a_file("volseed --no-times"), 3.5),
    Target("tar.gz at 10 ms, by the directory", lambda found: found.seconds("10", "volseed, tar.gz") / found.seconds("10"), 1.15, "×"),
    Target("tar at 10 ms, by the directory", lambda found: found.seconds("10", "volseed, tar") / found.seconds("10"), 1.15, "×"),
    Target("seeded volume: decide and exec", lambda found: found.row("restart", "3", "volseed run, seeded")["rpcs"], 12, "RPCs"),
    Target("verify, 1,683 directories", lambda found: found.fact("manifest", "verify, RPCs"), 3 * 1683 + 10, "RPCs"),
    Target("verify", lambda found: found.fact("manifest", "verify, s"), 1.5, "s"),
    Target("verify --digest, more for each file", more_for_data, 3, "RPCs"),
    Target("killed at half: the restart's RPCs", restart_share, 60, "%"),
    Target(
        "2 GiB in one file at 10 ms: cp",
        lambda found: found.seconds("10", "cp -a, chown -R", "large") / found.seconds("10", scenario="large"),
        5,
        "×",
        least=True,
    ),
    Target("server gone: health requests unanswered", lambda found: found.fact("outage", "of these unanswered"), 0),
    Target("server gone: slowest health answer", lambda found: found.fact("outage", "slowest answer, s"), 1, "s"),
    Target("server gone: /livez 503 after, stall 60 s", lambda found: found.fact("outage", "/livez turned 503 after, s"), 65, "s"),
    Target("server gone: SIGTERM to gone", lambda found: found.fact("outage", "SIGTERM in the outage: gone after, s"), 1, "s"),
    Target("full volume: 73 less its exit code", lambda found: abs(73 - found.fact("full", "exit code on a full volume")), 0),
    Target("three replicas at once: seeds but one", not_one("replicas-together"), 0),
    Target("three replicas at once: RPCs of a waiter", waiters_rpcs, 150),
    Target("seeding replica killed: seeds but one", not_one("replicas-killed"), 0),
    Target("seeding replica killed: taken over after", lambda found: found.fact("replicas-killed", "taken over after the kill, s"), 5, "s"),
    *(
        target
        for back, when in (("done", "after the seed"), ("amid", "amid the seed"))
        for target in (
            Target(
                f"seeding replica cut off, back {when}: taken over after",
                lambda found, back=back: found.fact("replicas-cut", "taken over after the cut, s", back=back),
                20,
                "s",
            ),
            Target(f"seeding replica cut off, back {when}: seeds but one", not_one("replicas-cut", back=back), 0),
        )
    ),
    Target("cut off and late: entries that it changed", lambda found: found.fact("replicas-cut", "entries that the late holder changed", back="done"), 0),
    Target("two hosts of one name: seeds but one", not_one("replicas-same-name"), 0),
    Target("server restarted amid a seed: seeds but one", not_one("replicas-server-restart"), 0),
)


def targets(rows: Rows) -> str:
    """Each target that the rows speak of, met or not; and every tree that is not the source's."""
    found, cells = Finder(rows), []
    for target in TARGETS:
        try:
            value = target.measured(found)
        except Missing:
            continue
        met = value >= target.limit if target.least else value <= target.limit
        sign = "≥" if target.least else "≤"
        shown = f"{value:.2f}".rstrip("0").rstrip(".")
        cells.append([target.says, f"{shown} {target.unit}".strip(), f"{sign} {target.limit:g} {target.unit}".strip(), "met" if met else "falls short"])
    trees = [row for row in rows if "tool" in row]
    wrong = sum(bool(row["wrong"]) for row in trees)
    cells.append(["trees that are not what their tool keeps", f"{wrong} of {len(trees)}", "none", "falls short" if wrong else "met"])
    return "## Targets\n\n" + measure.table(["", "measured", "target", ""], cells) + "\n"


def used(rows: Iterable[Row]) -> list[str]:
    """The versions that the rows were measured with, each once."""
    return list(dict.fromkeys(version for row in rows for version in row["versions"]))
