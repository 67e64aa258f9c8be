"""Check of the words: comments, docstrings, messages and pages use the terms of the field, not a private vocabulary.

    python -m tools.words [--count]

`TABLE` has each refused word with better ones. Source is read as Python: comments, docstrings, and every other text
with a space in it. Names of variables, and texts of one word such as codes, are not checked. `--count` prints how often
each word occurs, and never fails.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SOURCES = ("protocol", "node", "cloud", "lab", "demo", "benchmarks", "tests", "tools")
PAGES = ("*.md", "docs/**/*.md", "packaging/*.md", "changelog.d/*.md", ".github/**/*.md")

TABLE: dict[str, str] = {
    "anew": "again",
    "at hand": "available",
    "untold": "not reported",
    "told": "reported, returned, notified",
    "whoever": "the caller, the client, the operator",
    "nobody": "no caller, no client, no process",
    "believes?": "trusts",
    "believed": "trusted",
    "believing": "trusting",
    "given out": "issued",
    "kept away": "offline",
    "looked at": "checked",
    "stands(?! (?:in )?for)": "is, is in",
    "lies": "is stored, is in",
    "those who": "the callers, the clients, the operators",
}
"""The refused words, as regular expressions, and what to write instead."""

EXEMPT = ("tools/words.py", "tests/tools/test_words.py")
"""The files that have the words as data."""


@dataclass(frozen=True)
class Text:
    """A text of a file, and the number of its first line."""

    line: int
    text: str


def source_texts(source: str) -> Iterator[Text]:
    """The comments of a module, its docstrings, and its other texts that have a space. Raises SyntaxError."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield Text(node.lineno, node.value)


def page_texts(page: str) -> Iterator[Text]:
    """The lines of a page, without code in backticks and without targets of links: these are names."""
    for number, line in enumerate(page.splitlines(), 1):
        yield Text(number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line))


def found_words(texts: Iterator[Text], words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Each use of a word: line, the pattern of the table, and the text as written."""
    patterns = {word: re.compile(r"\b" + word.replace(" ", r"\s+") + r"\b", re.IGNORECASE) for word in words}
    for text in texts:
        for word, pattern in patterns.items():
            for match in pattern.finditer(text.text):
                yield text.line + text.text.count("\n", 0, match.start()), word, match[0]


def texts_of(repository: Path) -> Iterator[tuple[str, Iterator[Text]]]:
    """The files that are checked, each with its texts."""
    for root in SOURCES:
        for path in sorted((repository / root).rglob("*.py")):
            name = str(path.relative_to(repository))
            if name not in EXEMPT:
                yield name, source_texts(path.read_text("utf-8"))
    for pattern in PAGES:
        for path in sorted(repository.glob(pattern)):
            yield str(path.relative_to(repository)), page_texts(path.read_text("utf-8"))


def main(arguments: Sequence[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Print every refused word with its place; the exit code is 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tools.words")
    parser.add_argument("--count", action="store_true", help="print how often each word occurs")
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    for path, texts in texts_of(repository):
        for line, word, written in found_words(texts, list(TABLE)):
            counts[word] += 1
            if not options.count:
                print(f'{path}:{line}: "{written}": write {TABLE[word]}', file=sys.stderr)
    if options.count:
        for word in TABLE:
            print(f"{counts[word]:5} {word}")
        return 0
    print(f"{counts.total()} words against the rules")
    return 1 if counts else 0


if __name__ == "__main__":
    raise SystemExit(main())
