"""Adapter: the DMI serial numbers for an agent that is not root. Only root can read them in /sys.

Systemd reads them as root and hands them to the service as credentials (`LoadCredential=`, systemd.exec(5)). A command
that root has typed reads them with `keep`, before it becomes the agent's user. A value stays in memory.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

KINDS = ("product_uuid", "board_serial", "chassis_serial")
"""The DMI values that are components of a fingerprint (`protocol.hardware`)."""
VALUE_BYTES_MAX = 4096
"""A file of /sys has at most one page."""

_kept: dict[str, bytes] = {}


def folder(root: Path) -> Path:
    """The folder of the DMI values on the machine whose /sys is under `root`."""
    return root / "sys/class/dmi/id"


def keep(root: Path = Path("/")) -> None:
    """Read the values that this process may read, for the time when it may not. A value that it cannot read is left out."""
    for kind in KINDS:
        with suppress(OSError), (folder(root) / kind).open("rb") as file:
            _kept[kind] = file.read(VALUE_BYTES_MAX)


def forget() -> None:
    """Forget the kept values."""
    _kept.clear()


def provided(kind: str, environment: Mapping[str, str] | None = None) -> bytes:
    """The kept value of a kind, or that of the credential `dmi-KIND`. Empty if there is neither.

    An empty credential says that systemd could not read the file. /sys then has the answer: no value, or no permission.
    """
    if kind in _kept:
        return _kept[kind]
    directory = (os.environ if environment is None else environment).get("CREDENTIALS_DIRECTORY")
    if not directory:
        return b""
    try:
        with (Path(directory) / f"dmi-{kind.replace('_', '-')}").open("rb") as file:
            return file.read(VALUE_BYTES_MAX)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return b""
