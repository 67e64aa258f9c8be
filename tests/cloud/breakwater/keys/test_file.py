"""`cloud.breakwater.keys.file`: refusals name the file and the next step. test_signer.py tests the signatures."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cloud.breakwater.errors import SignerError, SignerUnavailable
from cloud.breakwater.keys.file import FileKeys, LocalKey
from cloud.crypto.keyfile import write_key, write_secret

PASSPHRASE = b"a passphrase for tests only"


async def test_a_wrong_passphrase(tmp_path: Path) -> None:
    reference = await FileKeys(tmp_path, PASSPHRASE).generate("nodes-1")
    path = tmp_path / "nodes-1.key.pem"
    assert reference == "file:nodes-1.key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SignerError, match=f"{re.escape(str(path))}: the passphrase is wrong.*check which") as caught:
        await FileKeys(tmp_path, b"another passphrase, also long").open(reference)
    assert not isinstance(caught.value, SignerUnavailable)
    assert "another" not in str(caught.value)


async def test_files_that_are_no_ca_key(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path, PASSPHRASE)
    write_key(tmp_path / "ed.key.pem", ed25519.Ed25519PrivateKey.generate(), PASSPHRASE)
    write_key(tmp_path / "p521.key.pem", ec.generate_private_key(ec.SECP521R1()), PASSPHRASE)
    write_secret(tmp_path / "torn.key.pem", b"torn")
    write_key(tmp_path / "open.key.pem", ec.generate_private_key(ec.SECP256R1()), PASSPHRASE)
    (tmp_path / "open.key.pem").chmod(0o640)
    cases = {"ed": "not an ECDSA key", "p521": "secp521r1", "torn": "not an encrypted", "open": "chmod 600"}
    for name, reason in cases.items():
        with pytest.raises(SignerError, match=reason):
            await keys.open(f"file:{name}.key.pem")


async def test_a_key_of_an_earlier_release(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    encryption = serialization.BestAvailableEncryption(PASSPHRASE)
    old = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_secret(tmp_path / "nodes-ca.key.pem", old)
    assert (await FileKeys(tmp_path, PASSPHRASE).open("file:nodes-ca.key.pem")).public_key == key.public_key()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SignerError, match="cannot write"):
        await FileKeys(tmp_path / "absent", PASSPHRASE).generate("nodes-1")


def test_curves_of_cas() -> None:
    with pytest.raises(SignerError, match="secp521r1"):
        LocalKey(ec.generate_private_key(ec.SECP521R1()))
