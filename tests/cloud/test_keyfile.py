"""Keys at rest: encrypted, private, whole or not there, and named in every error."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cloud.keyfile import KeyFileError, check_private, read_key, read_passphrase, read_secret, write_key, write_secret

PASSPHRASE = b"correct horse battery staple"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()], ids=["P-384", "Ed25519"]
)
def test_round_trip(tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    path = tmp_path / "ca.key"
    write_key(path, key, PASSPHRASE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert read_key(path, PASSPHRASE).public_key() == key.public_key()
    assert list(tmp_path.iterdir()) == [path]


def test_a_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_what_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ca.key"
    write_key(path, ec.generate_private_key(ec.SECP256R1()), PASSPHRASE)
    path.chmod(mode)
    for use in (lambda: read_key(path, PASSPHRASE), lambda: read_passphrase(path), lambda: check_private(path)):
        with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
            use()


def test_errors_name_the_file_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "ca.key"
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(path, key, PASSPHRASE)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(tmp_path / "plain", plain)
    encryption = serialization.BestAvailableEncryption(PASSPHRASE)
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    write_secret(tmp_path / "rsa", other)
    write_secret(tmp_path / "torn", path.read_bytes()[:120])
    write_secret(tmp_path / "large", b"x" * 70_000)
    cases = {
        "ca.key": (b"a wrong passphrase", "wrong passphrase or damaged"),
        "plain": (PASSPHRASE, "not an encrypted private key"),
        "rsa": (PASSPHRASE, "not an elliptic-curve key"),
        "torn": (PASSPHRASE, "wrong passphrase or damaged"),
        "large": (PASSPHRASE, "larger than"),
        "absent": (PASSPHRASE, "No such file"),
    }
    for name, (passphrase, reason) in cases.items():
        with pytest.raises(KeyFileError, match=reason) as caught:
            read_key(tmp_path / name, passphrase)
        assert str(tmp_path / name) in str(caught.value)
        assert passphrase.decode() not in str(caught.value)


def test_passphrases(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    write_secret(path, PASSPHRASE + b"\n")
    assert read_passphrase(path) == PASSPHRASE
    write_secret(path, b"short\n")
    with pytest.raises(KeyFileError, match="shorter than 16"):
        read_passphrase(path)
    with pytest.raises(KeyFileError, match="shorter than 16"):
        write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()), b"short")
    with pytest.raises(KeyFileError, match="not a regular file"):
        check_private(tmp_path)


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_secret(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        write_secret(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write_secret(path, b"new")
    assert read_secret(path) == b"new"
