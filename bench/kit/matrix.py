"""Which feature of a seed each kind of volume keeps: measured, and as a table.

Owns what counts as right: a feature is kept; or it is lost or copied, and the one warning says so; or it is refused with
78, or 73 where it is too large, by its name, before anything is published. The second start finds the seed, and --strict
refuses where something is lost. Everything else is a problem of the row.
"""

import contextlib
import errno
import json
import os
import platform
import re
import subprocess
from typing import Iterable, NamedTuple

from kit import features, kinds, measure, setting, tree
from kit.features import COPIED, FEATURES, KEPT, LOST, REFUSED, Feature

CONFLICT, NO_PERMISSION, TOO_LARGE = 78, 77, 73
FORMS = ("directory", "archive")
TIMEOUT = 300
ATTEMPTS = 6
# What is on a volume's root that no seed has put there.
OURS = {".volseed", "lost+found"}
NOT_MEASURED = "–"
DIED = "the mount died"
UNTOLD = "lost, not told"


class Row(NamedTuple):
    name: str
    title: str
    # By the feature's key.
    cells: dict[str, str]
    # What it ended with where nothing could be seeded.
    said: str
    problems: list[str]
    # What it was measured with: volseed and the kernel.
    measured: str


class Run(NamedTuple):
    code: int
    lines: list[dict]

    def warnings(self) -> list[str]:
        return [line["message"] for line in self.lines if line.get("level") == "WARN"]

    def losses(self) -> list[str]:
        return [text for text in self.warnings() if "does not keep all of the seed" in text]

    def has_one_owner(self) -> bool:
        """It said, though not as a warning, that the server gives everything to one user."""
        return any("owner_of_everything" in line for line in self.lines)

    def said(self) -> str:
        """The error, with its help."""
        errors = [line for line in self.lines if line.get("level") == "ERROR"]
        return " ".join(filter(None, (errors[-1].get("message"), errors[-1].get("help")))) if errors else ""

    def found_a_seed(self) -> bool:
        return any(line.get("message") == "already seeded" for line in self.lines)


class Seeds:
    """Sources with chosen features: each made once."""

    def __init__(self, root: str):
        self.root = root
        self.made: dict[tuple, str] = {}

    def path(self, form: str, chosen: list[Feature], reader: int) -> str:
        key = (tuple(feature.key for feature in chosen), reader)
        if key not in self.made:
            self.made[key] = os.path.join(self.root, str(len(self.made)))
            features.source(self.made[key], chosen, reader)
            features.archive(self.made[key], self.made[key] + ".tar")
        return self.made[key] + (".tar" if form == "archive" else "")

    def scan(self, feature: Feature, reader: int) -> tree.Tree:
        return features.scan(self.path("directory", [feature], reader), feature)


