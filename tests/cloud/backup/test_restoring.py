"""A restore brings every row and file back, on either engine, and refuses what is not right before it writes."""

import os
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cloud.backup.contents import Installation, read_installation
from cloud.backup.errors import BackupRefused
from cloud.backup.format import ServicePart
from cloud.backup.restoring import restore
from cloud.clock import utc_now
from cloud.process.settings import SettingsError
from cloud.storage import Location
from cloud.storage.database import open_database
from cloud.storage.errors import DatabaseInUse
from lab.postgres import cluster
from tests.cloud.backup.support import (
    CHANGED,
    Content,
    back_up,
    content_of,
    databases_of,
    order_of,
    over,
    restored,
    silent,
    unchanged,
)
from tests.cloud.fabric.support import Machine, World


@pytest.fixture
def servers() -> dict[ServicePart, Location]:
    """Two empty PostgreSQL databases."""
    return {"fabric": cluster().create(), "breakwater": cluster().create()}


def same_rows(before: Content, after: Content) -> None:
    """Every table is the same, except what a restore marks."""
    assert before.keys() == after.keys()
    assert unchanged(before) == unchanged(after)
    for name in CHANGED - {("breakwater", "enrolment")}:
        assert len(after[name]) >= len(before[name])


async def test_a_restore_brings_every_row_and_file_back(
    filled: Installation, pin: str, machine: Machine, tmp_path: Path
) -> None:
    made = await back_up(filled, tmp_path / "b")
    before = await content_of(databases_of(filled))
    report = await restored(order_of(tmp_path / "b", tmp_path / "new", pin))
    after = read_installation(tmp_path / "new")
    same_rows(before, await content_of(databases_of(after)))
    assert (report.rows, report.files) == (made.rows, made.files)
    assert before["fabric", "node"]
    assert not list((tmp_path / "new").glob(".*"))
    for name in ("breakwater/keys/nodes-ca.key.pem", "fabric/keys/lease.key.pem", "fabric/tls/chain.pem"):
        assert (tmp_path / "new" / name).read_bytes() == (filled.directory / name).read_bytes()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert (tmp_path / "new" / "secrets" / "passphrase").exists()


@pytest.mark.slow
async def test_there_and_back_between_the_engines(
    servers: dict[ServicePart, Location], filled: Installation, pin: str, machine: Machine, tmp_path: Path
) -> None:
    """SQLite, PostgreSQL, SQLite: every value of every row is the same."""
    before = await content_of(databases_of(filled))
    await back_up(filled, tmp_path / "1")
    await restored(order_of(tmp_path / "1", tmp_path / "there", pin, databases=servers))
    there = read_installation(tmp_path / "there")
    assert not isinstance(there.database("fabric"), Path)
    between = await content_of(servers)
    same_rows(before, between)
    await back_up(over(there, servers), tmp_path / "2")
    await restored(order_of(tmp_path / "2", tmp_path / "back", pin))
    same_rows(between, await content_of(databases_of(read_installation(tmp_path / "back"))))


async def test_a_key_backup_has_keys_and_revocations_and_no_nodes(
    filled: Installation, pin: str, machine: Machine, world: World, tmp_path: Path
) -> None:
    assert machine.activated is not None
    await world.issuer.close_generation(machine.activated.tenant, machine.activated.node, 1)
    before = await content_of(databases_of(filled))
    await back_up(filled, tmp_path / "b", "keys")
    await restored(order_of(tmp_path / "b", tmp_path / "new", pin))
    after = await content_of(databases_of(read_installation(tmp_path / "new")))
    for name in (
        ("fabric", "tenant"),
        ("fabric", "tuf_metadata"),
        ("breakwater", "authority"),
        ("breakwater", "shard"),
    ):
        assert after[name] == before[name] != []
    names: dict[str, bytes] = dict(after["fabric", "installation"])
    values: dict[str, bytes] = dict(before["fabric", "installation"])
    assert names["ek_key"] == values["ek_key"]
    assert names["restored_parts"] == b"keys"
    assert after["fabric", "node"] == after["fabric", "code"] == []
    kept = {"revoked", "fabric", "breakwater"}  # states, and names of services
    certificates = [
        row for row in before["breakwater", "certificate"] if kept & {each for each in row if type(each) is str}
    ]
    assert after["breakwater", "certificate"] == certificates
    assert len(certificates) > 2


async def test_one_service_is_restored_beside_the_other(
    installed: Installation, backup: Path, pin: str, tmp_path: Path
) -> None:
    both = tmp_path / "new"
    await restored(order_of(backup, both, pin, services=("breakwater",)))
    assert not (both / "fabric").exists()
    assert not (both / "operator").exists()
    await restored(order_of(backup, both, pin, services=("fabric",)))
    assert read_installation(both).fabric.trust_domain == installed.fabric.trust_domain


async def test_a_directory_or_a_database_in_use_is_refused(backup: Path, pin: str, tmp_path: Path) -> None:
    (tmp_path / "new" / "fabric").mkdir(parents=True)
    with pytest.raises(BackupRefused) as refused:
        await restored(order_of(backup, tmp_path / "new", pin))
    assert refused.value.code == "target_in_use"
    used = tmp_path / "used.sqlite"
    async with open_database("fabric", used, is_new=True):
        pass
    before = used.read_bytes()
    with pytest.raises(DatabaseInUse):
        await restored(order_of(backup, tmp_path / "other", pin, databases={"fabric": used}))
    assert used.read_bytes() == before
    assert not (tmp_path / "other").exists()


async def test_a_clock_before_the_backup_is_refused(backup: Path, pin: str, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused) as refused:
        await restore(order_of(backup, tmp_path / "new", pin), lambda: utc_now() - timedelta(days=30), silent)
    assert refused.value.code == "clock_behind"
    assert not (tmp_path / "new").exists()


async def test_a_backup_of_a_newer_schema_is_refused(
    backup: Path, pin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.backup.restoring.known_ids", lambda _: {"m0001_tables"})
    with pytest.raises(BackupRefused) as refused:
        await restored(order_of(backup, tmp_path / "new", pin))
    assert refused.value.code == "backup_schema_too_new"
    assert not (tmp_path / "new").exists()


async def test_a_restore_that_was_interrupted_is_refused_by_name_and_repeated(
    backup: Path, pin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(backup, tmp_path / "new", pin)

    async def broken(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("cloud.backup.restoring.load", broken)
        await restored(order)
    with pytest.raises(SettingsError, match="a restore into this installation has not ended"):
        read_installation(tmp_path / "new")
    with pytest.raises(BackupRefused) as refused:
        await restored(msgspec.structs.replace(order, services=("fabric",)))
    assert refused.value.code == "restore_unfinished"
    await restored(order)
    assert read_installation(tmp_path / "new").directory == tmp_path / "new"
