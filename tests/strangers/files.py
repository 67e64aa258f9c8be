"""Real part: a folder of files in the forms that other programs read."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class Files:
    """Writes certificates as NAME.pem, keys as NAME.key, lists as NAME.crl (DER) and NAME.crl.pem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def certificate(self, name: str, der: bytes) -> None:
        text = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (self.folder / f"{name}.pem").write_bytes(text)

    def key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Write a key as PKCS#8 in PEM, without encryption."""
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / f"{name}.key").write_bytes(text)

    def list(self, name: str, der: bytes) -> None:
        (self.folder / f"{name}.crl").write_bytes(der)
        (self.folder / f"{name}.crl.pem").write_bytes(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))


def load(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file."""
    return x509.load_pem_x509_certificate(path.read_bytes())
