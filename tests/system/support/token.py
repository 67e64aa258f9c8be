"""Moves the key of an installation's CA for nodes into a SoftHSM2 token."""

import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import read_key
from lab.cloud import Cloud
from lab.softhsm import LABEL, MODULE, SoftHsm


def move_a_key_to_a_token(cloud: Cloud, directory: Path, pin: str, passphrase: bytes) -> SoftHsm:
    """Move the key of `nodes-1` into a new token in `directory`, delete the key file, and configure Breakwater."""
    hsm = SoftHsm(directory, pin)
    path = cloud.directory / "breakwater" / "keys" / "nodes-ca.key.pem"
    path = path if path.exists() else path.with_name("nodes-1.key.pem")
    key = read_key(path, passphrase)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    hsm.bring("nodes-1", key)
    path.unlink()
    settings = cloud.directory / "breakwater" / "settings.toml"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("key_files")]
    section = ("[token]", f'module = "{MODULE}"', f'label = "{LABEL}"', f'pin_file = "{hsm.pin_file}"')
    settings.write_text("\n".join([*lines, *section, ""]))
    with sqlite3.connect(cloud.directory / "breakwater" / "database.sqlite") as database:
        moved = database.execute("UPDATE authority SET key = 'pkcs11:nodes-1' WHERE id = 'nodes-1'")
        assert moved.rowcount == 1
    database.close()
    return hsm
