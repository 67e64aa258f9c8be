"""Later generations of CAs for a test's issuer, signed with the offline root as in a ceremony."""

import os
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.bootstrap import ROOT_KEY_FILE
from cloud.breakwater.ceremony.signing import CaIdentity, make_cross, make_issuing, make_root
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import Keys, issuer_of
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, CaName, make_serial
from cloud.breakwater.pkix.profiles import Issuer as Ca
from cloud.crypto.keyfile import read_key
from tests.cloud.breakwater.support import PASSPHRASE, START, TRUST_DOMAIN, Issuer


def serial() -> int:
    return make_serial(os.urandom(SERIAL_BYTES))


def offline_root(home: Path) -> tuple[Ca, LocalKey]:
    """The root and its key from the offline folder."""
    certificate = x509.load_pem_x509_certificate((home / "breakwater" / "certs" / "root.pem").read_bytes())
    key = read_key(home / "offline" / ROOT_KEY_FILE, PASSPHRASE)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return issuer_of("root", "root-1", certificate), LocalKey(key)


async def make_authority(
    home: Path, keys: Keys, ca: CaName, number: int, now: datetime = START
) -> tuple[str, bytes, str]:
    """Make an issuing CA and its key. Return id, certificate and key reference, as `import_prepared` takes them."""
    root, root_key = offline_root(home)
    identity = CaIdentity(TRUST_DOMAIN, ca, number)
    file = home / "breakwater" / "keys" / f"{identity.authority}.key.pem"
    reference = f"file:{file.name}" if file.exists() else await keys.generate(identity.authority)
    asked = describe_key((await keys.open(reference)).public_key)
    made = await make_issuing(identity, asked, root, root_key, serial(), now)
    return identity.authority, made.certificate_der, reference


async def next_authority(home: Path, issuer: Issuer, ca: CaName, number: int = 2) -> str:
    """Add a prepared authority to an issuer and return its id."""
    made = await make_authority(home, issuer.parts.keys, ca, number)
    await issuer.authorities.import_prepared("operator/test", *made)
    return made[0]


async def make_second_root(home: Path) -> tuple[Ca, LocalKey, bytes]:
    """A second root, its key, and its cross-certificate, signed by the first root."""
    root, root_key = offline_root(home)
    key = LocalKey(ec.generate_private_key(ec.SECP384R1()))
    second = await make_root(CaIdentity(TRUST_DOMAIN, "root", 2), key, serial(), START)
    return second, key, await make_cross(second, root, root_key, serial(), START)
