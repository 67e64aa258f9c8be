"""Keys at rest: encrypted, private, written whole or not at all, and named in every error."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cloud.crypto import keyfile
from cloud.crypto.keyfile import (
    KeyFileError,
    PrivateKey,
    ScryptCost,
    check_private,
    encrypt_key,
    read_key,
    read_keys,
    read_passphrase,
    read_secret,
    secret_path,
    write_key,
    write_keys,
    write_secret,
)
from tests.light_keys import LIGHT, SHIPPED

pytestmark = pytest.mark.slow

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
        "ca.key": (b"a wrong passphrase", "passphrase is wrong or the file is damaged"),
        "plain": (PASSPHRASE, "not an encrypted private key"),
        "rsa": (PASSPHRASE, "neither an elliptic-curve key nor an Ed25519 key"),
        "torn": (PASSPHRASE, "passphrase is wrong or the file is damaged"),
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


def openssl(path: Path, *arguments: str, passphrase: bytes = PASSPHRASE) -> subprocess.CompletedProcess[str]:
    """Run openssl with the passphrase on its standard input."""
    return subprocess.run(
        ["openssl", *arguments, "-in", str(path)],
        input=passphrase.decode() + "\n",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stranger_reads_what_is_written_as_shipped(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key"
    write_key(path, key, PASSPHRASE, SHIPPED)
    read = openssl(path, "pkey", "-passin", "stdin", "-pubout")
    assert read.returncode == 0, read.stderr
    assert serialization.load_pem_public_key(read.stdout.encode()) == key.public_key()
    assert read_key(path, PASSPHRASE).public_key() == key.public_key()
    assert openssl(path, "pkey", "-passin", "stdin", passphrase=b"another passphrase").returncode != 0


def test_the_shipped_cost_is_one_that_owasp_names_and_openssl_takes() -> None:
    equal = {(2**17, 1), (2**16, 2), (2**15, 3), (2**14, 5), (2**13, 10)}
    assert (SHIPPED.n, SHIPPED.p) in equal
    assert SHIPPED.r == 8
    assert 128 * SHIPPED.r * (SHIPPED.n + SHIPPED.p + 2) < 32 * 1024 * 1024, "the limit of openssl(1)"
    assert keyfile.COST is LIGHT, "tests write light keys"


def test_the_structure_says_scrypt_and_aes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(encrypt_key(key, PASSPHRASE, ScryptCost(2**14, 8, 5), b"\xaa" * 16, b"\xbb" * 16))
    words = openssl(path, "asn1parse").stdout
    for word in ("PBES2", "scrypt", "aes-256-cbc", "A" * 32, "B" * 32, ":4000", ":08", ":05", ":20"):
        assert word in words
    assert all(len(line) <= 64 for line in path.read_text().splitlines())


def test_two_files_of_one_key_have_nothing_in_common(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for name in ("a", "b"):
        write_key(tmp_path / name, key, PASSPHRASE)
    first, second = ((tmp_path / name).read_text().splitlines()[1:-1] for name in ("a", "b"))
    assert not set(first[1:]) & set(second[1:])


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()], ids=["P-384", "Ed25519"]
)
def test_files_of_earlier_releases_are_read(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    encryption = serialization.BestAvailableEncryption(PASSPHRASE)
    old = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_secret(tmp_path / "key", old)
    assert "PBKDF2" in openssl(tmp_path / "key", "asn1parse").stdout
    assert read_key(tmp_path / "key", PASSPHRASE).public_key() == key.public_key()


def test_where_secrets_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert secret_path("passphrase", tmp_path) == tmp_path / "passphrase"
    assert secret_path("/run/passphrase", tmp_path) == Path("/run/passphrase")
    with pytest.raises(KeyFileError, match="LoadCredential=ca-passphrase:FILE"):
        secret_path("credential:ca-passphrase", tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert secret_path("credential:ca-passphrase", tmp_path) == tmp_path / "credentials" / "ca-passphrase"
    for name in ("", ".", "..", "a/b", "../b", "a:b", "a b", "a\n", "ä", "n" * 256):
        with pytest.raises(KeyFileError, match="not the name of a credential"):
            secret_path(f"credential:{name}", tmp_path)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o460, 0o404, 0o444, 0o500])
def test_the_modes_of_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    path = secret_path("credential:ca-passphrase", tmp_path)
    write_secret(path, PASSPHRASE)
    path.chmod(mode)
    if mode in (0o400, 0o440):  # as systemd makes it, without and with an ACL
        assert read_passphrase(path) == PASSPHRASE
        check_private(path)
    else:
        with pytest.raises(KeyFileError, match=f"the mode of the credential is {mode:o}, not 400"):
            read_passphrase(path)


def test_beside_the_credentials_the_group_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "credentials"
    (directory / "below").mkdir(parents=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    for path in (tmp_path / "passphrase", directory / "below" / "passphrase"):
        write_secret(path, PASSPHRASE)
        path.chmod(0o440)
        with pytest.raises(KeyFileError, match="others can read it"):
            read_passphrase(path)


def test_several_keys_side_by_side_keep_their_places(tmp_path: Path) -> None:
    made: dict[Path, PrivateKey] = {
        tmp_path / f"{number}.pem": ec.generate_private_key(ec.SECP256R1()) for number in range(5)
    }
    write_keys(made, PASSPHRASE)
    read = read_keys(list(made), PASSPHRASE)
    assert [key.public_key() for key in read] == [key.public_key() for key in made.values()]
    with pytest.raises(KeyFileError, match="exists already"):
        write_keys({tmp_path / "new.pem": read[0], tmp_path / "4.pem": read[0]}, PASSPHRASE)
    assert not (tmp_path / "new.pem").exists()
    with pytest.raises(KeyFileError, match=r"4\.pem"):
        read_keys([*list(made)[:4], tmp_path / "missing" / "4.pem"], PASSPHRASE)


def test_a_key_being_read_does_not_hold_the_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(path, ec.generate_private_key(ec.SECP256R1()), PASSPHRASE, SHIPPED)
    reader = threading.Thread(target=read_key, args=(path, PASSPHRASE))
    reader.start()
    turns = 0
    while reader.is_alive():
        reader.join(0.001)
        turns += 1
    assert turns > 5
