"""The publisher of the TUF repository: what it signs, when it signs again, what it serves and what it refuses."""

import stat
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from cloud.crypto.keyfile import KeyFileError
from cloud.fabric.tuf.bootstrap import ROOT_KEY, TARGETS_KEY, initialise, read_online_signers, read_signer
from cloud.fabric.tuf.repository import MetadataFile, Publication, pin_of, refresh_online, signer_of
from cloud.fabric.tuf.serving import MetadataName, TargetName, file_for, keep_fresh, parse_path
from cloud.fabric.tuf.targets import TargetsError, build_targets
from protocol.encoding import sha256_hex
from protocol.ids import IdError
from protocol.signed.trust import TARGET_SERVICES, TARGETS
from tests.simulators.repository import START, MemoryStore, Repository, certificate, content, p256, verification_key

PASSPHRASE = b"sixteen bytes or more"
DAY = timedelta(days=1)


def verified(repository: Repository, now: datetime) -> TrustedMetadataSet:
    """What the library's client makes of the newest files, judged at `now`."""
    trusted = TrustedMetadataSet(repository.store.files["root", 1].data, EnvelopeType.METADATA)
    trusted.reference_time = now
    trusted.update_timestamp(repository.latest.timestamp.data)
    trusted.update_snapshot(repository.latest.snapshot.data)
    trusted.update_targets(repository.latest.targets.data)
    return trusted


def test_a_new_repository_verifies_and_has_the_lives_of_the_design() -> None:
    repository = Repository()
    trusted = verified(repository, START)
    assert trusted.root.consistent_snapshot is True
    assert trusted.root.expires == START + timedelta(days=3652)
    assert trusted.targets.expires == START + 365 * DAY
    assert trusted.snapshot.expires == START + 30 * DAY
    assert trusted.timestamp.expires == START + 7 * DAY
    assert set(trusted.targets.targets) == set(TARGETS)
    assert trusted.targets.delegations is None
    assert (trusted.root.version, trusted.targets.version) == (1, 1)
    assert trusted.snapshot.version == trusted.timestamp.version == int(START.timestamp())
    assert trusted.timestamp.snapshot_meta.hashes == {"sha256": sha256_hex(repository.latest.snapshot.data)}
    assert len({key for role in trusted.root.roles.values() for key in role.keyids}) == 4


@pytest.mark.parametrize(
    ("after", "roles"),
    [
        (timedelta(0), []),
        (DAY * 3.5, []),
        (DAY * 3.5 + timedelta(seconds=1), ["timestamp"]),
        (8 * DAY, ["timestamp"]),
        (15 * DAY + timedelta(seconds=1), ["snapshot", "timestamp"]),
        (40 * DAY, ["snapshot", "timestamp"]),
    ],
)
def test_online_roles_are_signed_again_past_half_their_life(after: timedelta, roles: list[str]) -> None:
    repository = Repository()
    publication = refresh_online(repository.latest, START + after, repository.online)
    assert [file.role for file in publication.metadata] == roles if publication else not roles
    if publication:
        repository.store.add(publication)
        trusted = verified(repository, START + after)
        assert trusted.timestamp.version == int((START + after).timestamp())
        assert trusted.timestamp.expires == START + after + 7 * DAY


def test_versions_rise_when_the_clock_does_not() -> None:
    repository = Repository()
    before = repository.latest
    repository.replace(content(), now=START - 9 * DAY)
    assert repository.latest.targets.version == 2
    assert repository.latest.snapshot.version == before.snapshot.version + 1
    assert repository.latest.timestamp.version == before.timestamp.version + 1


def test_a_restored_database_publishes_newer_versions_than_it_had_published() -> None:
    repository = Repository()
    restored = repository.latest
    repository.refresh(START + 20 * DAY)
    lost = repository.latest
    again = refresh_online(restored, START + 21 * DAY, repository.online)
    assert again is not None
    snapshot, timestamp = again.metadata
    assert snapshot.version > lost.snapshot.version
    assert timestamp.version > lost.timestamp.version


