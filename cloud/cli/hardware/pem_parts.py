"""Pure functions: read an operator's file of certificates and divide it into parts that one request can carry."""

import base64
import textwrap
from collections.abc import Iterator

import msgspec

FILE_BYTES_MAX = 4 * 1024 * 1024
"""Largest file. The certificates of all makers of TPMs have 0.4 MB, with text between them 2 MB."""
PART_BYTES_MAX = 48 * 1024
"""Most bytes of PEM in one request. The body limit is 64 kB, and JSON escapes each end of a line."""
PART_BLOCKS_MAX = 64
_BLOCK_BYTES_MAX = 16 * 1024
"""A longer PEM block is cut, and the server refuses it as damaged. CA certificates of makers have 2 kB."""
_BEGIN, _END = "-----BEGIN ", "-----END "


class Block(msgspec.Struct, frozen=True):
    """One PEM block, and the line of the file (from 1) that it begins on."""

    line: int
    text: str


def text_of(raw: bytes) -> str:
    """The text of a file of certificates. A file with one certificate in DER becomes one PEM block."""
    if raw[:1] == b"\x30" and _BEGIN.encode() not in raw:  # the byte is also the digit 0, with which a text can begin
        body = "\n".join(textwrap.wrap(base64.b64encode(raw).decode(), 64))
        return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
    return raw.decode("utf-8", "replace")


def blocks(text: str) -> Iterator[Block]:
    """The PEM blocks of a text, without the text between them."""
    line, counted = 1, 0
    at = text.find(_BEGIN)
    while at >= 0:
        line += text.count("\n", counted, at)
        counted = at
        following = text.find(_BEGIN, at + 1)
        block = text[at : following if following >= 0 else len(text)]
        end = block.find(_END)
        if end >= 0:
            stop = block.find("\n", end)
            block = block[: stop if stop >= 0 else len(block)]
        yield Block(line, block[:_BLOCK_BYTES_MAX].encode("ascii", "replace").decode().rstrip("\r\n") + "\n")
        at = following


def parts(found: Iterator[Block]) -> Iterator[list[Block]]:
    """The blocks in parts of at most `PART_BYTES_MAX` bytes and `PART_BLOCKS_MAX` blocks, in their order."""
    part: list[Block] = []
    size = 0
    for block in found:
        if part and (size + len(block.text) > PART_BYTES_MAX or len(part) == PART_BLOCKS_MAX):
            yield part
            part, size = [], 0
        part.append(block)
        size += len(block.text)
    if part:
        yield part
