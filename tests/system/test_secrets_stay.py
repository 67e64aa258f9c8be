"""Passphrase and PIN are only in the operator's files: in no process list, environment, log or other file.

The test runs the real commands as separate processes, with the shipped scrypt parameters and one CA key in a token, and
activates a node. Meanwhile a thread reads /proc of all processes. It can read more than another user of the machine,
such as the environment of the test's processes.
"""

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from cloud.crypto.keyfile import read_passphrase
from lab.cloud import Cloud
from lab.processes import accepts, free_ports, wait_until
from lab.softhsm import SoftHsm, token_processes
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of
from tests.system.support.token import move_a_key_to_a_token

CASCADE = Path(sys.executable).with_name("cascade")
START_SECONDS = 120
"""The start opens nine keys, each in a third of a second on an idle machine."""
PUBLIC = ("cmdline", "environ", "comm")


def _processes() -> set[str]:
    """The folders of all processes in /proc."""
    return {f"/proc/{name}" for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208  its paths cost four times as much


class Watch:
    """A thread that repeatedly reads the files `PUBLIC` of processes in /proc, and records those with a secret.

    The thread reads the processes that began after it. `look` reads all processes.
    """

    def __init__(self) -> None:
        self.secrets: list[bytes] = []
        self.found: set[str] = set()
        self.commands: set[bytes] = set()
        self._earlier = _processes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            running = _processes()
            self._earlier &= running  # the kernel may give the number of an ended process to a new one
            self._read(running - self._earlier)

    def look(self) -> None:
        """Read every process once."""
        self._read(_processes())

    def _read(self, processes: set[str]) -> None:
        for process in processes:
            for name in PUBLIC:
                try:
                    with open(f"{process}/{name}", "rb") as file:  # noqa: PTH123  as above
                        content = file.read()
                except OSError:
                    continue  # the process has ended, or belongs to another user
                if name == "cmdline":
                    self.commands.add(content)
                if any(secret in content for secret in self.secrets):
                    self.found.add(f"{name}: {content[:200]!r}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def saw(self, *words: bytes) -> bool:
        return any(all(word in command for word in words) for command in self.commands)


@pytest.mark.long(12)
def test_passphrase_and_pin_are_in_no_process_list_log_or_file(tmp_path: Path) -> None:
    cloud = new_cloud(tmp_path)
    cloud.port = free_ports(4)
    pin = secrets.token_hex(12)
    log = tmp_path / "real.log"
    with Watch() as watch:
        arguments = ("--dir", str(cloud.directory), "--port-base", str(cloud.port))
        with log.open("ab") as output:
            subprocess.run([CASCADE, "init", *arguments], stdout=output, stderr=output, check=True)
        _as_costly_as_shipped(cloud.directory)
        passphrase = read_passphrase(cloud.directory / "secrets" / "passphrase")
        hsm = move_a_key_to_a_token(cloud, tmp_path / "hsm", pin, passphrase)
        watch.secrets = [passphrase, pin.encode()]
        with _up(cloud, log, hsm) as process:
            node = PaperNode(cloud, "watched")
            node.join(secret_of(cloud.code(paper_tenant(cloud, tmp_path))))
            assert token_processes(process.pid), "no token process runs, so the token signed nothing"
            watch.look()
    assert watch.saw(b"cascade", b"init")
    assert watch.saw(b"cascade", b"up")
    assert watch.saw(b"cloud.breakwater.keys.token_process")
    assert not watch.found
    issued = cloud.rows("breakwater", "SELECT DISTINCT authority FROM certificate WHERE node = ?", node.node)
    assert issued == [("nodes-1",)]
    _in_no_file(tmp_path, passphrase, {cloud.directory / "secrets" / "passphrase"})
    _in_no_file(tmp_path, pin.encode(), {hsm.pin_file})


def _as_costly_as_shipped(directory: Path) -> None:
    """Every private key is encrypted with the scrypt parameters that ship (`SHIPPED`)."""
    files = [path for path in directory.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()]
    assert len(files) >= 10
    for path in files:
        said = subprocess.run(["openssl", "asn1parse", "-in", path], capture_output=True, text=True, check=True).stdout
        assert [word for word in ("PBES2", "scrypt", ":4000", ":08", ":05") if word not in said] == [], path


@contextmanager
def _up(cloud: Cloud, log: Path, hsm: SoftHsm) -> Iterator[subprocess.Popen[bytes]]:
    """`cascade up` as a separate process, until the end of the block."""
    environment = {**os.environ, **hsm.environment}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [CASCADE, "up", "--dir", str(cloud.directory)], stdout=output, stderr=output, env=environment
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return accepts(cloud.port) and accepts(cloud.port + 1)

    try:
        wait_until("the start of the cloud", answers, START_SECONDS)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _in_no_file(directory: Path, secret: bytes, but: set[Path]) -> None:
    """No file below the directory has the secret, except `but`: logs, databases, settings, key files."""
    found = {path for path in directory.rglob("*") if path.is_file() and secret in path.read_bytes()}
    assert found == but