def test_the_online_keys_cannot_vouch_for_targets() -> None:
    repository = Repository()
    forged = Metadata[Targets].from_bytes(repository.latest.targets.data)
    forged.signed.version = 2
    forged.sign(repository.online.snapshot)
    repository.store.files["targets", 2] = MetadataFile(role="targets", version=2, data=forged.to_bytes())
    publication = refresh_online(repository.latest, START + 16 * DAY, repository.online)
    assert publication is not None
    repository.store.add(publication)
    with pytest.raises(RepositoryError):
        verified(repository, START + 16 * DAY)


def test_the_pin_names_the_root_and_nothing_else() -> None:
    repository = Repository()
    root = repository.store.files["root", 1]
    assert str(pin_of(root)) == f"1:{sha256_hex(root.data)}"
    with pytest.raises(ValueError, match="made of a root"):
        pin_of(repository.latest.targets)


def test_signers_are_p256_only() -> None:
    with pytest.raises(ValueError, match="P-256"):
        signer_of(ec.generate_private_key(ec.SECP384R1()))


def test_initialise_puts_four_encrypted_keys_in_two_places(tmp_path: Path) -> None:
    offline, online = tmp_path / "offline", tmp_path / "keys"
    offline.mkdir()
    online.mkdir()
    publication = initialise(START, offline, online, PASSPHRASE, content())
    assert sorted(path.name for path in offline.iterdir()) == [ROOT_KEY, TARGETS_KEY]
    assert sorted(path.name for path in online.iterdir()) == ["tuf-snapshot.key.pem", "tuf-timestamp.key.pem"]
    for path in (*offline.iterdir(), *online.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert [file.role for file in publication.metadata] == ["root", "targets", "snapshot", "timestamp"]
    root = Metadata[Root].from_bytes(publication.metadata[0].data).signed
    signers = read_online_signers(online, PASSPHRASE)
    assert root.roles[Snapshot.type].keyids == [signers.snapshot.public_key.keyid]
    assert root.roles[Timestamp.type].keyids == [signers.timestamp.public_key.keyid]
    assert root.roles[Targets.type].keyids == [read_signer(offline / TARGETS_KEY, PASSPHRASE).public_key.keyid]
    with pytest.raises(KeyFileError, match="there is a key already"):
        initialise(START, offline, online, PASSPHRASE, content())
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        read_online_signers(online, b"another one of 16 bytes")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/tuf/metadata/timestamp.json", MetadataName(role="timestamp", version=None)),
        ("/tuf/metadata/1.root.json", MetadataName(role="root", version=1)),
        ("/tuf/metadata/1795348800.snapshot.json", MetadataName(role="snapshot", version=1795348800)),
        ("/tuf/metadata/12.targets.json", MetadataName(role="targets", version=12)),
        (f"/tuf/targets/{'a' * 64}.services.json", TargetName(name="services.json", sha256="a" * 64)),
        ("/tuf/metadata/root.json", None),
        ("/tuf/metadata/0.root.json", None),
        ("/tuf/metadata/01.root.json", None),
        ("/tuf/metadata/1.timestamp.json", None),
        ("/tuf/metadata/٣.root.json", None),
        ("/tuf/metadata/1.root.json\n", None),
        ("/tuf/metadata/../metadata/1.root.json", None),
        ("/tuf/metadata/1.delegated.json", None),
        ("/tuf/metadata/" + "9" * 400 + ".root.json", None),
        ("/tuf/targets/services.json", None),
        (f"/tuf/targets/{'A' * 64}.services.json", None),
        (f"/tuf/targets/{'a' * 64}.../secrets.json", None),
        ("/tuf/", None),
        ("", None),
    ],
)
def test_paths_name_files_by_the_rules_of_consistent_snapshots(
    path: str, named: MetadataName | TargetName | None
) -> None:
    assert parse_path(path) == named


