"""Adapter: reads an activation file or a recovery file. It holds the place and the pin of the trust, and a secret code.

A recovery file names its node, and its code is a recovery code.
"""

from pathlib import Path

import msgspec

from node.disk.files import read_bounded
from node.errors import NodeError, StateError
from node.exits import Exit
from protocol.codes import SecretFormatError, parse_recovery_code, parse_secret
from protocol.encoding import json_decode, sha256_hex
from protocol.ids import IdError, parse_id
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


def read_recovery_source(path: Path) -> ActivationFile:
    """Read a recovery file, or an activation file for the cloud that it names. Raises ActivationFileInvalid.

    The code of a recovery file is returned in its canonical form.
    """
    try:
        raw = read_bounded(path, ACTIVATION_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise ActivationFileInvalid(f"cannot read {path}: no such file") from error
    except StateError as error:
        raise ActivationFileInvalid(error.text) from error
    return _parsed(raw, path)


def parse_activation_file(raw: bytes, path: Path) -> ActivationFile:
    """The activation file of these bytes. `path` is for the text of an error. Raises ActivationFileInvalid."""
    parsed = _parsed(raw, path)
    if parsed.node is not msgspec.UNSET:
        raise ActivationFileInvalid(
            f"cannot use {path}: it is a recovery file", next_step=f"Run `cascadia recover --file {path}`."
        )
    return parsed


def _parsed(raw: bytes, path: Path) -> ActivationFile:
    try:
        parsed = json_decode(raw, ActivationFile)
        if parsed.node is msgspec.UNSET:
            parse_secret("cac", parsed.code)
        else:
            parse_id("node", parsed.node)
            parsed = msgspec.structs.replace(parsed, code=parse_recovery_code(parsed.code))
        check_base_url(parsed.repository_url, "http", with_path=True)
        parse_pin(str(parsed.pin))
    except (msgspec.MsgspecError, SecretFormatError, UrlError, PinError, IdError) as error:
        raise ActivationFileInvalid(f"cannot use {path}: {error}") from error
    if parsed.format != ACTIVATION_FILE_FORMAT:
        raise ActivationFileInvalid(f"cannot use {path}: this version of Cascadia does not know format {parsed.format}")
    return parsed
