"""Real part: a stranger, who checks a certificate with curl, openssl and the addresses in the certificate alone."""

import subprocess
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from lab.cloud import Cloud
from lab.processes import WAIT_SECONDS, StepFailed


def _run(directory: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    if done.returncode != 0:
        raise StepFailed(f"{command} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Verdicts(msgspec.Struct, frozen=True):
    """The answers of OCSP and of the CRL about one certificate, both verified, and the number of the CRL."""

    ocsp: str
    on_crl: bool
    crl_number: int


class Stranger:
    """A client that has only the root certificate and a folder."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._root = cloud.directory / "breakwater" / "certs" / "root.pem"

    def asks(self, certificate: x509.Certificate) -> Verdicts:
        """Ask over HTTP. Raises StepFailed if an answer does not verify."""
        leaf = self._keep("leaf.pem", certificate)
        about = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        urls = {each.access_method: str(each.access_location.value) for each in about}
        issuer = x509.load_der_x509_certificate(self._fetch(urls[AuthorityInformationAccessOID.CA_ISSUERS], "ca.cer"))
        (self.directory / "cas.pem").write_bytes(self._root.read_bytes() + issuer.public_bytes(Encoding.PEM))
        self._keep("issuer.pem", issuer)
        where = ("-url", urls[AuthorityInformationAccessOID.OCSP], "-CAfile", "cas.pem", "-issuer", "issuer.pem")
        said = _run(self.directory, "openssl", "ocsp", *where, "-cert", leaf)
        if "Response verify OK" not in said:
            raise StepFailed(f"OCSP said: {said}")
        crl = self.crl(certificate)
        return Verdicts(
            ocsp=next(line.split(" ")[1] for line in said.splitlines() if line.startswith(f"{leaf}: ")),
            on_crl=crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None,
            crl_number=crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number,
        )

    def crl(self, certificate: x509.Certificate, address: str = "") -> x509.CertificateRevocationList:
        """Fetch the CRL of a certificate, from its own address or from `address`. Call `asks` first."""
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        if points[0].full_name is None:
            raise StepFailed("the certificate has no address of a CRL")
        crl = self._fetch(address or str(points[0].full_name[0].value), "list.crl")
        verified = ("openssl", "crl", "-inform", "DER", "-in", "list.crl", "-CAfile", "cas.pem", "-noout")
        if "verify OK" not in (said := _run(self.directory, *verified)):
            raise StepFailed(f"openssl said of the CRL: {said}")
        return x509.load_der_x509_crl(crl)

    def _keep(self, name: str, certificate: x509.Certificate) -> str:
        (self.directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
        return name

    def _fetch(self, url: str, name: str) -> bytes:
        _run(self.directory, "curl", "--silent", "--show-error", "--fail", "--output", name, url)
        return (self.directory / name).read_bytes()
