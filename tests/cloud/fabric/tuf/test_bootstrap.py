"""`cloud.fabric.tuf.bootstrap`: the keys of the repository, and where they are stored."""

import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from cloud.crypto.keyfile import KeyFileError
from cloud.fabric.tuf.bootstrap import ROOT_KEY, TARGETS_KEY, initialise, read_online_signers, read_signer
from tests.simulators.repository import START, content

PASSPHRASE = b"sixteen bytes or more"


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
    with pytest.raises(KeyFileError, match="exists already"):
        initialise(START, offline, online, PASSPHRASE, content())
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        read_online_signers(online, b"another one of 16 bytes")
