"""Real part: services that enrol over EST with curl, and with the requests that other programs make by default.

Only the kind of the key and the subject are given, as `docs/est.md` says. The answer goes back into the program.
"""

import subprocess
from pathlib import Path

import msgspec

from lab.cloud import Cloud
from tests.system.support.wire import PORTS, root_pem

SERVICE = "headwaters"
COMMAND_SECONDS = 60.0
CURL = ("curl", "--silent", "--show-error", "--cacert", "root.pem")
STORE = ("-keystore", "store.p12", "-storepass", "password", "-alias", "own")
NSS = ("-d", "sql:.")
SUBJECT = f"CN={SERVICE}"


class Refused(Exception):
    """A command of the exchange failed. The text is what it printed, or the answer of Breakwater."""


class Enrolment(msgspec.Struct, frozen=True):
    """A request: the program that makes it, and its commands. The last file that they write is csr.pem.

    `installs` are the commands with which the program takes the answer. A request that is refused has `refusal`
    instead, words of Breakwater's answer.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    installs: tuple[tuple[str, ...], ...] = ()
    refusal: str = ""


def _keytool(*key: str) -> tuple[tuple[str, ...], ...]:
    made = ("keytool", "-genkeypair", *STORE, *key, "-dname", SUBJECT)
    return made, ("keytool", "-certreq", *STORE, "-file", "csr.pem")


def _certtool(*key: str) -> tuple[tuple[str, ...], ...]:
    made = ("certtool", "--generate-privkey", *key, "--outfile", "key.pem")
    asked = ("certtool", "--generate-request", "--load-privkey", "key.pem", "--template", "template")
    return made, (*asked, "--outfile", "csr.pem")


def _openssl(*key: str, subject: tuple[str, ...] = ("-subj", f"/{SUBJECT}")) -> tuple[tuple[str, ...], ...]:
    made = ("openssl", "genpkey", *key, "-out", "key.pem")
    return made, ("openssl", "req", "-new", "-key", "key.pem", *subject, "-out", "csr.pem")


def _certutil(*key: str) -> tuple[tuple[str, ...], ...]:
    made = ("certutil", "-N", *NSS, "--empty-password")
    # The file of noise replaces keystrokes of a person.
    return (
        made,
        ("openssl", "rand", "-out", "noise", "64"),
        ("certutil", "-R", *NSS, *key, "-s", SUBJECT, "-z", "noise", "-a", "-o", "csr.pem"),
    )


_EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
_IMPORTS = (
    ("keytool", "-importcert", *STORE[:4], "-alias", "root", "-noprompt", "-file", "root.pem"),
    ("keytool", "-importcert", *STORE, "-noprompt", "-file", "chain.pem"),
)
_VERIFIES = (("certtool", "--verify", "--load-ca-certificate", "root.pem", "--infile", "chain.pem"),)
_TAKES = (
    ("certutil", "-A", *NSS, "-n", "root", "-t", "CT,C,C", "-a", "-i", "root.pem"),
    ("certutil", "-A", *NSS, "-n", "services", "-t", ",,", "-a", "-i", "services.pem"),
    ("certutil", "-A", *NSS, "-n", "own", "-t", ",,", "-a", "-i", "cert.pem"),
    ("certutil", "-V", *NSS, "-n", "own", "-u", "V", "-e"),
    ("pk12util", "-o", "store.p12", "-n", "own", *NSS, "-W", "password"),
)
_MATCHES = (("openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "cas.pem", "cert.pem"),)

ENROLMENTS: tuple[Enrolment, ...] = (
    Enrolment("keytool, EC", _keytool("-keyalg", "EC", "-groupname", "secp256r1"), _IMPORTS),
    Enrolment("certtool, EC", _certtool("--key-type", "ecdsa", "--curve", "secp256r1"), _VERIFIES),
    Enrolment("certutil of NSS, EC", _certutil("-k", "ec", "-q", "nistp256"), _TAKES),
    Enrolment("openssl, EC", _openssl(*_EC), _MATCHES),
    Enrolment("openssl, EC, no subject", _openssl(*_EC, subject=("-subj", "/")), _MATCHES),
    Enrolment(
        "openssl, EC, subject of its configuration", _openssl(*_EC, subject=("-batch",)), refusal="subject differs"
    ),
    Enrolment("keytool, RSA", _keytool("-keyalg", "RSA"), refusal="not an EC key"),
    Enrolment("certtool, default key", _certtool(), refusal="not an EC key"),
    Enrolment("openssl, RSA", _openssl("-algorithm", "RSA"), refusal="not an EC key"),
)


class _Desk:
    """The folder where one service works, and its commands."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.url = f"https://127.0.0.1:{cloud.port + PORTS['breakwater']}/.well-known/est"

    def prepare(self) -> None:
        """Get a secret and the CAs."""
        self.folder.mkdir()
        secret = self.folder / "secret"
        arguments = ("--out", str(secret), "--host", "127.0.0.1", "--dir", str(self.cloud.directory))
        self.cloud.run("pki", "issue", SERVICE, *arguments)
        (self.folder / "login").write_text(f'user = "{SERVICE}:{secret.read_text().strip()}"\n')
        (self.folder / "template").write_text(f"cn = {SERVICE}\n")
        (self.folder / "root.pem").write_bytes(root_pem(self.cloud).read_bytes())
        self.run(*CURL, "--fail", "--output", "cas.b64", f"{self.url}/cacerts")
        self.certificates("cas")

    def run(self, *command: str) -> str:
        """Run a command, and return what it printed. Raises Refused."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, input=""
        )
        said = f"{done.stdout}{done.stderr}"
        if done.returncode:
            raise Refused(f"{' '.join(command[:2])} exited {done.returncode}: {said.strip()[-400:]}")
        return said

    def ask(self, operation: str, *options: str) -> str:
        """Send csr.b64, and return the answer, which is also in cert.b64."""
        sent = ("--header", "Content-Type: application/pkcs10", "--data-binary", "@csr.b64")
        self.run(*CURL, *options, *sent, "--output", "cert.b64", f"{self.url}/{operation}")
        return (self.folder / "cert.b64").read_text()

    def unpack(self) -> None:
        """Write the certificate of the answer as cert.pem, and with the CAs above it as chain.pem. Raises Refused."""
        self.certificates("cert")
        self.run("openssl", "verify", "-CAfile", "root.pem", "-untrusted", "cas.pem", "cert.pem")
        issuer = (self.cloud.directory / "breakwater" / "certs" / "services-ca.pem").read_bytes()
        (self.folder / "services.pem").write_bytes(issuer)
        (self.folder / "chain.pem").write_bytes((self.folder / "cert.pem").read_bytes() + issuer)

    def certificates(self, name: str) -> None:
        """Turn NAME.b64, an answer of EST, into NAME.pem. Raises Refused."""
        self.run("openssl", "base64", "-d", "-in", f"{name}.b64", "-out", f"{name}.p7")
        self.run("openssl", "pkcs7", "-inform", "DER", "-in", f"{name}.p7", "-print_certs", "-out", f"{name}.pem")


def enrol(cloud: Cloud, folder: Path, request: Enrolment) -> str:
    """Enrol and renew with the request. Returns what is wrong, or nothing."""
    desk = _Desk(cloud, folder)
    try:
        desk.prepare()
        for command in request.commands:
            desk.run(*command)
        desk.run("openssl", "req", "-in", "csr.pem", "-outform", "DER", "-out", "csr.der")
        desk.run("openssl", "base64", "-in", "csr.der", "-out", "csr.b64")
        answer = desk.ask("simpleenroll", "--config", "login")
        if request.refusal:
            return "" if request.refusal in answer and '"csr_refused"' in answer else f"no such refusal: {answer}"
        desk.unpack()
        for command in request.installs:
            desk.run(*command)
        first = (folder / "cert.pem").read_bytes()
        own = "store.p12:password" if (folder / "store.p12").exists() else ""
        held = ("--cert-type", "P12", "--cert", own) if own else ("--cert", "chain.pem", "--key", "key.pem")
        desk.ask("simplereenroll", *held)
        desk.unpack()
        return "" if (folder / "cert.pem").read_bytes() != first else "the renewal returned the same certificate"
    except Refused as error:
        return f"{error}; the last answer of EST: {_last(folder)}"


def _last(folder: Path) -> str:
    file = folder / "cert.b64"
    return file.read_text()[:400] if file.exists() else "none"
