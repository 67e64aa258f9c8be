"""Connections to the TPM: the refusals of a device. `test_tpm.py` uses both kinds of connections to a software TPM."""

import errno
import os

import pytest

from node.hwbind import errors
from node.hwbind.link import DeviceLink


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.TpmAbsent),
        (errno.ENXIO, errors.TpmAbsent),
        (errno.EACCES, errors.TpmPermission),
        (errno.EBUSY, errors.TpmBusy),
        (errno.EIO, errors.TpmFailed),
    ],
)
def test_a_device_that_does_not_open(monkeypatch: pytest.MonkeyPatch, number: int, kind: type[errors.TpmError]) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    # Root may open every file, so the test raises the operating system's refusal itself.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind):
        DeviceLink.open("/dev/tpmrm0")
