"""The machine in QEMU, without QEMU: its command line, and the answers of commands. `make machine` boots it."""

from pathlib import Path

import pytest

from lab.guest import Board, Done, Guest
from lab.guest_image import Image
from lab.processes import StepFailed


def test_the_hardware_is_on_the_command_line(tmp_path: Path) -> None:
    guest = object.__new__(Guest)
    guest.directory, guest.disk, guest.board = tmp_path, tmp_path / "disk", Board(uuid="u-1", mac="02:00:00:00:00:01")
    guest.image = Image(Path("/k"), Path("/i"), Path("/d"), Path("/a"))
    line = " ".join(guest._command("1970-01-01T00:00:00", "systemd.clock_usec=1"))
    for part in (
        "uuid=u-1",
        "mac=02:00:00:00:00:01",
        "base=1970-01-01T00:00:00",
        "tpm-tis",
        "-kernel /k",
        "clock_usec=1",
    ):
        assert part in line


def test_a_command_that_prints_no_document_fails() -> None:
    assert Done(0, '{"a": 1}', "").document() == {"a": 1}
    with pytest.raises(StepFailed, match="exited 87 without a document: no TPM"):
        Done(87, "", "no TPM").document()