class Measured:
    """One kind of volume under measurement."""

    def __init__(self, kind: kinds.Kind, scratch: str, volseed: str, seeds: Seeds):
        self.kind, self.scratch, self.volseed, self.seeds = kind, scratch, volseed, seeds
        self.mounted = contextlib.ExitStack()
        self.reader = 1000 if kind.caller == kinds.AS_USER else 0
        self.volumes = 0
        self.problems: list[str] = []

    def __enter__(self) -> "Measured":
        self.used_up = False
        self.place = self.mounted.enter_context(self.kind.mount(self.scratch))
        return self

    def __exit__(self, *_: object) -> None:
        self.mounted.close()

    def row(self) -> Row:
        if self.kind.refuses:
            plain = self.seed("directory", FEATURES[:1], self.volume())
            if plain.code != self.kind.refuses or not plain.said():
                self.problem("files", f"exit {plain.code} in place of {self.kind.refuses}: {plain.said()}")
            return self.ended({}, f"{plain.code}: {plain.said()}")
        found = [self.form(form) for form in FORMS]
        cells = {key: cell if cell == found[1][key] else f"{cell} / {found[1][key]}" for key, cell in found[0].items()}
        return self.ended(cells)

    def form(self, form: str) -> dict[str, str]:
        """One seed with all features; with one less for each that is refused."""
        chosen = [feature for feature in FEATURES if feature.key not in self.kind.without]
        without: dict[str, str] = {}
        if self.kind.fragile:
            without = self.one_by_one(form, chosen)
        while chosen:
            volume, run = self.attempt(form, chosen)
            if run.code == 0 or not (culprit := self.culprit(run, chosen)):
                break
            chosen.remove(culprit)
            without[culprit.key.decode()] = self.refusal(culprit, form, run, volume)
        if run.code:
            self.problem(form, f"exit {run.code}: {run.said()}")
        else:
            self.place.remount()
        verdicts = {feature: f"exit {run.code}" if run.code else self.judge(feature, volume) for feature in chosen}
        cells = without | {feature.key.decode(): self.told(form, feature, verdicts, run) for feature in chosen}
        if not run.code:
            self.again(form, chosen, volume, run)
        return {feature.key.decode(): cells.get(feature.key.decode(), NOT_MEASURED) for feature in FEATURES}

    def one_by_one(self, form: str, chosen: list[Feature]) -> dict[str, str]:
        """Takes what is refused out of the features that are chosen."""
        without = {}
        for feature in list(chosen):
            volume, run = self.attempt(form, [feature])
            if run.code:
                chosen.remove(feature)
                without[feature.key.decode()] = self.refusal(feature, form, run, volume)
        return without

    def culprit(self, run: Run, chosen: list[Feature]) -> Feature | None:
        """The feature that an error is about: its directory is the first in the entry's path."""
        named = re.search(r"'([a-z0-9-]+)/", run.said())
        return next((feature for feature in chosen if named and feature.key.decode() == named[1]), None)

    def refusal(self, feature: Feature, form: str, run: Run, volume: kinds.Place) -> str:
        where = f"{feature.title}, {form}"
        if self.has_ended():
            self.problem(where, f"the file system ended: {run.said()}")
            return DIED
        published = set(os.listdir(volume.look)) - OURS
        if published:
            self.problem(where, f"refused after it was published: {sorted(published)}")
        if run.code == CONFLICT:
            return REFUSED
        if (feature.key, run.code) == (b"large", TOO_LARGE):
            return f"{REFUSED} ({TOO_LARGE})"
        self.problem(where, f"exit {run.code}: {run.said()}")
        return f"exit {run.code}"

    def told(self, form: str, feature: Feature, verdicts: dict[Feature, str], run: Run) -> str:
        """The verdict, with what the warning has to say of it."""
        verdict, where = verdicts[feature], f"{feature.title}, {form}"
        told = [text for text in run.losses() if feature.word and feature.word in without_names(text)]
        alike = [verdict for other, verdict in verdicts.items() if other.word == feature.word]
        if told and not any(map(features.is_loss, alike)):
            self.problem(where, f"{verdict}, and yet the warning says: {told[0]}")
        is_said = told or feature.key == b"owners" and run.has_one_owner()
        if features.is_loss(verdict) and not is_said:
            self.problem(where, f"{verdict}, and no warning says so: {run.warnings()}")
            return UNTOLD
        return verdict

    def again(self, form: str, chosen: list[Feature], volume: kinds.Place, first: Run) -> None:
        """Its second start; and the same under --strict."""
        if len(first.losses()) > 1:
            self.problem(form, f"more than one warning: {first.losses()}")
        if first.losses() and "'" not in first.losses()[0]:
            self.problem(form, f"the warning names nothing: {first.losses()[0]}")
        second = self.seed(form, chosen, volume)
        if self.kind.fragile and self.has_ended():
            return
        if second.code or not second.found_a_seed() or second.warnings():
            self.problem(form, f"second start: exit {second.code}, {second.warnings()} {second.said()}")
        strict = self.attempt(form, chosen, "--strict")[1]
        expected = NO_PERMISSION if first.losses() else 0
        if strict.code != expected:
            self.problem(form, f"--strict: exit {strict.code} in place of {expected}: {strict.said()}")

    def has_ended(self) -> bool:
        """Whether there is no file system any more: one in user space meets its own bugs."""
        try:
            os.listdir(self.place.path)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            return True
        return False

    def ended(self, cells: dict[str, str], said: str = "") -> Row:
        measured = f"{setting.first_line(self.volseed, '--version')}, Linux {platform.release()}"
        said, *problems = [re.sub(r"/\S*/mount-\w+(/[\w.-]+-\d+)?", "/volume", text) for text in (said, *self.problems)]
        return Row(self.kind.name, self.kind.title, cells, said, problems, measured)

    def judge(self, feature: Feature, volume: kinds.Place) -> str:
        return features.verdict(feature, self.seeds.scan(feature, self.reader), features.scan(volume.look, feature))

    def attempt(self, form: str, chosen: list[Feature], *flags: str) -> tuple[kinds.Place, Run]:
        """A seed onto a volume of its own; a few of them where the file system ends by itself."""
        for _ in range(ATTEMPTS if self.kind.fragile else 1):
            volume = self.volume()
            run = self.seed(form, chosen, volume, *flags)
            if not self.has_ended():
                break
        return volume, run

    def volume(self) -> kinds.Place:
        """An empty directory that stands for a volume."""
        if self.used_up or self.has_ended():
            self.mounted.close()
            self.__enter__()
        self.volumes += 1
        name = f"{self.kind.name}-{self.volumes}"
        look = os.path.join(self.place.look, name)
        parent = os.stat(self.place.look)
        os.mkdir(look)
        if (parent.st_uid, parent.st_gid) != (0, 0):
            os.chown(look, parent.st_uid, parent.st_gid)
        return kinds.Place(os.path.join(self.place.path, name), look)

    def seed(self, form: str, chosen: list[Feature], volume: kinds.Place, *flags: str) -> Run:
        source = self.seeds.path(form, chosen, self.reader)
        argv = [*self.kind.caller, self.volseed, "seed", "--from", source, "--to", volume.path, "--log", "json", *flags]
        try:
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=measure.environment(), timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as ended:
            lines = (ended.stderr or b"").decode("utf-8", "backslashreplace").splitlines()
            return Run(-1, [{"level": "ERROR", "message": f"no end within {TIMEOUT} s, and last: {lines[-1] if lines else 'nothing'}"}])
        text = ended.stderr.decode("utf-8", "backslashreplace")
        self.used_up = self.kind.fragile and ended.returncode != 0
        return Run(ended.returncode, [as_line(line) for line in text.splitlines()])

    def problem(self, where: str, what: str) -> None:
        self.problems.append(f"{self.kind.name}: {where}: {what}")


