"""`cloud.breakwater.ceremony.file`: which ceremony files are valid, and the error of each invalid file."""

import re
from pathlib import Path
from typing import get_args

import pytest

from cloud.breakwater.ceremony.file import Ceremony, CrlCeremony, read_bounded, read_ceremony
from cloud.breakwater.errors import CeremonyError
from cloud.contracts.breakwater import RevocationReason


def test_the_examples_of_the_document_are_ceremonies(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "ceremonies.md").read_text(encoding="utf-8")
    types = set()
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        types.add(type(read_ceremony(file)[0]))
    assert types == set(get_args(Ceremony))


CRL = """
type = "crl"
number = 1
days = 180
crl = "root-1.crl"
first = true

[root]
authority = "root-1"
certificate = { path = "root-1.pem", sha256 = "%s" }
key = "root-1.key.pem"
passphrase_file = "passphrase"

[[revoked]]
certificate = { path = "nodes-1.pem", sha256 = "%s" }
at = 2026-11-22T12:00:00Z
reason = "keyCompromise"
""" % ("a" * 64, "b" * 64)  # noqa: UP031  (TOML has braces)


def read(directory: Path, text: str) -> Ceremony:
    file = directory / "ceremony.toml"
    file.write_text(text)
    return read_ceremony(file)[0]


def test_a_file_says_everything(tmp_path: Path) -> None:
    ceremony = read(tmp_path, CRL)
    assert isinstance(ceremony, CrlCeremony)
    assert (ceremony.number, ceremony.first, ceremony.previous) == (1, True, None)
    assert [(each.certificate.path, each.reason) for each in ceremony.revoked] == [("nodes-1.pem", "keyCompromise")]


@pytest.mark.parametrize("reason", get_args(RevocationReason))
def test_every_reason_of_the_command_line_is_one_of_a_ceremony(tmp_path: Path, reason: str) -> None:
    ceremony = read(tmp_path, CRL.replace("keyCompromise", reason))
    assert isinstance(ceremony, CrlCeremony)
    assert ceremony.revoked[0].reason == reason


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("days = 180", "days = 401", "<= 400"),
        ("first = true", "", "give the CRL before this one"),
        ("12:00:00Z", "12:00:00", "no time zone"),
        ('crl = "root-1.crl"', 'crl = "root-1.crl"\npassphrase = "x"', "unknown field `passphrase`"),
        ('"keyCompromise"', '"key_compromise"', "Invalid enum value"),
        ("a" * 64, "A" * 64, "matching regex"),
        ('type = "crl"', 'type = "party"', "Invalid value 'party'"),
        ('type = "crl"', "type", "cannot use"),
    ],
)
def test_one_mutation_one_error(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(CeremonyError, match=why) as caught:
        read(tmp_path, CRL.replace(old, new))
    assert "ceremony.toml" in str(caught.value)


def test_files_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"x" * 10)
    assert read_bounded(file, 10) == b"x" * 10
    with pytest.raises(CeremonyError, match="larger than 9 bytes"):
        read_bounded(file, 9)
    with pytest.raises(CeremonyError, match="cannot read"):
        read_bounded(tmp_path / "gone", 9)
