"""Adapter: reads an activation file. The file holds the place and the pin of the published trust, and a secret code."""

from pathlib import Path

import msgspec

from node.disk.files import read_bounded
from node.errors import NodeError, StateError
from node.exits import Exit
from protocol.codes import SecretFormatError, parse_secret
from protocol.encoding import json_decode, sha256_hex
from protocol.messages.activation import ACTIVATION_FILE_FORMAT, ActivationFile, PinError, parse_pin
from protocol.urls import UrlError, check_base_url

ACTIVATION_FILE_BYTES_MAX = 16 * 1024


class ActivationFileInvalid(NodeError):
    """The activation file cannot be read or used."""

    exit = Exit.USAGE
    code = "activation_file_invalid"
    next = "Ask your vendor for the file again. `cascade code create` writes it."


def read_activation_file(path: Path) -> tuple[ActivationFile, str]:
    """Read an activation file. Returns it with the SHA-256 (hex) of its bytes. Raises ActivationFileInvalid."""
    try:
        raw = read_bounded(path, ACTIVATION_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise ActivationFileInvalid(f"cannot read {path}: no such file") from error
    except StateError as error:
        raise ActivationFileInvalid(error.text) from error
    return parse_activation_file(raw, path), sha256_hex(raw)


def parse_activation_file(raw: bytes, path: Path) -> ActivationFile:
    """The activation file of these bytes. `path` is for the text of an error. Raises ActivationFileInvalid."""
    try:
        parsed = json_decode(raw, ActivationFile)
        parse_secret("cac", parsed.code)
        check_base_url(parsed.repository_url, "http", with_path=True)
        parse_pin(str(parsed.pin))
    except (msgspec.MsgspecError, SecretFormatError, UrlError, PinError) as error:
        raise ActivationFileInvalid(f"cannot use {path}: {error}") from error
    if parsed.format != ACTIVATION_FILE_FORMAT:
        raise ActivationFileInvalid(f"cannot use {path}: this version of Cascadia does not know format {parsed.format}")
    return parsed
