"""Real part: OpenSSL, GnuTLS and NSS. Each task is one command of theirs, or a few."""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Timer

from tests.strangers.tasks import (
    CLIENT,
    COMMAND_SECONDS,
    RESPONDER,
    SERVER,
    Answer,
    AskOcsp,
    Connect,
    Fetch,
    Leaf,
    Parse,
    Task,
    Verify,
)

REQUEST = (
    "POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


class _Commands:
    """Runs commands in a folder."""

    def answers(self, folder: Path, tasks: Sequence[Task]) -> list[Answer]:
        return [self.answer(_Folder(folder), task) for task in tasks]

    def answer(self, folder: "_Folder", task: Task) -> Answer:
        raise NotImplementedError


class _Folder:
    """Runs commands in a folder, and joins files there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, sent: str = "") -> Answer:
        """Run a command. It accepts if it exits with 0."""
        done = subprocess.run(
            command, cwd=self.path, input=sent.encode(), capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        return Answer(done.returncode == 0, " ".join(said.split()))

    def request(self, *command: str) -> Answer:
        """Send an HTTP request through a client of TLS. It accepts if it prints an HTTP answer.

        The client's input stays open until then, because some clients close the connection at the end of their input.
        """
        said = b""
        with subprocess.Popen(
            command, cwd=self.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            if client.stdin is None or client.stdout is None:
                raise RuntimeError("the client has no pipes")
            alarm = Timer(COMMAND_SECONDS, client.kill)
            alarm.start()
            try:
                with contextlib.suppress(BrokenPipeError):  # the client refused before it read its input
                    client.stdin.write(REQUEST.encode())
                    client.stdin.flush()
                while not STATUS.search(said) and (more := os.read(client.stdout.fileno(), 65536)):
                    said += more
            finally:
                alarm.cancel()
                client.kill()
        found = STATUS.search(said)
        text = " ".join(said.decode(errors="replace").split())
        return Answer(True, f"HTTP {found[1].decode()}") if found else Answer(False, text)

    def joined(self, *files: str) -> str:
        """A file with the content of other files of the folder, in this order."""
        with tempfile.NamedTemporaryFile(dir=self.path, suffix=".pem", delete=False) as file:
            file.write(b"".join((self.path / name).read_bytes() for name in files))
        return Path(file.name).name

    def new_folder(self) -> str:
        return Path(tempfile.mkdtemp(dir=self.path)).name


def _pem(lists: Iterable[str]) -> list[str]:
    return [f"{name}.pem" for name in lists]


class OpenSsl(_Commands):
    """`openssl verify`, `openssl ocsp` and `openssl s_client`."""

    NAME = "OpenSSL"
    FETCHES = True
    NEEDS: Mapping[str, str] = {"openssl": "openssl"}
    PURPOSES: Mapping[str, str] = {SERVER: "sslserver", CLIENT: "sslclient", RESPONDER: "ocsphelper"}
    """A purpose that OpenSSL does not know is checked as `any`."""

    def answer(self, folder: _Folder, task: Task) -> Answer:
        match task:
            case Parse(file):
                return folder.run("openssl", "x509", "-in", file, "-noout", "-text")
            case Verify(leaf, purpose, lists, _, root):
                command = ["openssl", "verify", "-x509_strict", "-CAfile", root]
                command += [each for ca in leaf.cas for each in ("-untrusted", ca)]
                command += ["-purpose", self.PURPOSES.get(purpose, "any")]
                command += ["-crl_check_all"] if lists else []
                return folder.run(*command, *(f"-CRLfile={name}" for name in lists), leaf.file)
            case Fetch(leaf, root):
                command = ["openssl", "verify", "-x509_strict", "-CAfile", root, "-crl_check_all", "-crl_download"]
                command += ["-CRLfile", self._root_list(folder, leaf.cas[-1])]
                return folder.run(*command, *(each for ca in leaf.cas for each in ("-untrusted", ca)), leaf.file)
            case AskOcsp(leaf, root):
                url = folder.run("openssl", "x509", "-in", leaf.file, "-noout", "-ocsp_uri").said
                trusted = folder.joined(root, *leaf.cas)
                answer = folder.run(
                    *("openssl", "ocsp", "-url", url, "-CAfile", trusted, "-issuer", leaf.cas[0], "-cert", leaf.file)
                )
                good = f"{leaf.file}: good" in answer.said and "Response verify OK" in answer.said
                return Answer(answer.accepted and good, answer.said)
            case Connect(port, client, lists, _, root):
                command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-verify_ip", "127.0.0.1"]
                command += ["-CAfile", folder.joined(root, *_pem(lists)), "-verify_return_error", "-x509_strict"]
                command += ["-crl_check_all"] if lists else []
                if client is not None:
                    command += ["-cert", client.file, "-key", client.key, "-cert_chain", client.cas[0]]
                return folder.request(*command, "-quiet", "-ign_eof")

    def _root_list(self, folder: _Folder, ca: str) -> str:
        """Fetch the list of the root from the address in a CA. OpenSSL asks for it for the root too."""
        said = folder.run("openssl", "x509", "-in", ca, "-noout", "-ext", "crlDistributionPoints").said
        folder.run("curl", "--silent", "--fail", "--output", "fetched.crl", said.partition("URI:")[2])
        return "fetched.crl"


class GnuTls(_Commands):
    """`certtool`, `ocsptool` and `gnutls-cli`."""

    NAME = "GnuTLS"
    FETCHES = False
    NEEDS: Mapping[str, str] = dict.fromkeys(("certtool", "ocsptool", "gnutls-cli"), "gnutls-bin")

    def answer(self, folder: _Folder, task: Task) -> Answer:
        match task:
            case Parse(file):
                return folder.run("certtool", "--certificate-info", "--infile", file)
            case Verify(leaf, purpose, lists, _, root):
                command = ["certtool", "--verify", "--verify-profile", "medium", "--verify-purpose", purpose]
                command += ["--load-ca-certificate", root, "--infile", folder.joined(leaf.file, *leaf.cas)]
                command += ["--load-crl", folder.joined(*_pem(lists))] if lists else []
                return folder.run(*command)
            case Fetch():
                return Answer(False, "these programs fetch no lists")
            case AskOcsp(leaf, _):
                command = ["ocsptool", "--ask", "--load-cert", leaf.file, "--load-issuer", leaf.cas[0]]
                answer = folder.run(*command, "--load-trust", leaf.cas[0])
                good = "Certificate Status: good" in answer.said and "Verifying OCSP Response: Success" in answer.said
                return Answer(answer.accepted and good, answer.said)
            case Connect(port, client, lists, _, root):
                # gnutls-cli takes a list only from an issuer that is in the file of trusted CAs.
                cas = folder.joined(root, *(f"{name.split('.')[0].removesuffix('-revoked')}.pem" for name in lists))
                command = ["gnutls-cli", "--port", str(port), "--x509cafile", cas]
                command += ["--x509crlfile", folder.joined(*_pem(lists))] if lists else []
                if client is not None:
                    command += ["--x509certfile", folder.joined(client.file, *client.cas)]
                    command += ["--x509keyfile", client.key]
                return folder.request(*command, "127.0.0.1")


class Nss(_Commands):
    """`vfychain`, `crlutil`, `ocspclnt` and `tstclnt`. Each task has a database."""

    NAME = "NSS"
    FETCHES = False
    NEEDS: Mapping[str, str] = dict.fromkeys(
        ("certutil", "crlutil", "nss-pp", "ocspclnt", "pk12util", "tstclnt", "vfychain"), "libnss3-tools"
    )
    USAGES: Mapping[str, str] = {CLIENT: "0", SERVER: "1", RESPONDER: "10"}
    """A purpose that NSS does not know is checked as that of a client."""

    def answer(self, folder: _Folder, task: Task) -> Answer:
        match task:
            case Parse(file):
                return folder.run("nss-pp", "-t", "certificate", "-a", "-i", file)
            case Verify(leaf, purpose, lists, cas_only, root):
                database = self._database(folder, root, leaf.cas)
                read = self._read(folder, database, lists[1:] if cas_only else lists)
                if not read.accepted:
                    return read
                usage = self.USAGES.get(purpose, self.USAGES[CLIENT])
                return folder.run("vfychain", "-d", database, "-u", usage, "-a", leaf.file)
            case Fetch():
                return Answer(False, "these programs fetch no lists")
            case AskOcsp(leaf, root):
                database = self._database(folder, root, leaf.cas)
                folder.run("certutil", "-A", "-d", database, "-n", "leaf", "-t", ",,", "-a", "-i", leaf.file)
                said = folder.run("ocspclnt", "-d", database, "-S", "leaf").said  # its exit status is always 255
                return Answer("succeeded" in said, said)
            case Connect(port, client, lists, cas_only, root):
                database = self._database(folder, root, client.cas if client else ())
                read = self._read(folder, database, lists[1:] if cas_only else lists)
                if not read.accepted:
                    return read
                command = ["tstclnt", "-h", "127.0.0.1", "-p", str(port), "-d", database, "-V", "tls1.3:"]
                command += self._own(folder, database, client) if client else []
                return folder.request(*command)

    def _database(self, folder: _Folder, root: str, cas: Sequence[str]) -> str:
        database = f"sql:{folder.new_folder()}"
        folder.run("certutil", "-N", "-d", database, "--empty-password")
        for name, trust in ((root, "CT,C,C"), *((ca, ",,") for ca in cas)):
            folder.run("certutil", "-A", "-d", database, "-n", name, "-t", trust, "-a", "-i", name)
        return database

    def _read(self, folder: _Folder, database: str, lists: Sequence[str]) -> Answer:
        """Import lists. The answer is that to the first list that cannot be imported, if any."""
        answers = [folder.run("crlutil", "-I", "-d", database, "-i", name, "-t", "1") for name in lists]
        return next((answer for answer in answers if not answer.accepted), Answer(True))

    def _own(self, folder: _Folder, database: str, client: Leaf) -> list[str]:
        made = f"{client.file}.p12"
        folder.run(
            *("openssl", "pkcs12", "-export", "-in", client.file, "-inkey", client.key, "-passout", "pass:"),
            *("-name", "own", "-out", made),
        )
        folder.run("pk12util", "-i", made, "-d", database, "-W", "")
        return ["-n", "own"]
