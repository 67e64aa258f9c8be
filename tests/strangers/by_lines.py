"""Real part: Java, Go and node.js. Each runs one program of this folder, which reads all tasks as lines."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.strangers.tasks import COMMAND_SECONDS, Answer, AskOcsp, Connect, Fetch, Parse, Task, Verify

HERE = Path(__file__).parent
GO_LIBRARIES = Path("/usr/share/gocode")
"""Where Debian installs libraries of Go. The standard library of Go has no OCSP."""


class Java:
    """The path checker of the platform, its checker of revocation, and `HttpsURLConnection`."""

    NAME = "Java"
    FETCHES = True
    NEEDS: Mapping[str, str] = {"java": "default-jdk-headless", "keytool": "default-jdk-headless"}

    def answers(self, folder: Path, tasks: Sequence[Task]) -> list[Answer]:
        return _answers(folder, tasks, ["java", str(HERE / "Stranger.java")])


class Go:
    """`crypto/x509`, `crypto/tls`, and `golang.org/x/crypto/ocsp`."""

    NAME = "Go"
    FETCHES = False
    NEEDS: Mapping[str, str] = {
        "go": "golang-go",
        f"{GO_LIBRARIES}/src/golang.org/x/crypto/ocsp": "golang-golang-x-crypto-dev",
    }

    def answers(self, folder: Path, tasks: Sequence[Task]) -> list[Answer]:
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "GOFLAGS": ""}
        built = ["go", "build", "-o", str(folder / "stranger"), str(HERE / "stranger.go")]
        subprocess.run(built, env=environment, check=True, timeout=COMMAND_SECONDS)
        return _answers(folder, tasks, [str(folder / "stranger")])


class Node:
    """`crypto.X509Certificate`, `tls` and `https`."""

    NAME = "node.js"
    FETCHES = False
    NEEDS: Mapping[str, str] = {"node": "nodejs"}

    def answers(self, folder: Path, tasks: Sequence[Task]) -> list[Answer]:
        return _answers(folder, tasks, ["node", str(HERE / "stranger.js")])


def _answers(folder: Path, tasks: Sequence[Task], command: Sequence[str]) -> list[Answer]:
    lines = "".join(f"{number}\t{line_of(task)}\n" for number, task in enumerate(tasks))
    done = subprocess.run(
        command, cwd=folder, input=lines, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    found = [line.split("\t", 2) for line in done.stdout.splitlines()]
    if [number for number, *_ in found] != [str(number) for number in range(len(tasks))]:
        raise RuntimeError(f"{command[0]} answered {len(found)} of {len(tasks)} tasks: {done.stderr[-2000:]}")
    return [Answer(outcome == "accepted", said) for _, outcome, said in found]


def line_of(task: Task) -> str:
    """A task as a line, without its name. `tasks.py` describes the fields."""
    match task:
        case Parse(file):
            return f"parse\t{file}"
        case Verify(leaf, purpose, lists, _, root):
            chain = (root, leaf.file, ",".join(leaf.cas))
            return "\t".join(("path", purpose, *chain, ",".join(lists), leaf.key))
        case Fetch(leaf, root):
            return "\t".join(("fetch", root, leaf.file, ",".join(leaf.cas)))
        case AskOcsp(leaf, root):
            return "\t".join(("ocsp", root, leaf.file, ",".join(leaf.cas)))
        case Connect(port, client, lists, _, root):
            own = (",".join((client.file, *client.cas)), client.key) if client else ("", "")
            return "\t".join(("tls", str(port), root, *own, ",".join(lists)))
