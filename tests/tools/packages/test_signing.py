"""`tools.packages.signing`: what GnuPG lists. The drill `packages` makes and checks signatures."""

from pathlib import Path

import pytest

from tools.packages import signing
from tools.packages.errors import PackageError

LISTING = """tru::1:1796000000:0:3:1:5
sec:u:3072:1:1559FE4BC9CC6527:1795990000:::u:::scESC:::+:::23::0:
fpr:::::::::0123456789ABCDEF0123456789ABCDEF01234567:
grp:::::::::AAAA:
uid:u::::1795990000::BBBB::Cascade::::::::::0:
ssb:u:3072:1:FFFFFFFFFFFFFFFF:1795990000::::::e:::+:::23:
fpr:::::::::FEDCBA9876543210FEDCBA9876543210FEDCBA98:
"""


def test_a_listing_gives_time_and_fingerprint_of_the_primary_key() -> None:
    assert signing.created(LISTING) == 1_795_990_000
    assert signing.fingerprints(LISTING) == ["0123456789ABCDEF0123456789ABCDEF01234567"]
    assert signing.fingerprints("") == []


def test_a_name_of_several_keys_signs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "run", lambda _: LISTING)
    assert signing.from_home("Cascade", 0).fingerprint == "0123456789ABCDEF0123456789ABCDEF01234567"
    monkeypatch.setattr(signing, "run", lambda _: LISTING + LISTING)
    with pytest.raises(PackageError, match="2 secret keys are named Cascade"):
        signing.from_home("Cascade", 0)


def test_an_exported_throwaway_key_signs_no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its uid says so, also after a second one was added."""
    first = LISTING.replace("::Cascade::", f"::{signing.THROWAWAY}::")
    second = LISTING + f"uid:u::::1795990001::CCCC::{signing.THROWAWAY}::::::::::0:\n"
    for listing in (first, second):
        monkeypatch.setattr(signing, "run", lambda _, listing=listing: listing)
        with pytest.raises(PackageError, match="with a THROWAWAY key"):
            signing.from_home("0123456789ABCDEF", 0)
        with pytest.raises(PackageError, match="with a THROWAWAY key"), signing.from_file(tmp_path / "k", tmp_path, 0):
            pass
        assert list(tmp_path.iterdir()) == []


def test_a_secret_key_is_removed_when_gnupg_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_: list[str]) -> str:
        raise PackageError("cannot run it")

    monkeypatch.setattr(signing, "run", fails)
    with pytest.raises(PackageError), signing.from_file(tmp_path / "key.asc", tmp_path, 0):
        pass
    assert list(tmp_path.iterdir()) == []
