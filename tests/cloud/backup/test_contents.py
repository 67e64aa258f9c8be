"""What a backup has, and what it leaves out."""

from pathlib import Path

import msgspec
import pytest

from cloud.backup import contents
from cloud.backup.contents import Installation, files_of, is_safe_path, not_included, rows_in
from cloud.backup.errors import BackupRefused
from cloud.breakwater.keys.pkcs11 import TokenSettings


def test_files_of_both_services_without_secrets_and_databases(installed: Installation) -> None:
    paths = {file.path for file in files_of(installed)}
    assert {"breakwater/settings.toml", "fabric/settings.toml", "breakwater/keys/nodes-ca.key.pem"} <= paths
    assert {"fabric/keys/lease.key.pem", "fabric/tls/key.pem", "breakwater/tls/chain.pem"} <= paths
    assert not [path for path in paths if "passphrase" in path or "sqlite" in path or path.startswith("offline")]


def test_a_secret_that_a_credential_replaces_is_left_out(installed: Installation, tmp_path: Path) -> None:
    for service in ("breakwater", "fabric"):
        (tmp_path / service).mkdir()
        for name in ("passphrase", "kept"):
            (tmp_path / service / name).write_bytes(b"x")
    fabric = msgspec.structs.replace(
        installed.fabric, base=str(tmp_path / "fabric"), passphrase_file="/run/p", secret_files=("passphrase",)
    )
    moved = msgspec.structs.replace(installed, directory=tmp_path, fabric=fabric)
    assert [file.path for file in files_of(moved)] == ["breakwater/kept", "breakwater/passphrase", "fabric/kept"]


def test_links_and_scratch_files_are_left_out(installed: Installation, tmp_path: Path) -> None:
    for service in ("breakwater", "fabric"):
        (tmp_path / service).mkdir()
    (tmp_path / "fabric" / "link").symlink_to("/etc/passwd")
    (tmp_path / "fabric" / ".key.pem.17.new").write_bytes(b"x")
    (tmp_path / "fabric" / "kept").write_bytes(b"x")
    moved = msgspec.structs.replace(installed, directory=tmp_path)
    assert [file.path for file in files_of(moved)] == ["fabric/kept"]


def test_a_large_file_is_refused(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "FILE_BYTES_MAX", 10)
    with pytest.raises(BackupRefused) as refused:
        list(files_of(installed))
    assert refused.value.code == "file_too_large"


def test_keys_in_a_token_and_folders_outside_are_named(installed: Installation) -> None:
    assert "operators' tokens" in not_included(installed)
    token = TokenSettings(module="/usr/lib/hsm.so", label="cas", pin_file="credential:pin")
    breakwater = msgspec.structs.replace(installed.breakwater, token=token, tls="/etc/cascade/tls")
    found = not_included(msgspec.structs.replace(installed, breakwater=breakwater))
    assert "CA keys in the PKCS#11 token cas" in found
    assert "breakwater: tls, which is outside the directory: /etc/cascade/tls" in found


def test_a_key_backup_has_keys_and_what_is_closed_or_revoked() -> None:
    assert rows_in("keys", "fabric", "installation") == rows_in("whole", "fabric", "node") == ""
    assert rows_in("keys", "fabric", "node") is None
    assert rows_in("keys", "breakwater", "audit") is None
    assert "revoked" in (rows_in("keys", "breakwater", "certificate") or "")


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("fabric/settings.toml", True),
        ("breakwater/keys/a.pem", True),
        ("operator/env", True),
        ("operator/token", False),
        ("secrets/passphrase", False),
        ("fabric", False),
        ("fabric/../secrets/passphrase", False),
        ("/fabric/a", False),
        ("fabric//a", False),
        ("fabric/./a", False),
        ("../fabric/a", False),
        ("fabric/a\0", False),
    ],
)
def test_a_backup_fills_the_folders_of_services_only(path: str, safe: bool) -> None:
    assert is_safe_path(path) is safe
