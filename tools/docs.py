"""Check of the pages: what they name exists, links lead somewhere, lines fit, and each claim has a test.

    python -m tools.docs

- Each file, test, target of make, drill, and command of `cascade` or `cascadia` that a page names as code exists, with
  its options. Names with a capital letter (`DIR`, `NAME`) or in angle brackets are placeholders.
- A relative link leads to a file, and its anchor to a heading.
- A line has at most `LINE_CHARACTERS_MAX` characters.
- Each row of the README's table of claims names tests, and pytest collects them.
"""

import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.commands import Commands, is_command

REPOSITORY = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "packaging/*.md",
    "changelog.d/*.md",
    ".github/**/*.md",
)
HISTORY = "CHANGELOG.md"
"""It names files and commands that were removed. Only its lines and links are checked."""
README = "README.md"
CLAIMS = "What is enforced"
LINE_CHARACTERS_MAX = 120

ROOTS = ("protocol", "node", "cloud", "lab", "demo", "benchmarks", "tests", "tools", "docs", "packaging", "changelog.d")
_PATH = re.compile(rf"(?P<file>(?:{'|'.join(map(re.escape, ROOTS))}|\.github|\.ci)/[\w./*-]*)(?:::(?P<test>\w+))?")
_BARE_FILE = re.compile(r"(?:[a-z_0-9]+\.py|[A-Z]+\.md|pyproject\.toml|requirements[a-z.-]*|Makefile|LICENSE)")
_BARE_TEST = re.compile(r"test_\w+")
_ASSIGNMENT = re.compile(r"([A-Z]+)=([^\s=]+)")
_MANUAL = re.compile(r"\b(cascade|cascadia)\((\d)\)")

_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
_TEST_FILE = re.compile(r"tests/[\w/]+\.py(?:::\w+)?")


@dataclass(frozen=True)
class Page:
    """A Markdown page: its path in the repository, and its text."""

    path: str
    text: str

    @cached_property
    def prose(self) -> str:
        """The text with every line of a code block made empty, so that offsets still give the line."""
        return self._parted[0]

    @cached_property
    def code(self) -> list[tuple[int, str]]:
        """The lines of code blocks with their numbers; a line that ends in a backslash goes on with the next."""
        return self._parted[1]

    @cached_property
    def _parted(self) -> tuple[str, list[tuple[int, str]]]:
        prose: list[str] = []
        code: list[tuple[int, str]] = []
        fence = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            mark = _FENCE.match(line)
            if mark and (not fence or mark[1] == fence):
                fence = "" if fence else mark[1]
                prose.append("")
            elif fence or line.startswith("    "):
                prose.append("" if fence else line)
                if code and code[-1][1].endswith("\\"):
                    code[-1] = (code[-1][0], code[-1][1][:-1] + line)
                else:
                    code.append((number, line))
            else:
                prose.append(line)
        return "\n".join(prose), code

    def spans(self) -> Iterator[tuple[int, str]]:
        """Each span of code in the prose, with the number of the line on which it begins."""
        for match in _SPAN.finditer(self.prose):
            yield self.prose.count("\n", 0, match.start()) + 1, " ".join(match[2].split())

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of the headings, by the rule of GitHub and GitLab."""
        found: set[str] = set()
        for heading in _HEADING.findall(self.prose):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
            anchor = base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            number = 0
            while anchor in found:
                number += 1
                anchor = f"{base}-{number}"
            found.add(anchor)
        return found


class Checker:
    """Everything that pages are compared with, read once."""

    def __init__(
        self,
        repository: Path,
        parsers: Mapping[str, Callable[[], ArgumentParser]],
        values: Mapping[str, Collection[str]],
    ) -> None:
        self._repository = repository
        self._commands = Commands(repository, parsers, values)
        self.pages = [
            Page(str(path.relative_to(repository)), path.read_text("utf-8"))
            for pattern in PAGES
            for path in sorted(repository.glob(pattern))
        ]

    @cached_property
    def _files(self) -> set[str]:
        """The names of the files of the repository, without their folders."""
        tops = (self._repository / root for root in ROOTS)
        found = {path.name for top in tops for path in top.rglob("*") if path.is_file()}
        return found | {path.name for path in self._repository.iterdir()}

    @cached_property
    def _tests(self) -> set[str]:
        """The names of all functions in test files."""
        files = (self._repository / "tests").rglob("test_*.py")
        return {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))}

    def problems(self) -> Iterator[str]:
        """Everything that breaks a rule, but for the tests of the claims."""
        for page in self.pages:
            yield from self._line_problems(page)
            yield from self._link_problems(page)
            if page.path != HISTORY:
                yield from self._name_problems(page)

    def _line_problems(self, page: Page) -> Iterator[str]:
        for number, line in enumerate(page.text.splitlines(), 1):
            if len(line) > LINE_CHARACTERS_MAX:
                yield f"{page.path}:{number}: {len(line)} characters, and {LINE_CHARACTERS_MAX} are allowed."

    def _link_problems(self, page: Page) -> Iterator[str]:
        without_code = _SPAN.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), page.prose)
        for match in _LINK.finditer(without_code):
            target = match[1] or match[2]
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            where = f"{page.path}:{without_code.count(chr(10), 0, match.start()) + 1}"
            path, _, anchor = target.partition("#")
            file = (self._repository / page.path).parent / path if path else self._repository / page.path
            if not file.exists():
                yield f"{where}: the link leads to {path}, which does not exist."
            elif anchor and file.suffix == ".md" and anchor not in Page(target, file.read_text("utf-8")).anchors:
                yield f"{where}: the link leads to #{anchor}, and {path or page.path} has no such heading."

    def _name_problems(self, page: Page) -> Iterator[str]:
        for number, text in page.spans():
            for problem in self._span_problems(text):
                yield f"{page.path}:{number}: {problem}."
        for number, line in page.code:
            if is_command(line):
                for problem in self._commands.problems(line.strip()):
                    yield f"{page.path}:{number}: {problem}."
        for match in _MANUAL.finditer(page.text):
            if f"{match[1]}.{match[2]}" not in self._files:
                number = page.text.count("\n", 0, match.start()) + 1
                yield f"{page.path}:{number}: there is no manual page {match[0]}."

    def _span_problems(self, text: str) -> Iterator[str]:
        if is_command(text):
            yield from self._commands.problems(text)
        elif path := _PATH.fullmatch(text):
            yield from self._path_problems(path["file"], path["test"])
        elif assignment := _ASSIGNMENT.fullmatch(text):
            yield from self._commands.value_problems(assignment[1], assignment[2])
        elif _BARE_FILE.fullmatch(text):
            if text not in self._files:
                yield f"there is no file {text}"
        elif _BARE_TEST.fullmatch(text) and text not in self._tests:
            yield f"there is no test {text}"

    def _path_problems(self, path: str, test: str | None) -> Iterator[str]:
        if "*" in path:
            if not any(self._repository.glob(path)):
                yield f"no file matches {path}"
        elif not (self._repository / path).exists():
            yield f"there is no file {path}"
        elif test and not re.search(rf"def {test}\b", (self._repository / path).read_text("utf-8")):
            yield f"{path} has no test {test}"

    def claims(self) -> list[tuple[int, str, list[str]]]:
        """The rows of the README's table: line, claim, and the tests that the row names."""
        page = next(page for page in self.pages if page.path == README)
        rows, inside = [], False
        for number, line in enumerate(page.text.splitlines(), 1):
            if line.startswith("## "):
                inside = line.removeprefix("## ").strip() == CLAIMS
            elif inside and line.startswith("|") and not re.match(r"\|[-:| ]+\|$|\| Claim \|", line):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                rows.append((number, cells[0], _TEST_FILE.findall(cells[-1])))
        return rows


