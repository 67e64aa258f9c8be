"""Check and collect the fragments of the changelog, `changelog.d/<short-name>.<kind>.md`.

    python -m tools.changelog check
    python -m tools.changelog collect 0.2.0 --date 2026-12-24

`check` fails when a fragment has a wrong form, or when a commit changes product files without a fragment and without
the line `Changelog: none` in its message. `changelog.d/README.md` says which commits are checked, and is the page for
users. `collect` moves all fragments into CHANGELOG.md, and writes the time of the build into the agent.

Each commit is judged by itself. So a branch that passes still passes after it has landed, when only HEAD is checked.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
FOLDER = "changelog.d"
PAGE = "CHANGELOG.md"
BUILT_IN = "node/config.py"
KINDS = ("added", "changed", "fixed", "removed", "security")
"""In the order of their sections in a version."""
PRODUCT = ("node/", "cloud/", "protocol/", "packaging/")
LINE_CHARACTERS_MAX = 118
"""`collect` puts two characters before each line, and a line of a page has at most 120."""

UPSTREAMS = ("refs/remotes/origin/HEAD", "refs/remotes/origin/main")
CHECK_COMMAND = "tools.changelog check"
"""The text that the Makefile has since commits are checked."""

_FRAGMENT = re.compile(rf"{re.escape(FOLDER)}/[a-z0-9][a-z0-9-]*\.(?P<kind>{'|'.join(KINDS)})\.md")
_TRAILER = re.compile(r"^changelog:\s*none\s*$", re.IGNORECASE | re.MULTILINE)
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?")
_UNRELEASED = "## [Unreleased]"
_BUILT_AT = re.compile(r"^BUILT_AT = datetime\(.*\)$", re.MULTILINE)


class ChangelogError(Exception):
    """`collect` cannot go on. The text says why."""


@dataclass
class Findings:
    """The result of `check`: problems make it fail; notes name its limits, or remind of a fragment."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Repository:
    """The git repository that holds a working tree. Every method runs git once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _git(self, *arguments: str) -> str | None:
        """What git prints, or None if git fails."""
        command = ["git", "-C", str(self._directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def commit(self, name: str) -> str | None:
        """The hash of a commit. None if there is no commit of that name, or if its object is missing."""
        found = self._git("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
        return found.strip() if found else None

    def merge_base(self, one: str, other: str) -> str | None:
        """The newest common ancestor. None if the history that is here has none."""
        found = self._git("merge-base", one, other)
        return found.strip() if found else None

    def commits(self, base: str, head: str) -> list[str]:
        """The commits that `head` has and `base` does not, oldest first, without merges."""
        return (self._git("rev-list", "--reverse", "--no-merges", f"{base}..{head}") or "").split()

    def has_other_parents(self, commit: str) -> bool:
        """Whether a commit is a merge."""
        return self.commit(f"{commit}^2") is not None

    def is_root(self, commit: str) -> bool:
        """Whether a commit has no parent by its own record; a shallow clone leaves the record as it was."""
        return "\nparent " not in (self._git("cat-file", "commit", commit) or "").partition("\n\n")[0]

    def message(self, commit: str) -> str:
        """The whole message of a commit."""
        return self._git("show", "--no-patch", "--format=%B", commit) or ""

    def subject(self, commit: str) -> str:
        """The short hash and the first line of the message."""
        return (self._git("show", "--no-patch", "--format=%h %s", commit) or commit).strip()

    def changed(self, parent: str, commit: str) -> tuple[list[str], list[str]]:
        """The paths that a commit touches, and those of them that exist after it."""
        touched = self._git("diff", "--name-only", "--no-renames", parent, commit) or ""
        kept = self._git("diff", "--name-only", "--no-renames", "--diff-filter=d", parent, commit) or ""
        return touched.splitlines(), kept.splitlines()

    def text(self, commit: str, path: str) -> str:
        """A file as a commit has it; empty if there is none."""
        return self._git("show", f"{commit}:{path}") or ""

    def uncommitted(self) -> list[str]:
        """The paths that differ from HEAD in the working tree, new files included."""
        lines = (self._git("status", "--porcelain", "--no-renames", "--untracked-files=all") or "").splitlines()
        return [line[3:] for line in lines]


def is_product(path: str) -> bool:
    """Whether users can notice a change of this file."""
    return path.startswith(PRODUCT) and not path.endswith(".md")


def fragment_problems(directory: Path) -> Iterator[str]:
    """The faults in names and texts of the fragments in a working tree."""
    for path in fragments(directory, every=True):
        name = f"{FOLDER}/{path.name}"
        if not _FRAGMENT.fullmatch(name):
            yield f"{name}: the name is not <short-name>.<kind>.md, where the kind is one of {', '.join(KINDS)}."
            continue
        text = path.read_text("utf-8").strip()
        if not text:
            yield f"{name}: the fragment is empty. Write what users notice."
        elif text.startswith(("-", "*", "#")) or "\n\n" in text:
            yield f"{name}: a fragment is one paragraph, without a list mark or a heading. Make a file of each entry."
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LINE_CHARACTERS_MAX:
                yield f"{name}:{number}: {len(line)} characters, and {LINE_CHARACTERS_MAX} are allowed."


def fragments(directory: Path, *, every: bool = False) -> list[Path]:
    """The fragments of a working tree, sorted; with `every` also files whose name is not a fragment's."""
    found = sorted(path for path in (directory / FOLDER).glob("*") if path.name != "README.md")
    return [path for path in found if every or _FRAGMENT.fullmatch(f"{FOLDER}/{path.name}")]


