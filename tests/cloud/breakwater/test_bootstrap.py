"""`cloud.breakwater.bootstrap`: the files that `cascade init` makes, and new certificates for expired services."""

import shutil
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.app import breakwater_unit, opened
from cloud.breakwater.bootstrap import ROOT_KEY_FILE, AlreadyInitialised, host_names, initialise, replace_unusable
from cloud.breakwater.settings import BreakwaterSettings
from cloud.breakwater.store.issuance import ServiceHostName
from cloud.clock import utc_now
from cloud.crypto.keyfile import read_key, write_secret
from cloud.mtls.identity import load_identity
from cloud.process.gates import GateRefused
from cloud.process.settings import load_settings
from cloud.storage import Location
from cloud.storage.migrate import applied_ids, known_ids
from protocol.ids import IdError, ServiceName
from tests.cloud.breakwater.support import PASSPHRASE, PKI_URL, START, Clock, issuer_at, plan_for

pytestmark = pytest.mark.slow


def test_every_secret_is_private_and_every_key_encrypted(home: Path) -> None:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    keys = [path for path in files if path.name.endswith("key.pem")]
    assert len(keys) == 5
    for path in keys:
        assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert all(b"-----BEGIN PRIVATE KEY" not in path.read_bytes() for path in files)


def test_the_root_key_is_offline_and_belongs_to_the_root(home: Path) -> None:
    key = read_key(home / "offline" / ROOT_KEY_FILE, PASSPHRASE)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    root = x509.load_pem_x509_certificate((home / "breakwater" / "certs" / "root.pem").read_bytes())
    assert root.public_key() == key.public_key()
    assert not (home / "breakwater" / "keys" / ROOT_KEY_FILE).exists()


async def test_the_first_service_certificates_have_records_like_all_others(home: Path, database: Location) -> None:
    async with issuer_at(home, database, Clock()) as issuer:
        rows = {row["service"]: row for row in await issuer.records()}
    assert set(rows) == {"breakwater", "fabric"}
    for service, row in rows.items():
        leaf = load_identity(home / service / "tls", home / "passphrase").leaf
        assert row["state"] == "issued"
        assert int(row["serial"], 16) == leaf.serial_number
        assert row["tbs"] == leaf.tbs_certificate_bytes


async def test_the_migrations_ran(home: Path) -> None:
    assert await applied_ids(home / "breakwater" / "database.sqlite") == known_ids("breakwater") != set()


def test_the_settings_load_and_wire(home: Path) -> None:
    settings = load_settings(home / "breakwater" / "settings.toml", BreakwaterSettings)
    assert [(each.host, each.tls, each.purpose) for each in settings.listeners] == [
        ("127.0.0.1", True, "api"),
        ("127.0.0.1", False, "pki"),
    ]
    assert settings.pki_url == PKI_URL
    assert breakwater_unit(home / "breakwater" / "settings.toml").name == "breakwater"


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_a_second_time_is_refused_and_changes_nothing(home: Path) -> None:
    before = content(home)
    with pytest.raises(AlreadyInitialised):
        await initialise(plan_for(home), lambda: START)
    assert content(home) == before


async def test_a_wrong_trust_domain_writes_nothing(tmp_path: Path) -> None:
    write_secret(tmp_path / "passphrase", PASSPHRASE)
    plan = plan_for(tmp_path)
    with pytest.raises(IdError):
        await initialise(msgspec.structs.replace(plan, trust_domain="No"), Clock())
    assert not (tmp_path / "breakwater").exists()


def test_hosts() -> None:
    assert host_names(("127.0.0.1", "Example.ORG", "::1", "127.0.0.1")) == (
        ServiceHostName("ip", "127.0.0.1"),
        ServiceHostName("dns", "example.org"),
        ServiceHostName("ip", "::1"),
    )


async def test_production_does_not_start_on_a_development_ca(home: Path, tmp_path: Path) -> None:
    settings = load_settings(home / "breakwater" / "settings.toml", BreakwaterSettings)
    with pytest.raises(GateRefused) as caught:
        async with opened(msgspec.structs.replace(settings, mode="production")):
            pass
    assert caught.value.rule == "ca-is-not-for-development"
    write_secret(tmp_path / "passphrase", PASSPHRASE)
    await initialise(msgspec.structs.replace(plan_for(tmp_path), mode="production"), utc_now)
    settings = load_settings(tmp_path / "breakwater" / "settings.toml", BreakwaterSettings)
    assert settings.mode == "production"
    async with opened(settings) as issuer:
        assert issuer.served.listeners


async def test_a_service_that_was_off_for_too_long_gets_a_new_certificate_and_key(home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(home, tmp_path / "home"))
    settings = home / "breakwater" / "settings.toml"
    tls: dict[ServiceName, Path] = {"fabric": home / "fabric" / "tls"}
    before = load_identity(tls["fabric"], home / "passphrase")
    assert await replace_unusable(settings, tls, lambda: before.leaf.not_valid_after_utc - timedelta(seconds=1)) == {}
    assert load_identity(tls["fabric"], home / "passphrase").leaf == before.leaf
    late = before.leaf.not_valid_after_utc + timedelta(days=100)
    assert await replace_unusable(settings, tls, lambda: late) == {
        "fabric": f"has expired at {before.leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
    }
    after = load_identity(tls["fabric"], home / "passphrase")
    assert after.leaf.public_key() == after.key.public_key() != before.leaf.public_key()
    assert after.leaf.not_valid_before_utc <= late < after.leaf.not_valid_after_utc
    assert after.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == (
        before.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
