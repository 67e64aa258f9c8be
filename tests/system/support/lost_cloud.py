"""A cloud is backed up under load and lost with everything but the backup and the operator's copies. It is restored.

The operator's copies are the passphrase of the key files, the trust pin and the identity of the backup. The restored
cloud has the same addresses, and databases of the other engine.
"""

import shutil
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import msgspec

from lab.cloud import Cloud
from lab.postgres import cluster
from lab.processes import wait_until
from protocol.messages.sessions import Ask, Session, StatementAnswer
from protocol.problems import ProblemDocument
from protocol.signed.envelope import peek_typ
from protocol.signed.lease import LeaseV1, from_v1
from protocol.signed.statements import (
    LEASE_VERSION,
    TYP_LEASE,
    TYP_LEASE_V2,
    TYP_REVOCATION,
    TYP_SUSPENSION,
    Lease,
    Revocation,
    Statement,
    Suspension,
)
from tests.simulators.forged_evidence import request
from tests.system.support.fleet import Fleet
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import SESSIONS, PaperNode
from tests.system.support.wire import Identity, new_key, once

NONCES = "/v1/node/nonces"
_KINDS: dict[str, type[LeaseV1 | Lease | Suspension | Revocation]] = {
    TYP_LEASE: LeaseV1,
    TYP_LEASE_V2: Lease,
    TYP_SUSPENSION: Suspension,
    TYP_REVOCATION: Revocation,
}


class Customer:
    """A node, with the statement that its machine has stored. It presents the statement in each contact."""

    def __init__(self, paper: PaperNode) -> None:
        self.paper = paper
        self.statement = ""
        self.refusal = ""
        """The code of the last contact's refusal, or empty."""

    @property
    def held(self) -> Statement:
        """The stored statement. Its signature is not checked; tests of the agent do that."""
        payload = self.statement.split(".")[1]
        content = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        decoded = msgspec.json.decode(content, type=_KINDS[peek_typ(self.statement)])
        return from_v1(decoded) if isinstance(decoded, LeaseV1) else decoded

    def contact(self) -> None:
        """Open a session and ask for the statement, as an agent does. A later statement is stored, an earlier one never."""
        key, self.refusal = new_key(), ""
        body = self.paper.open_session(request(key), lease_version=LEASE_VERSION)
        if self.statement:
            body = msgspec.structs.replace(body, presented=self.statement)
        answer = once(self.paper.cloud, "fabric", "POST", SESSIONS, body)
        if answer.status != 200:
            self._refused(answer.body)
            return
        session = Identity(key, answer.into(Session).certificate_chain)
        ask = Ask("n" * 32, self.statement) if self.statement else Ask("n" * 32)
        answer = once(self.paper.cloud, "fabric", "POST", "/v1/node/statement", ask, session)
        if answer.status != 200:
            self._refused(answer.body)
        else:
            self._take(answer.into(StatementAnswer).statement)

    def _refused(self, body: bytes) -> None:
        problem = msgspec.json.decode(body, type=ProblemDocument)
        self.refusal = problem.code
        if problem.statement:
            self._take(problem.statement)

    def _take(self, statement: str) -> None:
        before = self.statement
        place = (self.held.epoch, self.held.seq) if before else (0, 0)
        self.statement = statement
        if (self.held.epoch, self.held.seq) < place:
            self.statement = before


_GENERATIONS = "SELECT node, number FROM generation LIMIT 100000"
_OPENED = "SELECT node, generation FROM generation LIMIT 100000"


class Issued(msgspec.Struct, frozen=True):
    """What Breakwater has issued: certificates by serial number (hex), and CRLs by `SHARD:NUMBER`, each in DER."""

    certificates: dict[str, bytes]
    crls: dict[str, bytes]


def issued_by(cloud: Cloud) -> Issued:
    certificates = cloud.rows("breakwater", "SELECT serial, certificate FROM certificate LIMIT 100000")
    crls = cloud.rows("breakwater", "SELECT id, data FROM crl LIMIT 100000")
    return Issued(
        {str(serial): bytes(der or b"") for serial, der in certificates},
        {str(name): bytes(der) for name, der in crls},
    )


def twice(before: Issued, after: Issued) -> list[str]:
    """The serial numbers and CRL numbers that stand for two different documents."""
    pairs = ((before.certificates, after.certificates), (before.crls, after.crls))
    return [name for old, new in pairs for name in old.keys() & new.keys() if old[name] != new[name]]