def _checked_commits(repository: Repository, head: str, notes: list[str]) -> list[str]:
    """The commits to judge, by the rule of `changelog.d/README.md`."""
    upstream = next((found for name in UPSTREAMS if (found := repository.commit(name))), None)
    if upstream is None:
        notes.append("There is no origin/main to compare with. Only HEAD is checked.")
    base = repository.merge_base(head, upstream) if upstream else None
    if upstream and base is None:
        notes.append("HEAD and origin/main have no common commit here (a shallow clone?). Only HEAD is checked.")
    if base and base != head:
        return repository.commits(base, head)
    return [] if repository.has_other_parents(head) else [head]


def _commit_problem(repository: Repository, commit: str, notes: list[str]) -> str | None:
    parent = repository.commit(f"{commit}^")
    if parent is None:
        if not repository.is_root(commit):
            notes.append(f"{repository.subject(commit)}: the parent is not in this clone. The commit is not checked.")
        return None
    if CHECK_COMMAND not in repository.text(parent, "Makefile"):
        return None
    touched, kept = repository.changed(parent, commit)
    product = [path for path in touched if is_product(path)]
    if not product or any(_FRAGMENT.fullmatch(path) for path in kept):
        return None
    if _TRAILER.search(repository.message(commit)):
        return None
    return (
        f"{repository.subject(commit)}: changes {product[0]}{' and others' if len(product) > 1 else ''} without a "
        f"fragment.\n  Add {FOLDER}/<short-name>.<kind>.md to the commit, or the line `Changelog: none` to its message."
    )


def check(directory: Path) -> Findings:
    """Judge the fragments, and the commits that `changelog.d/README.md` names."""
    found = Findings(problems=list(fragment_problems(directory)))
    repository = Repository(directory)
    head = repository.commit("HEAD")
    if head is None:
        found.notes.append("This is no git repository with a commit. Only the fragments are checked.")
        return found
    for commit in _checked_commits(repository, head, found.notes):
        if problem := _commit_problem(repository, commit, found.notes):
            found.problems.append(problem)
    waiting = repository.uncommitted()
    if any(is_product(path) for path in waiting) and not any(_FRAGMENT.fullmatch(path) for path in waiting):
        found.notes.append(
            f"Product files are changed and not committed. Their commit needs a fragment in {FOLDER}/, or the line "
            "`Changelog: none`."
        )
    return found