async def test_files_are_served_from_the_store_and_older_ones_stay() -> None:
    repository = Repository()
    store = repository.store
    old = repository.latest
    services = repository.target_path(TARGET_SERVICES)
    repository.replace(content(port=9000))
    assert await file_for("/tuf/metadata/timestamp.json", store) == repository.latest.timestamp.data
    assert await file_for("/tuf/metadata/1.targets.json", store) == old.targets.data
    assert await file_for("/tuf/metadata/2.targets.json", store) == repository.latest.targets.data
    assert await file_for("/tuf/metadata/2.root.json", store) is None
    assert b":8440" in (await file_for(services, store) or b"")
    assert b":9000" in (await file_for(repository.target_path(TARGET_SERVICES), store) or b"")
    assert await file_for("/tuf/metadata/timestamp.json", MemoryStore()) is None
    assert await file_for("/etc/passwd", store) is None


async def test_the_loop_publishes_when_it_is_due() -> None:
    repository = Repository()
    assert await keep_fresh(repository.store, START, repository.online) is False
    assert await keep_fresh(repository.store, START + 4 * DAY, repository.online) is True
    assert await keep_fresh(repository.store, START + 4 * DAY, repository.online) is False
    with pytest.raises(LookupError, match="cascade init"):
        await keep_fresh(MemoryStore(), START, repository.online)


def test_a_publication_is_one_value() -> None:
    repository = Repository()
    assert refresh_online(repository.latest, START, repository.online) is None
    due = refresh_online(repository.latest, START + 16 * DAY, repository.online)
    assert isinstance(due, Publication)
    assert due.targets == ()


KEY = verification_key(p256(), "lease")
OTHER = verification_key(p256(), "lease")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"keys": []}, "at least one"),
        ({"keys": [KEY, KEY]}, "each once"),
        ({"keys": [msgspec.structs.replace(KEY, kid=OTHER.kid)]}, "its own name"),
        ({"keys": [msgspec.structs.replace(KEY, public_key_der=b"no key")]}, "cannot be read"),
        ({"keys": [msgspec.structs.replace(KEY, typs=())]}, "may sign nothing"),
        ({"keys": [msgspec.structs.replace(KEY, not_after=KEY.not_before)]}, "may sign nothing"),
        ({"roots": []}, "at least one certificate"),
        ({"node_issuers": [b"no certificate"]}, "cannot be read"),
        ({"fabric_url": "http://fabric:8440"}, "https://host:port"),
        ({"fabric_url": "https://fabric"}, "https://host:port"),
        ({"fabric_url": "https://fabric:8440/"}, "https://host:port"),
        ({"fabric_url": "https://user@fabric:8440"}, "https://host:port"),
        ({"breakwater_url": "https://fabric:port"}, "not a number"),
    ],
)
def test_content_that_no_node_could_use_is_not_published(change: dict[str, object], error: str) -> None:
    good = {
        "keys": [KEY, OTHER],
        "trust_domain": "cascade.internal",
        "roots": [certificate("root")],
        "node_issuers": [certificate("nodes")],
        "service_issuers": [certificate("services")],
        "fabric_url": "https://fabric:8440",
        "breakwater_url": "https://[::1]:8441",
    }
    assert set(build_targets(**good)) == set(TARGETS)  # type: ignore[arg-type]
    with pytest.raises(TargetsError, match=error):
        build_targets(**(good | change))  # type: ignore[arg-type]


def test_a_malformed_trust_domain_is_not_published() -> None:
    with pytest.raises(IdError):
        build_targets(
            keys=[KEY],
            trust_domain="Not A Domain",
            roots=[certificate("root")],
            node_issuers=[certificate("nodes")],
            service_issuers=[certificate("services")],
            fabric_url="https://fabric:8440",
            breakwater_url="https://fabric:8441",
        )