def claim_problems(
    claims: list[tuple[int, str, list[str]]], collect: Callable[[list[str]], tuple[set[str], str]]
) -> Iterator[str]:
    """The claims without a collected test. `collect` takes files; it returns the tests, and what went wrong."""
    if not claims:
        yield f'{README}: the section "{CLAIMS}" has no table of claims.'
        return
    files = sorted({test.partition("::")[0] for _, _, tests in claims for test in tests})
    collected, trouble = collect(files)
    if trouble:
        yield f"{README}: pytest cannot collect the tests of the claims: {trouble}"
    for number, claim, tests in claims:
        if not tests:
            yield f'{README}:{number}: the claim "{claim}" names no test.'
        for test in tests:
            if not any(f"{one.partition('[')[0]}::".startswith(f"{test}::") for one in collected):
                yield f"{README}:{number}: pytest collects no test {test}."


def collect(repository: Path, files: list[str]) -> tuple[set[str], str]:
    """The tests that pytest collects in some files, and its last lines if it fails."""
    there = [file for file in files if (repository / file).exists()]
    if not there:
        return set(), ""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *there]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    found = {line for line in done.stdout.splitlines() if re.match(r"tests/\S+\.py::", line)}
    return found, "" if done.returncode == 0 else "\n".join((done.stdout + done.stderr).splitlines()[-8:])


def _cascade() -> ArgumentParser:
    from cloud.cli.main import parser

    return parser()


def _cascadia() -> ArgumentParser:
    from node.cli.arguments import parser

    return parser()


def main(repository: Path = REPOSITORY) -> int:
    """Print every problem; the exit code is 1 if there is one."""
    from tests.drills.frame import part_names

    checker = Checker(repository, {"cascade": _cascade, "cascadia": _cascadia}, {"PART": part_names()})
    found = list(checker.problems())
    claims = checker.claims()
    found += claim_problems(claims, lambda files: collect(repository, files))
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{len(checker.pages)} pages, {len(claims)} claims, {len(found)} against the rules")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
