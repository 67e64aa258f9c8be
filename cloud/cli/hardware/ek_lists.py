"""Pure functions: read a list of endorsement keys from an operator's file, one a line or as a column of a CSV file.

A makers' or an integrator's list names each chip by a hash over its endorsement key or its certificate. The forms are
those of `protocol.endorsement.ek_identifier`. A line that identifies no key is reported by its number, and the others
are taken.
"""

import codecs
import csv
from collections.abc import Iterator
from itertools import islice

import msgspec

from protocol.endorsement import EkHash, ek_identifier

FILE_BYTES_MAX = 32 * 1024 * 1024
"""Largest file: 100,000 lines of a CSV file with certificates beside the hashes have more, and are divided."""
BAD_LINES_SHOWN = 100
"""Most bad lines that a report names. It counts the others."""
_LINE_CHARS_MAX = 64 * 1024
_DELIMITERS = ",;\t"
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_HEADERS = ("ekname", "ekhash", "eksha256", "ekpubhash", "ekpublichash", "ekpublicsha256", "endorsementkeyhash")
"""Headings of a column with keys that are recognised without an option, in lower case, letters and digits only."""


class ListError(ValueError):
    """The file is no list of endorsement keys. The text says why."""


class BadLine(msgspec.Struct, frozen=True):
    """A line (from 1) that identifies no endorsement key, and why."""

    line: int
    reason: str


class EkList(msgspec.Struct, frozen=True):
    """The identifiers of a list, each once, with their first line; the bad lines, and the number of repeated keys."""

    identifiers: dict[str, int]
    bad: tuple[BadLine, ...]
    repeated: int


def read_list(raw: bytes, kind: EkHash = "public", column: str = "") -> EkList:
    """Read a list. Empty lines and lines that begin with `#` are skipped.

    Args:
        raw: the content of the file, in UTF-8, or in UTF-16 with a byte order mark.
        kind: what a SHA-256 without a prefix is over.
        column: heading of the column, for a CSV file. A file whose first line has a usual heading needs none.

    Raises ListError if a CSV file has no such column, or the file is too large.
    """
    if len(raw) > FILE_BYTES_MAX:
        raise ListError(f"it has more than {FILE_BYTES_MAX} bytes")
    encoding = next((name for bom, name in _BOMS if raw.startswith(bom)), "utf-8")
    lines = raw.decode(encoding, "replace").splitlines()
    found: dict[str, int] = {}
    bad: list[BadLine] = []
    repeated = 0
    for line, text in _values(lines, column):
        try:
            identifier = ek_identifier(text, kind)
        except ValueError as error:
            bad.append(BadLine(line, str(error)))
            continue
        repeated += identifier in found
        found.setdefault(identifier, line)
    return EkList(found, tuple(bad), repeated)


def parts(identifiers: dict[str, int], size: int) -> Iterator[tuple[str, ...]]:
    """The identifiers in parts of at most `size`, in their order."""
    rest = iter(identifiers)
    while part := tuple(islice(rest, size)):
        yield part


def _values(lines: list[str], column: str) -> Iterator[tuple[int, str]]:
    """The line number and the text of each value: of a column if the file has headings, else of the whole line."""
    numbered = [
        (number, line[:_LINE_CHARS_MAX])
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not numbered:
        return
    first = numbered[0][1]
    delimiter = max(_DELIMITERS, key=first.count)
    headings = [each.strip() for each in _cells(first, delimiter)]
    at = _column(headings, column)
    if at is None:
        yield from ((number, _cells(line, delimiter)[0] if delimiter in line else line) for number, line in numbered)
        return
    for number, line in numbered[1:]:
        cells = _cells(line, delimiter)
        yield number, cells[at] if at < len(cells) else ""


def _column(headings: list[str], column: str) -> int | None:
    """The position of the column with the keys. None if the first line has no headings. Raises ListError."""
    plain = [_plain(each) for each in headings]
    if column:
        if plain.count(_plain(column)) != 1:
            raise ListError(f"it has no column {column!r}, or several. Its first line has: {', '.join(headings)[:400]}")
        return plain.index(_plain(column))
    usual = [at for at, each in enumerate(plain) if each in _HEADERS]
    if len(usual) == 1:
        return usual[0]
    try:
        ek_identifier(headings[0])
    except ValueError:
        if len(headings) > 1:
            raise ListError(
                f"its column with the keys is not known. Name it with --column. Its first line has: "
                f"{', '.join(headings)[:400]}"
            ) from None
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of one line. A quoted cell with a line break inside is no form of a list of keys."""
    try:
        return next(iter(csv.reader([line], delimiter=delimiter)), [""])
    except csv.Error:
        return [line]


def _plain(heading: str) -> str:
    return "".join(each for each in heading.lower() if each.isalnum())
