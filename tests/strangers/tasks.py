"""Values: what other programs are asked about certificates, and their answers.

A program that reads tasks as lines gets one task a line, as fields between tabs: the task's name, its kind, and

- `parse`: the file
- `path`: the purpose as an OID, root, leaf, CAs, lists, the leaf's key
- `fetch`: root, leaf, CAs
- `ocsp`: root, leaf, CAs
- `tls`: the port, root, the client's chain, its key, lists

It prints one line a task: the name, `accepted` or `refused`, and what the program said. A field of several files has
commas. An empty field means none. Lists are in DER; the same name with `.pem` is in PEM.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from protocol.ids import EKU_DEVICE

SERVER = "1.3.6.1.5.5.7.3.1"
CLIENT = "1.3.6.1.5.5.7.3.2"
RESPONDER = "1.3.6.1.5.5.7.3.9"
DEVICE = EKU_DEVICE
"""Purposes of leaves, as the OIDs of extended key usages."""

COMMAND_SECONDS = 120.0
"""How long one run of a program may take. Compilers are among the programs."""


class Leaf(msgspec.Struct, frozen=True):
    """Names of files: a certificate, the CAs above it from the leaf up, the lists of these issuers, and the key.

    `lists` has the list that each certificate below the root names, the leaf's first. It is empty where a certificate
    names none. `key` is empty where only the running service has the key.
    """

    file: str
    cas: tuple[str, ...]
    lists: tuple[str, ...] = ()
    key: str = ""


class Parse(msgspec.Struct, frozen=True):
    """Parse a certificate."""

    file: str


class Verify(msgspec.Struct, frozen=True):
    """Verify a path to `root`, for a purpose. With `lists`, every certificate is checked against the lists.

    With `cas_only`, a program that cannot read the leaf's list uses the others.
    """

    leaf: Leaf
    purpose: str
    lists: tuple[str, ...] = ()
    cas_only: bool = False
    root: str = "root-1.pem"


class Fetch(msgspec.Struct, frozen=True):
    """Verify a path with the lists that are at the addresses in the certificates."""

    leaf: Leaf
    root: str = "root-1.pem"


class AskOcsp(msgspec.Struct, frozen=True):
    """Ask the responder at the address in the leaf about the leaf, and verify its answer."""

    leaf: Leaf
    root: str = "root-1.pem"


class Connect(msgspec.Struct, frozen=True):
    """Open a TLS connection to `port` of 127.0.0.1 and send an empty request for a renewal, which needs a peer.

    `client` is the certificate of the client, if any. `lists` is about the server's certificate and its CA.
    """

    port: int
    client: Leaf | None = None
    lists: tuple[str, ...] = ()
    cas_only: bool = False
    root: str = "root-1.pem"


Task = Parse | Verify | Fetch | AskOcsp | Connect


class Answer(msgspec.Struct, frozen=True):
    """Whether a program accepted, and what it said. A connection that was accepted says `HTTP` and the status."""

    accepted: bool
    said: str = ""


class Program(Protocol):
    """Other people's software. `NEEDS` has the Debian package of each command. `FETCHES`: it fetches lists by itself."""

    NAME: str
    NEEDS: Mapping[str, str]
    FETCHES: bool

    def answers(self, folder: Path, tasks: Sequence[Task]) -> list[Answer]:
        """The answer to each task. Files of tasks are in `folder`, and programs may write there."""
        ...
