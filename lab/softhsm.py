"""Real part: a SoftHSM2 token in a folder. The token can be taken away and put back.

The library reads SOFTHSM2_CONF when it is loaded, and it is loaded in a token process. So each test, and each worker of
pytest-xdist, sets the variable in its own environment and uses only its own token.
"""

import os
import shutil
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.keys.pkcs11 import RETRY_SECONDS, TIMEOUT_SECONDS, Pkcs11Keys
from cloud.crypto.keyfile import write_secret

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL = "cascade-test"
PIN = "a-pin-of-tests-2357"
_SO_PIN = "an-officer-of-tests-1113"


class SoftHsm:
    """One initialised token with the label `LABEL`. Set `environment` before a process loads the library."""

    def __init__(self, directory: Path, pin: str = PIN) -> None:
        self.directory = directory
        self._pin = pin
        self._tokens, self._away = directory / "tokens", directory / "away"
        self._tokens.mkdir(parents=True)
        self.pin_file = directory / "pin"
        write_secret(self.pin_file, f"{pin}\n".encode())
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {self._tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.environment = {"SOFTHSM2_CONF": str(configuration)}
        self.make()

    def keys(self, timeout_seconds: float = TIMEOUT_SECONDS, retry_seconds: float = RETRY_SECONDS) -> Pkcs11Keys:
        return Pkcs11Keys(MODULE, LABEL, self.pin_file, timeout_seconds, retry_seconds)

    def make(self) -> None:
        """Make an empty token."""
        self._util("--init-token", "--free", "--label", LABEL, "--pin", self._pin, "--so-pin", _SO_PIN)

    def delete(self) -> None:
        """Delete the token and its keys."""
        self._util("--delete-token", "--token", LABEL)

    def bring(self, label: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Import a key that was not made on the token."""
        path = self.directory / "import.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        names = ("--token", LABEL, "--label", label, "--id", label.encode().hex())
        self._util("--import", str(path), "--force", *names, "--pin", self._pin)

    def take_away(self) -> None:
        """Make the token unavailable, as when it is pulled out of its reader."""
        self._tokens.rename(self._away)

    def put_back(self) -> None:
        self._away.rename(self._tokens)

    def _util(self, *arguments: str) -> None:
        tool = shutil.which("softhsm2-util")
        assert tool is not None, "softhsm2 is not installed"
        done = subprocess.run(
            [tool, *arguments], env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def token_processes(parent: int | None = None) -> list[int]:
    """The pids of the running token processes whose parent is `parent`; the default is this process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            command = status.with_name("cmdline").read_bytes()
            _, parent_pid = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if b"cloud.breakwater.keys.token_process" in command and int(parent_pid) == (parent or os.getpid()):
            found.append(int(status.parent.name))
    return found
