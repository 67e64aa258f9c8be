"""Progress is printed now and then, on a terminal only."""

import sys
from argparse import Namespace

import pytest

from cloud.cli.pki.progress import watcher


def test_nothing_is_printed_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    watcher(Namespace(json=False))("certificates", 1, 1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_line_every_so_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    watcher(Namespace(json=True))("certificates", 1, 1)
    progress = watcher(Namespace(json=False))
    for done in (1, 1999, 2000, 2500):
        progress("certificates", done, 2500)
    progress("CRLs", 1, 2)
    assert capsys.readouterr().err == ("\rcertificates: 2000 of 2500\rcertificates: 2500 of 2500\n\rCRLs: 1 of 2")
