"""`cloud.fabric.tuf.checking`: the checks of files that were signed offline, by the rules of TUF."""

from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from cloud.fabric.tuf.checking import (
    ROOTS_MAX,
    PublicationRefused,
    check_online,
    check_roots,
    check_signed,
    hashes_of,
    read_metadata,
    verify,
)
from cloud.fabric.tuf.repository import MetadataFile, refresh_online, sign_root, sign_targets
from protocol.encoding import sha256_hex
from tests.simulators.repository import START, Repository, content

YEAR = timedelta(days=365)


@pytest.fixture
def repository() -> Repository:
    return Repository()


def root_of(repository: Repository) -> MetadataFile:
    return repository.store.files["root", 1]


def test_targets_that_follow_are_accepted_with_their_contents(repository: Repository) -> None:
    files = content(port=9000)
    targets = sign_targets(START + YEAR, 2, repository.targets, files)
    signed = check_signed(root_of(repository), repository.latest.targets, (), targets.data, files, START)
    assert signed.roots == ()
    assert signed.targets == targets
    assert {target.name: target.data for target in signed.contents} == files
    assert hashes_of(targets.data) == {name: sha256_hex(data) for name, data in files.items()}


def test_a_root_that_follows_is_accepted_alone(repository: Repository) -> None:
    root = sign_root(START + YEAR, root_of(repository), repository.root)
    signed = check_signed(root_of(repository), repository.latest.targets, (root.data,), b"", {}, START)
    assert (signed.roots, signed.targets) == ((root,), None)
    assert check_roots(root_of(repository), (root.data,), START) == (root,)


def test_too_many_roots_are_not_even_read(repository: Repository) -> None:
    with pytest.raises(PublicationRefused, match="at most"):
        check_roots(root_of(repository), (b"",) * (ROOTS_MAX + 1), START)


def test_metadata_are_of_the_role_that_is_asked_for(repository: Repository) -> None:
    with pytest.raises(PublicationRefused, match="not metadata of root"):
        read_metadata(repository.latest.targets.data, Root)
    for data in (b"", b"{", b"[]", b"{}"):
        with pytest.raises(PublicationRefused, match="cannot be read"):
            read_metadata(data, Root)


def test_a_signature_by_another_key_does_not_count(repository: Repository) -> None:
    above = read_metadata(root_of(repository).data, Root).signed
    targets = read_metadata(repository.latest.targets.data, Targets)
    verify(above, Targets.type, targets)
    with pytest.raises(PublicationRefused, match="not signed by the keys"):
        verify(above, Targets.type, Metadata(targets.signed))


def test_online_files_verify_under_the_root_that_names_their_keys(repository: Repository) -> None:
    publication = refresh_online(repository.latest, START + timedelta(days=16), repository.online)
    assert publication is not None
    check_online(root_of(repository), publication)
    with pytest.raises(PublicationRefused):
        check_online(root_of(Repository()), publication)
