"""`cloud.breakwater.admin`: opens the issuer on its host."""

import shutil
from pathlib import Path

import pytest

from cloud.breakwater.admin import opened, opened_stores
from cloud.crypto.keyfile import KeyFileError
from cloud.process.settings import SettingsError
from tests.cloud.breakwater.support import START, Clock


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A copy of the installation that the test may change."""
    return Path(shutil.copytree(home, tmp_path / "home"))


async def test_an_operator_works_on_the_same_database_and_keys(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "anna smith")
    async with opened(place / "breakwater" / "settings.toml", Clock()) as admin:
        assert (admin.caller, admin.now()) == ("operator/anna_smith", START)
        assert admin.parts.authorities.can_sign("nodes-1")
        assert await admin.parts.service_certificates.revoke_all(admin.caller, "fabric", "superseded")
    monkeypatch.delenv("SUDO_USER")
    async with opened(place / "breakwater" / "settings.toml", Clock()) as admin:
        assert admin.caller.startswith("operator/")
        assert not await admin.parts.service_certificates.revoke_all(admin.caller, "fabric", "superseded")


async def test_records_are_read_without_any_key(place: Path) -> None:
    (place / "passphrase").unlink()
    with pytest.raises(KeyFileError):
        async with opened(place / "breakwater" / "settings.toml", Clock()):
            pass
    async with opened_stores(place / "breakwater" / "settings.toml") as stores:
        assert await stores.checker_reads.count() == 2
        assert len(await stores.authorities.rows()) == 3


async def test_settings_that_break_a_promise_are_refused(place: Path) -> None:
    settings = place / "breakwater" / "settings.toml"
    settings.write_text(settings.read_text() + "\n[crl]\nlife_hours = 1\n")
    with pytest.raises(SettingsError, match="crl-outlives-its-period"):
        async with opened_stores(settings):
            pass