def without_names(text: str) -> str:
    return re.sub(r"\([^)]*\)", "", text)


def as_line(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError:
        return {"level": "ERROR", "message": text}


def title(key: str) -> str:
    return next(feature.title for feature in FEATURES if feature.key.decode() == key)


def table(rows: Iterable[Row]) -> str:
    """Rows that say the same of one family stand together."""
    head = ["", *(feature.title for feature in FEATURES)]
    lines: list[list[str]] = []
    for row in joined(rows):
        if row.said:
            lines.append([row.title, f"not seeded ({row.said.split(':')[0]})", *[""] * (len(FEATURES) - 1)])
        else:
            lines.append([row.title, *(row.cells[feature.key.decode()] for feature in FEATURES)])
    return measure.table(head, lines)


def joined(rows: Iterable[Row]) -> list[Row]:
    """`NFS 3, export` and `NFS 4.0, export` with the same cells are one row."""
    found: list[Row] = []
    for row in rows:
        for index, other in enumerate(found):
            same = (other.cells, other.said) == (row.cells, row.said)
            if same and row.title.startswith("NFS ") and other.title.partition(",")[2] and other.title.endswith(row.title.partition(",")[2]):
                versions = other.title.removesuffix("," + row.title.partition(",")[2])
                found[index] = other._replace(title=f"{versions}, {row.title.removeprefix('NFS ')}")
                break
        else:
            found.append(row)
    return found
