"""Adapter: reads the passwords of the TPM's hierarchies from credential files.

A credential file has the password and nothing else; one line end after the password is dropped. The files are read
again for each use of the TPM, so a changed password needs no restart. The password is in no setting, no argument, no
environment variable and no log. A command of root keeps the passwords in memory before it becomes the agent's user.
"""

from collections.abc import Mapping
from pathlib import Path

from node.disk import calls
from node.disk.files import read_bounded
from node.errors import StateError
from node.hwbind.errors import Hierarchy
from node.hwbind.tpm import PASSWORD_BYTES_MAX, Password, Passwords

_OTHERS = 0o007
_LINE_END = b"\n"

_kept: dict[Path, Password] = {}


def keep(*paths: Path | None) -> None:
    """Read the passwords in these files, for the time when this process may not. A file with a fault is left out."""
    for path in paths:
        if path is not None and not (password := _read(path)).fault:
            _kept[path] = password


def forget() -> None:
    """Forget the kept passwords."""
    _kept.clear()


def hierarchy_passwords(owner: Path | None, endorsement: Path | None) -> Passwords:
    """The reader of both files for `node.hwbind.tpm.Tpm`. None means that no file is configured."""
    files: dict[Hierarchy, Path] = {}
    if owner is not None:
        files["owner"] = owner
    if endorsement is not None:
        files["endorsement"] = endorsement

    def read() -> Mapping[Hierarchy, Password]:
        return {hierarchy: _kept.get(path) or _read(path) for hierarchy, path in files.items()}

    return read


def _read(path: Path) -> Password:
    """The password in a file. A file that cannot be used gives the empty password and the fault."""
    try:
        data = read_bounded(path, PASSWORD_BYTES_MAX + len(_LINE_END), private=True)
        others = bool(calls.lstat(path).st_mode & _OTHERS)
    except FileNotFoundError:
        return Password(b"", str(path), f"cannot read {path}: no such file")
    except StateError as error:
        return Password(b"", str(path), error.text)
    except OSError as error:
        return Password(b"", str(path), f"cannot read {path}: {error.strerror or error}")
    value = data.removesuffix(_LINE_END)
    if others:
        return Password(b"", str(path), f"cannot use {path}: other users can read it; run `chmod o= {path}`")
    if len(value) > PASSWORD_BYTES_MAX:
        return Password(b"", str(path), f"cannot use {path}: it is longer than {PASSWORD_BYTES_MAX} bytes")
    return Password(value, str(path))
