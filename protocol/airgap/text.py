"""Pure functions: bytes as printable text that survives retyping, and as the text of one QR code.

    CASCADE-REQUEST 0042 K3M9
    0001 0ABCD EFGHJ KMNPQ RSTVW XYZ01 23456 789AB CDEFG HJKMN PQRST 7Q2F
    ...
    0042 6WHC0 1MGN
    END-REQUEST 4XK2N8PD 0T5R

The letters are Crockford base 32 (no I, L, O, U). Reading ignores case, spaces and hyphens, and reads O as 0, and I and
L as 1. A line has its number, up to LINE_LETTERS letters, and a check of 4 letters over number and letters. The check
is CRC-16-CCITT over one byte a letter. A CRC finds every error within 16 bits in a row, so it finds every wrong letter
and every swap of two neighbours. The first line has the number of lines. The last line has 40 bits of the SHA-256 of all
bytes. Lines before the first one and after the last one are ignored.

The QR text is `CASCADE:REQUEST:`, the letters, and 8 letters of the total check. All its characters are in the
alphanumeric set of QR codes (ISO/IEC 18004, 7.3.4), which needs 5.5 bits for each.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from protocol.airgap.errors import LINES_SHOWN_MAX, DocumentDamaged, DocumentTooLarge, WrongDocument
from protocol.encoding import sha256

Title = Literal["REQUEST", "ANSWER"]

LINE_LETTERS = 50
GROUP_LETTERS = 5
LINES_MAX = 9999
"""The number of a line has four digits. All lines together hold 312 kB."""
QR_CHARS_MAX = 4296
"""Alphanumeric characters in the largest QR code, version 40 with the error correction L (ISO/IEC 18004, table 7)."""
_NUMBER_DIGITS = 4
_CHECK_LETTERS = 4
_TOTAL_LETTERS = 8
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RFC_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
"""The alphabet of base 32 in RFC 4648, section 6."""
_FROM_RFC, _TO_RFC = str.maketrans(_RFC_ALPHABET, _ALPHABET), str.maketrans(_ALPHABET, _RFC_ALPHABET)
_QUANTUM_BYTES, _QUANTUM_LETTERS = 5, 8
_LETTERS = frozenset(_ALPHABET)
_READ_AS = str.maketrans("OIL", "011", " \t\r\f\v\xa0-")
_TITLE = re.compile(r"[^A-Za-z0-9]*CASCADE[- ]*(REQUEST|ANSWER)\b(.*)", re.IGNORECASE)
_END = re.compile(r"[^A-Za-z0-9]*END[- ]*(REQUEST|ANSWER)\b(.*)", re.IGNORECASE)
_QR = re.compile(r"CASCADE:(REQUEST|ANSWER):([0-9A-Z]+)", re.IGNORECASE)


def to_text(title: Title, data: bytes) -> str:
    """The text of `data`, with a line feed at its end. Raises DocumentTooLarge."""
    letters = _letters(data)
    parts = [letters[at : at + LINE_LETTERS] for at in range(0, len(letters), LINE_LETTERS)]
    if len(parts) > LINES_MAX:
        raise DocumentTooLarge(f"{len(data)} bytes are too many for text, which holds {text_bytes_max()}; use the file")
    count, total = f"{len(parts):04}", _total(data)
    lines = [f"CASCADE-{title} {count} {_check(f'CASCADE{title}{count}')}"]
    lines += [_line(number, part) for number, part in enumerate(parts, 1)]
    lines.append(f"END-{title} {total} {_check(f'END{title}{total}')}")
    return "\n".join(lines) + "\n"


def text_bytes_max() -> int:
    """The most bytes that text holds."""
    return LINES_MAX * LINE_LETTERS * 5 // 8


def qr_bytes_max(title: Title) -> int:
    """The most bytes that one QR code holds."""
    return (QR_CHARS_MAX - len(f"CASCADE:{title}:") - _TOTAL_LETTERS) * 5 // 8


def to_qr_text(title: Title, data: bytes) -> str:
    """The text of one QR code. Raises DocumentTooLarge with the limit."""
    if len(data) > (most := qr_bytes_max(title)):
        raise DocumentTooLarge(f"{len(data)} bytes are too many for a QR code, which holds {most}; use a file or text")
    return f"CASCADE:{title}:{_letters(data)}{_total(data)}"


def is_text(data: str) -> bool:
    """Whether a line of `data` is the first line of a text, or the text of a QR code."""
    return any(_TITLE.match(line) or _QR.match(line.strip()) for line in data.splitlines())


def from_text(title: Title, text: str) -> bytes:
    """The bytes of a text, or of the text of a QR code.

    Every damaged line is found, and named by its number. Raises WrongDocument for the other title, DocumentDamaged.
    """
    rows = [line for line in text.splitlines() if line.strip()]
    for row in rows:
        if (scanned := _QR.fullmatch(row.strip())) is not None:
            _check_title(title, scanned[1])
            return _from_qr(scanned[2].upper())
    begins = next((at for at, row in enumerate(rows) if _TITLE.match(row)), None)
    if begins is None:
        raise DocumentDamaged(f"the first line is missing or mistyped: it begins with CASCADE-{title}", (0,))
    first = _TITLE.match(rows[begins])
    assert first is not None  # noqa: S101 (`begins` is the index of a match)
    _check_title(title, first[1])
    count = _checked_head(first)
    body, last = _until_end(rows[begins + 1 :])
    found = _Found(count)
    found.read(body)
    total = "" if last is None else _normal(last[2])
    faults = found.faults() if last is not None else [each for each in found.faults() if each[0] <= count]
    if last is None or last[1].upper() != title or not _is_end(title, total):
        faults.append((count + 1, f"the last line, which begins with END-{title}, is missing or mistyped"))
    if faults:
        raise _damaged(faults)
    data = _bytes("".join(found.good[number] for number in range(1, count + 1)), count)
    if _total(data) != total[:_TOTAL_LETTERS]:
        raise DocumentDamaged("each line is right, and all together are not: lines of two texts are mixed")
    return data


def _check_title(expected: Title, found: str) -> None:
    if found.upper() != expected:
        raise WrongDocument(f"this is a text of the kind CASCADE-{found.upper()}, and CASCADE-{expected} is needed")


def _checked_head(first: re.Match[str]) -> int:
    """The number of lines in the first line."""
    head = _normal(first[2])
    number, check = head[:_NUMBER_DIGITS], head[_NUMBER_DIGITS:]
    if not number.isdecimal() or check != _check(f"CASCADE{first[1].upper()}{number}") or not int(number):
        raise DocumentDamaged("the first line is mistyped", (0,))
    return int(number)


def _until_end(rows: Sequence[str]) -> tuple[Sequence[str], re.Match[str] | None]:
    for at, row in enumerate(rows):
        if (last := _END.match(row)) is not None:
            return rows[:at], last
    return rows, None


def _is_end(title: Title, letters: str) -> bool:
    return len(letters) == _TOTAL_LETTERS + _CHECK_LETTERS and letters[_TOTAL_LETTERS:] == _check(
        f"END{title}{letters[:_TOTAL_LETTERS]}"
    )


class _Row(msgspec.Struct, frozen=True):
    """A row as read. `number` is None if the check is wrong; then `typed` is the number as typed, 0 without one."""

    number: int | None
    typed: int
    letters: str


class _Found:
    """The lines of a text of `count` lines: the letters of each good line, and the faults."""

    def __init__(self, count: int) -> None:
        self.good: dict[int, str] = {}
        self._count = count
        self._wrong: dict[int, str] = {}

    def read(self, rows: Sequence[str]) -> None:
        """Read the rows between the first and the last line."""
        parsed = [_row(row) for row in rows]
        last = 0
        for at, row in enumerate(parsed):
            number = row.number
            if number is None:
                following = next((each.number for each in parsed[at + 1 : at + 2] if each.number is not None), 0)
                number = row.typed if following and following == row.typed + 1 else last + 1
                self._wrong.setdefault(number, "is mistyped")
            elif not 1 <= number <= self._count:
                self._wrong[number] = f"does not belong here: the text has {self._count} lines"
            elif number in self.good:
                self._wrong[number] = "is there twice"
            else:
                if number < last:
                    self._wrong[number] = "is in the wrong place"
                elif len(row.letters) != LINE_LETTERS and number != self._count:
                    self._wrong[number] = "is too short or too long"
                self.good[number] = row.letters
            last = max(last, number)

    def faults(self) -> list[tuple[int, str]]:
        """Each faulty line with its fault, by number."""
        found = dict(self._wrong)
        for number in range(1, self._count + 1):
            if number not in self.good and number not in found:
                found[number] = "is missing"
        return sorted(found.items())


def _row(text: str) -> _Row:
    row = _normal(text)
    number, check = row[:_NUMBER_DIGITS], row[-_CHECK_LETTERS:]
    typed = int(number) if number.isdecimal() and number.isascii() else 0
    letters = row[_NUMBER_DIGITS:-_CHECK_LETTERS]
    good = typed and letters and set(row) <= _LETTERS and check == _check(number + letters)
    return _Row(typed if good else None, typed, letters)


def _damaged(faults: Sequence[tuple[int, str]]) -> DocumentDamaged:
    named = [text if text.startswith("the ") else f"line {number} {text}" for number, text in faults]
    more = len(named) - LINES_SHOWN_MAX
    shown = "; ".join(named[:LINES_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
    return DocumentDamaged(shown, tuple(number for number, _ in faults))


def _from_qr(letters: str) -> bytes:
    if len(letters) <= _TOTAL_LETTERS or set(letters) - _LETTERS:
        raise DocumentDamaged("the text of the QR code is cut short or damaged")
    data = _bytes(letters[:-_TOTAL_LETTERS], 0)
    if _total(data) != letters[-_TOTAL_LETTERS:]:
        raise DocumentDamaged("the text of the QR code is damaged")
    return data


def _normal(text: str) -> str:
    """The letters of a text in their one form: capitals, without spaces and hyphens, and O, I, L as digits."""
    return text.upper().translate(_READ_AS)


def _line(number: int, letters: str) -> str:
    return " ".join([f"{number:04}", *_groups(letters), _check(f"{number:04}{letters}")])


def _groups(letters: str) -> Iterator[str]:
    return (letters[at : at + GROUP_LETTERS] for at in range(0, len(letters), GROUP_LETTERS))


def _check(text: str) -> str:
    return _number(binascii.crc_hqx(text.encode(), 0xFFFF), _CHECK_LETTERS)


def _total(data: bytes) -> str:
    return _number(int.from_bytes(sha256(data)[:5], "big"), _TOTAL_LETTERS)


def _number(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(5 * (count - 1), -1, -5))


def _letters(data: bytes) -> str:
    """Base 32 of the bytes. The last letter is filled with zero bits."""
    count = -(-len(data) * 8 // 5)
    padded = data + bytes(-len(data) % _QUANTUM_BYTES)
    return base64.b32encode(padded).decode().translate(_FROM_RFC)[:count]


def _bytes(letters: str, last: int) -> bytes:
    """Inverse of `_letters`. `last` is the number of the line with the last letter, for the error's text."""
    size = len(letters) * 5 // 8
    padded = letters + "0" * (-len(letters) % _QUANTUM_LETTERS)
    data = base64.b32decode(padded.translate(_TO_RFC))
    if len(letters) != -(-size * 8 // 5) or any(data[size:]):
        raise DocumentDamaged("the last letters are not those of a text", (last,) if last else ())
    return data[:size]
