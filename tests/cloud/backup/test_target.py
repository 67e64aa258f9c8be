"""The directory of a restore, its marker, and the settings with another database."""

from pathlib import Path

import msgspec
import pytest

from cloud.backup.contents import Installation
from cloud.backup.errors import BackupRefused
from cloud.backup.format import ServicePart
from cloud.backup.target import Marker, Target, with_database
from cloud.fabric.settings import FabricSettings
from cloud.storage import PostgresLocation
from tests.cloud.backup.support import names_in

BOTH: tuple[ServicePart, ...] = ("fabric", "breakwater")
MARKER = Marker("loading", "00", BOTH, {"fabric": "/a", "breakwater": "/b"})


def test_a_repeat_removes_what_the_interrupted_restore_made(tmp_path: Path) -> None:
    target = Target(tmp_path / "new")
    assert target.marker() is None
    with target.locked():
        target.begin(MARKER)
    target.write_file("fabric/keys/a.pem", b"a", BOTH)
    target.write_file("operator/env", b"a", BOTH)
    target.publish(("fabric",))
    target.write_private(Path("operator/token"), b"t")
    target.write_private(Path("secrets/passphrase"), b"p")
    assert names_in(target.directory) == [".breakwater.restoring", "fabric", "operator", "restoring", "secrets"]
    assert target.marker() == MARKER
    target.begin(MARKER)
    assert names_in(target.directory) == [
        ".breakwater.restoring",
        ".fabric.restoring",
        "operator",
        "restoring",
        "secrets",
    ]
    assert names_in(target.building("fabric")) == names_in(target.directory / "operator") == []


def test_two_restores_into_one_directory(tmp_path: Path) -> None:
    target = Target(tmp_path / "new")
    with target.locked():
        with pytest.raises(BackupRefused) as refused, Target(tmp_path / "new").locked():
            raise AssertionError("the directory is locked")
        assert refused.value.code == "restore_running"
    with Target(tmp_path / "new").locked():
        pass


def test_the_marker_names_the_state_and_goes_at_the_end(tmp_path: Path) -> None:
    target = Target(tmp_path)
    target.begin(MARKER)
    target.finish(MARKER)
    assert target.marker() == msgspec.structs.replace(MARKER, state="finishing")
    target.end()
    target.end()
    assert target.marker() is None


def test_a_marker_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "restoring").write_bytes(b"?")
    with pytest.raises(BackupRefused) as refused:
        Target(tmp_path).marker()
    assert refused.value.code == "restore_marker_invalid"


@pytest.mark.parametrize("used", ["fabric", "operator/token"])
def test_a_directory_in_use(tmp_path: Path, used: str) -> None:
    target = Target(tmp_path)
    target.check_free(BOTH)
    (tmp_path / used).mkdir(parents=True)
    target.check_free(("breakwater",))
    with pytest.raises(BackupRefused) as refused:
        target.check_free(BOTH)
    assert refused.value.code == "target_in_use"


def test_another_passphrase_in_the_directory(tmp_path: Path) -> None:
    target = Target(tmp_path)
    target.check_passphrase(b"a passphrase of the keys")
    target.write_private(Path("secrets/passphrase"), b"a passphrase of the keys\n")
    target.check_passphrase(b"a passphrase of the keys")
    with pytest.raises(BackupRefused) as refused:
        target.check_passphrase(b"another passphrase")
    assert refused.value.code == "passphrase_differs"


def test_settings_keep_everything_but_the_database(installed: Installation) -> None:
    text = (installed.directory / "fabric" / "settings.toml").read_bytes()
    location = PostgresLocation(host="/run/postgresql", name="fabric", user="cascade", password_file="/etc/pw")
    changed = with_database(text + b"\n[admission]\nfactor = 2.0\n", location, FabricSettings)
    found = msgspec.toml.decode(changed, type=FabricSettings)
    assert found.database.name == "fabric"
    assert found.database.password_file == "/etc/pw"
    assert found.admission.factor == 2.0
    assert with_database(changed, Path("database.sqlite"), FabricSettings).count(b"[database]") == 1


def test_settings_whose_database_is_no_table_of_its_own(installed: Installation) -> None:
    text = (installed.directory / "fabric" / "settings.toml").read_bytes()
    inline = b'database = {path = "x.sqlite"}\n' + text.partition(b"[database]")[0]
    for wrong in (inline, b"mode = 1\n"):
        with pytest.raises(BackupRefused) as refused:
            with_database(wrong, Path("database.sqlite"), FabricSettings)
        assert refused.value.code == "settings_invalid"
