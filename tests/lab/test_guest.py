"""The machine in QEMU, without QEMU: its command line, and the answers of commands. `make machine` boots it."""

import itertools
import json
import socket
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


def test_another_disk_is_on_the_command_line(tmp_path: Path) -> None:
    guest = object.__new__(Guest)
    guest.directory, guest.disk, guest.board = tmp_path, tmp_path / "disk", Board()
    guest.image, guest.drive = Image(Path("/k"), Path("/i"), Path("/d"), None), "driver=nbd"
    line = guest._command("utc", "")
    assert "if=none,id=disk,cache=writeback,driver=nbd" in line
    assert str(guest.disk) not in " ".join(line)


def test_a_command_that_is_not_waited_for() -> None:
    guest = object.__new__(Guest)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guest._shell, guest._rest, guest._numbers = ours, b"", itertools.count(5)
        answered = guest.begin("true", seconds=10)
        assert json.loads(theirs.recv(4096)) == {"id": 5, "argv": ["true"], "input": "", "seconds": 10}
        assert answered(0.01) is None
        of_before = {"id": 4, "status": 1, "out": "", "error": "late"}
        theirs.sendall(b"".join(json.dumps(of_before | more).encode() + b"\n" for more in ({}, {"id": 5, "status": 3})))
        assert answered(10) == Done(3, "", "late")
        theirs.close()
        with pytest.raises(StepFailed, match="`true` did not run in the guest"):
            Guest.run(guest, "true", seconds=10)


def test_a_command_that_prints_no_document_fails() -> None:
    assert Done(0, '{"a": 1}', "").document() == {"a": 1}
    with pytest.raises(StepFailed, match="exited 87 without a document: no TPM"):
        Done(87, "", "no TPM").document()
