"""`cloud.fabric.tuf.folder`: the published trust as files, which must belong together."""

from pathlib import Path

import pytest

from cloud.fabric.tuf.checking import PublicationRefused
from cloud.fabric.tuf.folder import (
    FILE_BYTES_MAX,
    TARGETS_FILE,
    Folder,
    FolderError,
    check_own,
    read_folder,
    write_folder,
)
from cloud.fabric.tuf.repository import ROOT_LIFE, MetadataFile, sign_root, signer_of
from protocol.signed.trust import TARGET_SERVICES, TARGETS
from tests.simulators.repository import START, Repository, content, p256


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def written(repository: Repository, tmp_path: Path) -> Path:
    """The folder of a repository with one root."""
    directory = tmp_path / "folder"
    files = {name: data for (name, _), data in repository.store.contents.items()}
    write_folder(directory, (repository.store.files["root", 1],), repository.latest.targets.data, files)
    return directory


def test_a_written_folder_is_read(repository: Repository, written: Path) -> None:
    folder = read_folder(written)
    assert folder == Folder((repository.store.files["root", 1],), repository.latest.targets, folder.files)
    assert set(folder.files) == set(TARGETS)
    assert folder.root.version == 1
    assert folder.content.encoded() == folder.files
    assert all(path.stat().st_mode & 0o077 == 0 for path in (written, *written.iterdir()))


def test_the_newest_root_counts(repository: Repository, written: Path) -> None:
    second = sign_root(START + ROOT_LIFE, repository.store.files["root", 1], repository.root)
    (written / "2.root.json").write_bytes(second.data)
    assert read_folder(written).root == second


def test_a_folder_that_is_not_empty_is_left_alone(repository: Repository, written: Path) -> None:
    with pytest.raises(FolderError, match="not empty"):
        write_folder(written, (), repository.latest.targets.data, {})
    with pytest.raises(FolderError, match="cannot write into"):
        write_folder(written / TARGETS_FILE, (), b"", {})


def test_each_missing_or_replaced_file_is_refused(written: Path) -> None:
    (written / TARGET_SERVICES).write_bytes(content(port=9000)[TARGET_SERVICES])
    with pytest.raises(PublicationRefused, match="do not have the hashes that"):
        read_folder(written)
    (written / TARGET_SERVICES).write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    with pytest.raises(FolderError, match="larger than"):
        read_folder(written)
    (written / TARGET_SERVICES).unlink()
    with pytest.raises(FolderError, match=TARGET_SERVICES):
        read_folder(written)
    (written / "1.root.json").unlink()
    with pytest.raises(FolderError, match=r"no file N\.root\.json"):
        read_folder(written)
    with pytest.raises(FolderError, match="cannot read"):
        read_folder(written / "nowhere")


def test_targets_under_a_foreign_root_are_refused(repository: Repository, written: Path) -> None:
    (written / "1.root.json").write_bytes(Repository().store.files["root", 1].data)
    with pytest.raises(PublicationRefused, match="not signed by the keys"):
        read_folder(written)


def test_a_holder_signs_only_after_targets_of_the_same_key(repository: Repository) -> None:
    targets: MetadataFile = repository.latest.targets
    check_own(targets, repository.targets)
    with pytest.raises(PublicationRefused, match="who carried the folder here"):
        check_own(targets, signer_of(p256()))
