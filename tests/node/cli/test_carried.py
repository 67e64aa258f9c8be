"""`cascadia request` and `cascadia license import`: files, text, QR codes, and the socket of a running agent."""

import io
import os
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.airgap.errors import AirgapRefused
from node.cli import carried
from node.cli.carried import FileUnusable, QrUnavailable, hand_out, read_carried
from node.cli.recover import NodeUnknown
from node.exchanges.recovery import Source
from protocol.airgap.forms import read_request, to_file
from protocol.codes import make_secret
from protocol.encoding import json_encode
from protocol.limits import AIRGAP_CARRIED_BYTES_MAX
from protocol.messages.activation import ActivationFile, TrustPin
from tests.protocol.airgap.examples import NODE, a_request, signed_request

FILE = to_file(signed_request(a_request())).decode()
REQUEST = read_request(FILE.encode())


def test_a_request_is_printed_as_json_or_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    hand_out(FILE, "file", None)
    assert read_request(capsys.readouterr().out.encode()) == REQUEST
    hand_out(FILE, "text", None)
    printed = capsys.readouterr().out
    assert printed.startswith("CASCADE-REQUEST ")
    assert read_request(printed.encode()) == REQUEST


def test_a_written_request_is_private(tmp_path: Path) -> None:
    out = tmp_path / "request"
    out.write_text("older and longer " * 1000)
    out.chmod(0o644)
    hand_out(FILE, "text", out)
    assert out.stat().st_mode & 0o777 == 0o600
    assert read_request(out.read_bytes()) == REQUEST


def test_a_pipe_or_a_device_is_written_and_keeps_its_mode(tmp_path: Path) -> None:
    """Root who names /dev/null must not take it from every other user."""
    out = tmp_path / "pipe"
    os.mkfifo(out)
    out.chmod(0o666)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    try:
        hand_out(FILE, "text", out)
        assert read_request(os.read(reader, 65536)) == REQUEST
    finally:
        os.close(reader)
    assert out.stat().st_mode & 0o777 == 0o666


def test_a_qr_code_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hand_out(FILE, "qr", None)
    assert "█" in capsys.readouterr().out
    for kind, head in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        out = tmp_path / f"request.{kind}"
        hand_out(FILE, "qr", out)
        assert out.read_bytes().startswith(head)
    with pytest.raises(FileUnusable, match=r"as \.svg or \.png"):
        hand_out(FILE, "qr", tmp_path / "request.txt")


def test_a_request_that_is_too_large_for_a_qr_code_names_the_limit() -> None:
    large = to_file(signed_request(a_request(presented="".join(map(chr, range(256, 3000)))))).decode()
    with pytest.raises(AirgapRefused, match="which holds 2670") as caught:
        hand_out(large, "qr", None)
    assert caught.value.next == "Use `--out FILE`, or `--text`."


def test_without_the_library_there_is_no_qr_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(QrUnavailable, match="the library segno is not installed"):
        hand_out(FILE, "qr", None)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileUnusable, match="No such file"):
        read_carried(str(tmp_path / "missing"))
    for form in ("file", "qr"):
        with pytest.raises(FileUnusable, match="cannot write"):
            hand_out(FILE, form, tmp_path / "missing" / "request.svg")


def test_the_input_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(b"x" * (AIRGAP_CARRIED_BYTES_MAX + 100))

    monkeypatch.setattr(sys, "stdin", Input())
    assert len(read_carried("-")) == AIRGAP_CARRIED_BYTES_MAX + 1


def test_a_recovery_takes_node_and_cloud_from_its_options(tmp_path: Path) -> None:
    file = tmp_path / "activation.json"
    at = datetime(2026, 11, 30, tzinfo=UTC)
    pin = TrustPin(1, "0" * 64)
    file.write_bytes(json_encode(ActivationFile(1, "http://a.example", pin, make_secret("cac", bytes(20)), at)))
    given = Namespace(file=file, node=NODE, code_file=None)
    assert carried._Recovers.of(given) == carried._Recovers(Source("http://a.example", pin, at), "", NODE)
    assert carried._Recovers.of(Namespace(file=None, node=None, code_file=None)) == carried._Recovers(None, "", "")
    with pytest.raises(NodeUnknown):
        carried._Recovers.of(Namespace(file=None, node="node_1", code_file=None))
