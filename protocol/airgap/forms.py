"""Pure functions: requests and answers as they are carried: as a file in JSON, as printable text, as a QR code.

Text and QR code have the JSON packed (`protocol.airgap.packing`) and compressed with zlib (RFC 1950). Reading bounds the size before and after it is expanded.
"""

import zlib
from typing import TypeVar

import msgspec

from protocol.airgap.answer import AnswerFile
from protocol.airgap.errors import DocumentDamaged, DocumentTooLarge, WrongDocument
from protocol.airgap.packing import pack, unpack
from protocol.airgap.request import RequestFile
from protocol.airgap.text import Title, from_text, is_text, to_qr_text, to_text
from protocol.encoding import json_decode, json_encode
from protocol.limits import AIRGAP_ANSWER_BYTES_MAX, AIRGAP_CARRIED_BYTES_MAX, AIRGAP_REQUEST_BYTES_MAX

F = TypeVar("F", RequestFile, AnswerFile)

_TITLES: dict[str, Title] = {"cascade-airgap-request": "REQUEST", "cascade-airgap-answer": "ANSWER"}
_NAMES = {"REQUEST": "request", "ANSWER": "answer"}


def to_file(document: RequestFile | AnswerFile) -> bytes:
    """The document as a file: one line of JSON. Raises DocumentTooLarge."""
    data = json_encode(document)
    most = AIRGAP_REQUEST_BYTES_MAX if isinstance(document, RequestFile) else AIRGAP_ANSWER_BYTES_MAX
    if len(data) > most:
        raise DocumentTooLarge(f"it has {len(data)} bytes, and {most} are allowed")
    return data + b"\n"


def printed(document: RequestFile | AnswerFile) -> str:
    """The document as printable text. Raises DocumentTooLarge."""
    return to_text(_TITLES[document.document], _compressed(document))


def qr_text(document: RequestFile | AnswerFile) -> str:
    """The document as the text of one QR code. Raises DocumentTooLarge with the limit."""
    return to_qr_text(_TITLES[document.document], _compressed(document))


def _compressed(document: RequestFile | AnswerFile) -> bytes:
    return zlib.compress(pack(to_file(document)), 9)


def read_request(data: bytes) -> RequestFile:
    """The request in a file, in any form. Nothing is verified. Raises as `read_answer`."""
    return _read(data, "REQUEST", RequestFile, AIRGAP_REQUEST_BYTES_MAX)


def read_answer(data: bytes) -> AnswerFile:
    """The answer in a file, in any form. Nothing is verified.

    Raises DocumentDamaged, with the damaged lines of a text; DocumentTooLarge, WrongDocument.
    """
    return _read(data, "ANSWER", AnswerFile, AIRGAP_ANSWER_BYTES_MAX)


def _read(data: bytes, title: Title, kind: type[F], bytes_max: int) -> F:
    if len(data) > AIRGAP_CARRIED_BYTES_MAX:
        raise DocumentTooLarge(f"the file has more than {AIRGAP_CARRIED_BYTES_MAX} bytes")
    if not data.lstrip().startswith(b"{"):
        data = _expanded(from_text(title, _text(data, title)), bytes_max)
    if len(data) > bytes_max + 1:
        raise DocumentTooLarge(f"the {_NAMES[title]} has more than {bytes_max} bytes")
    _check_document(data, title)
    try:
        return json_decode(data, kind)
    except msgspec.MsgspecError as error:
        raise DocumentDamaged(f"the {_NAMES[title]} is cut short or damaged: {error}") from error


class _Document(msgspec.Struct, frozen=True):
    document: str = ""


def _check_document(data: bytes, title: Title) -> None:
    """Check that the JSON is a document of the expected kind. Raises DocumentDamaged, WrongDocument."""
    name = _NAMES[title]
    try:
        found = _TITLES.get(json_decode(data, _Document).document)
    except msgspec.MsgspecError as error:
        raise DocumentDamaged(f"the {name} is cut short or damaged: {error}") from error
    if found is None:
        raise WrongDocument(f"the file is no {name} of an exchange without a network")
    if found != title:
        raise WrongDocument(f"the file is the {_NAMES[found]}, and the {name} is needed")


def _text(data: bytes, title: Title) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DocumentDamaged("the file is neither JSON nor text") from error
    if not is_text(text) and not text.strip():
        raise DocumentDamaged(f"the file is empty; the {_NAMES[title]} was cut short")
    return text


def _expanded(data: bytes, bytes_max: int) -> bytes:
    """The expanded content of a text. Raises DocumentDamaged, DocumentTooLarge."""
    expander = zlib.decompressobj()
    try:
        content = expander.decompress(data, bytes_max + 2)
    except zlib.error as error:
        raise DocumentDamaged("the content of the text cannot be expanded") from error
    if len(content) > bytes_max + 1:
        raise DocumentTooLarge(f"the content has more than {bytes_max} bytes")
    if not expander.eof or expander.unused_data:
        raise DocumentDamaged("the content of the text is cut short or has more behind it")
    return unpack(content, bytes_max + 1)
