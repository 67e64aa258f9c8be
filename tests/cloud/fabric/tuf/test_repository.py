"""`cloud.fabric.tuf.repository`: the signed files, when they are signed again, and whether a client accepts them."""

from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from cloud.fabric.tuf.repository import MetadataFile, Publication, pin_of, refresh_online, signer_of
from protocol.encoding import sha256_hex
from protocol.signed.trust import TARGETS
from tests.simulators.repository import START, Repository, content

PASSPHRASE = b"sixteen bytes or more"


DAY = timedelta(days=1)


def verified(repository: Repository, now: datetime) -> TrustedMetadataSet:
    """Update the library's client from the newest files, with its clock at `now`."""
    trusted = TrustedMetadataSet(repository.store.files["root", 1].data, EnvelopeType.METADATA)
    trusted.reference_time = now
    trusted.update_timestamp(repository.latest.timestamp.data)
    trusted.update_snapshot(repository.latest.snapshot.data)
    trusted.update_targets(repository.latest.targets.data)
    return trusted


def test_a_new_repository_verifies_and_has_the_documented_lives() -> None:
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


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365)])
def test_online_roles_of_a_clock_that_was_ahead_are_signed_again(ahead: timedelta) -> None:
    """Otherwise an old timestamp could be replayed for longer than its life."""
    repository = Repository()
    repository.replace(content(), now=START + ahead)
    publication = refresh_online(repository.latest, START, repository.online)
    assert publication is not None
    repository.store.add(publication)
    trusted = verified(repository, START)
    assert (trusted.timestamp.expires, trusted.snapshot.expires) == (START + 7 * DAY, START + 30 * DAY)
    assert refresh_online(repository.latest, START, repository.online) is None


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
    with pytest.raises(ValueError, match="made from a root"):
        pin_of(repository.latest.targets)


def test_signers_are_p256_only() -> None:
    with pytest.raises(ValueError, match="P-256"):
        signer_of(ec.generate_private_key(ec.SECP384R1()))


def test_a_publication_is_one_value() -> None:
    repository = Repository()
    assert refresh_online(repository.latest, START, repository.online) is None
    due = refresh_online(repository.latest, START + 16 * DAY, repository.online)
    assert isinstance(due, Publication)
    assert due.targets == ()