class Copies(msgspec.Struct, frozen=True):
    """What an operator keeps apart from the cloud."""

    folder: Path
    recipient: str

    @property
    def backup(self) -> Path:
        return self.folder / "cascade.backup"

    @property
    def proof(self) -> tuple[str, ...]:
        """The options that decrypt a backup and prove its installation."""
        passphrase = self.folder / "passphrase"
        return ("--identity", str(self.folder / "identity"), "--key-passphrase-file", str(passphrase))


def copies_of(cloud: Cloud, folder: Path) -> Copies:
    """Make the operator's copies: the passphrase, a new key for backups, and the offline keys."""
    folder.mkdir(mode=0o700)
    shutil.copy(cloud.directory / "secrets" / "passphrase", folder / "passphrase")
    shutil.copytree(cloud.directory / "offline", folder / "offline")
    shutil.copy(cloud.directory / "operator" / "env", folder / "env")
    made = cloud.run("backup", "key", "--out", str(folder / "identity"))
    return Copies(folder, str(made["recipient"]))


def back_up_under_load(cloud: Cloud, copies: Copies, papers: list[PaperNode], directory: Path, *options: str) -> Any:
    """Make a backup while `papers` work. Returns the command's document."""
    with Fleet(cloud, papers, directory / "load") as fleet:
        place = ("--dir", str(cloud.directory), "--out", str(copies.backup))
        made = cloud.run("backup", "make", *place, "--recipient", copies.recipient, *options)
        fleet.round()
    assert fleet.failed == []
    for node, paper in zip(fleet.nodes, papers, strict=True):  # the fleet has renewed certificates
        assert paper.activated is not None
        paper.activated = msgspec.structs.replace(paper.activated, certificate_chain=node.chain)
    return made


def back_up_keys(cloud: Cloud, copies: Copies) -> None:
    """Make a key backup."""
    place = ("--dir", str(cloud.directory), "--out", str(copies.backup))
    cloud.run("backup", "make", *place, "--recipient", copies.recipient, "--keys-only")


def crls_of(cloud: Cloud, folder: Path) -> list[Path]:
    """Write the newest CRL of each shard of the nodes' CAs to a file, as an operator or a mirror has fetched it."""
    newest: dict[str, tuple[int, bytes]] = {}
    for name, der in issued_by(cloud).crls.items():
        shard, _, number = name.partition(":")
        if shard.startswith("nodes"):
            newest[shard] = max(newest.get(shard, (0, b"")), (int(number), der))
    for shard, (_, der) in newest.items():
        (folder / f"{shard}.crl").write_bytes(der)
    return [folder / f"{shard}.crl" for shard in sorted(newest)]


def lose(cloud: Cloud) -> None:
    """Kill the cloud, and remove everything that it had."""
    cloud.kill()
    shutil.rmtree(cloud.directory)


def new_databases() -> tuple[str, ...]:
    """The options that name an empty PostgreSQL database for each service."""
    addresses = ((f"--{service}-database", str(cluster().create())) for service in ("breakwater", "fabric"))
    return tuple(text for option in addresses for text in option)


def restored(cloud: Cloud, copies: Copies, directory: Path, *, server: bool = True) -> Cloud:
    """Restore into a new directory, on PostgreSQL or SQLite, and start the services."""
    new = new_cloud(directory)
    new.port = cloud.port
    databases = new_databases() if server else ()
    environment = dict(line.split("=", 1) for line in (copies.folder / "env").read_text().splitlines())
    arguments = ("restore", str(copies.backup), "--into", str(new.directory), *copies.proof)
    (new.directory / "operator").mkdir(parents=True)
    shutil.copy(copies.folder / "env", new.directory / "operator" / "env")
    new.run(*arguments, "--trust", environment["CASCADE_TRUST"], *databases)
    new.up()
    wait_until("the comparison of both services' records", lambda: once(new, "fabric", "POST", NONCES).status == 200)
    return new


def check_certificates(cloud: Cloud) -> int:
    """Run `cascade pki check`. Returns the number of errors."""
    return int(cloud.run("pki", "check", "--dir", str(cloud.directory))["errors"])


def unknown_to_the_issuer(cloud: Cloud) -> list[str]:
    """The generations that Fabric has stored and Breakwater has not. A consistent pair of databases has none."""
    generations = {(str(node), int(number)) for node, number in cloud.rows("fabric", _GENERATIONS)}
    opened = {(str(node), int(number)) for node, number in cloud.rows("breakwater", _OPENED)}
    return [f"{node} {number}" for node, number in sorted(generations - opened)]
