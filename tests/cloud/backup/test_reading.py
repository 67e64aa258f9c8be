"""Every backup that is not right is refused by name."""

import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cloud.backup.age import decrypting, encrypting, make_identity
from cloud.backup.errors import BackupRefused
from cloud.backup.reading import Unlock, opened_backup, verify
from protocol.messages.activation import parse_pin
from tests.cloud.backup.support import IDENTITY, RECIPIENT, UNLOCK
from tests.cloud.breakwater.support import PASSPHRASE


def code_of(path: Path, unlock: Unlock = UNLOCK, pin: str | None = None, key_passphrase: bytes | None = None) -> str:
    """The code of the refusal."""
    with pytest.raises(BackupRefused) as refused:
        verify(path, unlock, None if pin is None else parse_pin(pin), key_passphrase)
    assert refused.value.next_step
    return refused.value.code


def changed(backup: Path, path: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    """A backup whose plaintext was changed by somebody who knows the recipient."""
    with backup.open("rb") as file:
        header = file.readline()
        with decrypting(file, [IDENTITY]) as plain:
            lines = plain.read().splitlines(keepends=True)
    target = io.BytesIO()
    with encrypting(target, [RECIPIENT]) as plain:
        plain.write(b"".join(change(lines)))
    path.write_bytes(header + target.getvalue())
    return path


def test_a_whole_backup_is_verified(backup: Path, pin: str) -> None:
    found = verify(backup, UNLOCK, parse_pin(pin), PASSPHRASE)
    assert found.manifest.pins == (pin,)
    assert found.trailer.tables["fabric.installation"] >= 3


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_backup(backup: Path, tmp_path: Path, kept: float) -> None:
    content = backup.read_bytes()
    (tmp_path / "b").write_bytes(content[: int(len(content) * kept)])
    assert code_of(tmp_path / "b") == ("backup_damaged" if kept else "backup_invalid")


@pytest.mark.parametrize("place", [0.05, 0.3, 0.7, 0.999])
def test_a_damaged_backup(backup: Path, tmp_path: Path, place: float) -> None:
    content = bytearray(backup.read_bytes())
    content[int(len(content) * place)] ^= 1
    (tmp_path / "b").write_bytes(content)
    assert code_of(tmp_path / "b") == "backup_damaged"


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"PK\x03\x04\n")
    assert code_of(tmp_path / "b") == "backup_invalid"


def test_a_newer_version(backup: Path, tmp_path: Path) -> None:
    content = backup.read_bytes().replace(b'"cascade_backup":1', b'"cascade_backup":2', 1)
    (tmp_path / "b").write_bytes(content)
    assert code_of(tmp_path / "b") == "backup_too_new"


def test_a_changed_header(backup: Path, tmp_path: Path) -> None:
    content = backup.read_bytes().replace(b'"wrapped":""', b'"wrapped":"eA=="', 1)
    (tmp_path / "b").write_bytes(content)
    assert code_of(tmp_path / "b") == "backup_damaged"


def test_another_key_and_no_key(backup: Path) -> None:
    assert code_of(backup, Unlock((make_identity()[0],))) == "backup_key_wrong"
    assert code_of(backup, Unlock(passphrase="a passphrase of a person")) == "backup_key_missing"


def test_a_passphrase_that_is_missing_or_wrong(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b'{"cascade_backup":1,"key":"passphrase","wrapped":"eA=="}\n')
    assert code_of(tmp_path / "b") == "backup_key_missing"
    assert code_of(tmp_path / "b", Unlock(passphrase="a passphrase of a person")) == "backup_key_wrong"


def test_another_installation(backup: Path, pin: str) -> None:
    assert code_of(backup, pin=f"1:{'0' * 64}") == "backup_of_another_installation"
    assert code_of(backup, pin=pin.replace("1:", "2:", 1)) == "backup_of_another_installation"


def test_another_passphrase_of_the_key_files(backup: Path, pin: str) -> None:
    assert code_of(backup, pin=pin, key_passphrase=b"another passphrase") == "backup_not_sealed"


def test_a_content_that_was_changed_by_a_holder_of_the_recipient(backup: Path, tmp_path: Path) -> None:
    """age does not say who encrypted. The digest and the seal do."""

    def without_a_row(lines: list[bytes]) -> list[bytes]:
        place = next(place for place, line in enumerate(lines) if line.startswith(b"["))
        return lines[:place] + lines[place + 1 :]

    def other_file(lines: list[bytes]) -> list[bytes]:
        place = next(place for place, line in enumerate(lines) if b'"type":"file"' in line)
        lines[place] = b'{"type":"file","path":"../evil","data":""}\n'
        return lines

    for change in (
        without_a_row,
        other_file,
        lambda lines: lines[:-1],
        lambda lines: [*lines[:3], b"{}\n", *lines[3:]],
        lambda lines: [b"{}\n", *lines[1:]],
        lambda lines: [lines[0], b'{"type":"rows","count":0}\n', *lines[1:]],
        lambda lines: [line.replace(b'"count":3', b'"count":4') for line in lines],
    ):
        assert code_of(changed(backup, tmp_path / "b", change)) == "backup_damaged"


def test_a_forged_seal_is_refused(backup: Path, tmp_path: Path) -> None:
    def forged(lines: list[bytes]) -> list[bytes]:
        trailer = msgspec.json.decode(lines[-1])
        return [*lines[:-1], msgspec.json.encode({**trailer, "seal": "AAAA"}) + b"\n"]

    path = changed(backup, tmp_path / "b", forged)
    assert verify(path, UNLOCK, None, None).trailer.seal == b"\0\0\0"
    assert code_of(path, key_passphrase=PASSPHRASE) == "backup_not_sealed"


def test_the_manifest_is_read_without_the_rest(backup: Path) -> None:
    with opened_backup(backup, UNLOCK) as reader:
        assert reader.manifest.parts == "whole"