def collect(directory: Path, version: str, released: date) -> int:
    """Move the fragments and the entries under Unreleased into a new section. Returns the number of entries.

    The agent's `BUILT_AT` becomes the day before `released`: a time zone may be ahead of UTC.

    Raises ChangelogError, and changes nothing then.
    """
    if not _VERSION.fullmatch(version):
        raise ChangelogError(f"cannot collect: {version!r} is no version like 0.2.0")
    if wrong := list(fragment_problems(directory)):
        raise ChangelogError("cannot collect: " + "\n".join(wrong))
    page = (directory / PAGE).read_text("utf-8")
    if f"## [{version}]" in page:
        raise ChangelogError(f"cannot collect: {PAGE} has the version {version} already")
    head, mark, rest = page.partition(f"{_UNRELEASED}\n")
    if not mark:
        raise ChangelogError(f"cannot collect: {PAGE} has no line {_UNRELEASED!r}")
    unreleased, following = _split_at_next_version(rest)
    sections = _sections(unreleased)
    built_in, built = _with_built_at(directory, released - timedelta(days=1))
    files = fragments(directory)
    for path in files:
        kind = path.name.split(".")[-2]
        sections.setdefault(kind.capitalize(), []).append(_entry(path.read_text("utf-8")))
    entries = sum(map(len, sections.values()))
    if not entries:
        raise ChangelogError("cannot collect: there is no entry")
    parts = [f"## [{version}] - {released.isoformat()}\n"]
    ordered = sorted(sections, key=_section_place)
    parts += [f"### {title}\n\n" + "\n".join(sections[title]) + "\n" for title in ordered]
    text = f"{head}{_UNRELEASED}\n\n" + "\n".join(parts) + (f"\n{following}" if following else "")
    (directory / PAGE).write_text(text, "utf-8")
    built_in.write_text(built, "utf-8")
    for path in files:
        path.unlink()
    return entries


def _with_built_at(directory: Path, day: date) -> tuple[Path, str]:
    """The file that has the time of the build, and its text with another day. Raises ChangelogError."""
    path = directory / BUILT_IN
    text = path.read_text("utf-8") if path.is_file() else ""
    changed, count = _BUILT_AT.subn(f"BUILT_AT = datetime({day.year}, {day.month}, {day.day}, tzinfo=UTC)", text)
    if count != 1:
        raise ChangelogError(f"cannot collect: {BUILT_IN} has no line `BUILT_AT = datetime(...)`")
    return path, changed


def _split_at_next_version(text: str) -> tuple[str, str]:
    """The text under Unreleased, and the text from the next version on."""
    found = re.search(r"^## ", text, re.MULTILINE)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")


def _sections(text: str) -> dict[str, list[str]]:
    """The entries by the title of their section. Each keeps its lines. Raises ChangelogError for text outside one."""
    found: dict[str, list[str]] = {}
    entries: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("### "):
            entries = found.setdefault(line.removeprefix("### ").strip(), [])
        elif entries is not None and line.startswith("- "):
            entries.append(line)
        elif entries and line.startswith("  "):
            entries[-1] += f"\n{line}"
        elif line.strip():
            raise ChangelogError(f"cannot collect: this line under {_UNRELEASED} is in no entry: {line}")
    return {title: entries for title, entries in found.items() if entries}


def _entry(fragment: str) -> str:
    return "- " + "\n  ".join(line.strip() for line in fragment.strip().splitlines())


def _section_place(title: str) -> tuple[int, str]:
    kind = title.lower()
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def main(arguments: Sequence[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Run one command; the exit code is 1 if it fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.changelog")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check the fragments, and that each commit which needs one has one")
    collecting = commands.add_parser("collect", help="move the fragments into CHANGELOG.md")
    collecting.add_argument("version", help="the version that is released, such as 0.2.0")
    collecting.add_argument("--date", type=date.fromisoformat, required=True, help="the day of the release")
    options = parser.parse_args(arguments)
    if options.command == "collect":
        try:
            count = collect(repository, options.version, options.date)
        except ChangelogError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{PAGE}: {count} entries under {options.version}")
        return 0
    found = check(repository)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    for note in found.notes:
        print(f"changelog: {note}")
    print(f"{len(fragments(repository))} fragments, {len(found.problems)} against the rules")
    return 1 if found.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
