"""Site of the fault walk: a cloud and a machine with one process to kill, and the checks at the end of each case.

A `Site` is one copy of a prepared situation, with the steps that a person or systemd takes there. A `Lane` owns an
installation and a chip. It prepares each situation once and copies it for every case. The installation's addresses are
signed, so only one copy of an installation runs at a time.
"""

import shutil
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import trio

from lab.cloud import Cloud
from lab.processes import WAIT_SECONDS, Process, wait_until
from lab.tpm import SoftTpm
from node.config import AGENT_VERSION
from node.disk.chain import decode_chain
from node.disk.identity import IdentityStore
from node.disk.pending import PendingActivation
from node.errors import StateDamaged
from node.exchanges.activation_file import read_activation_file
from node.exchanges.session import Credentials, fresh_nonce, open_session
from node.hwbind import evidence
from node.hwbind.tpm import Tpm
from node.link import api
from node.trust import published
from node.trust.published import TrustSet
from protocol.encoding import json_decode, json_encode
from protocol.evidence import KeyEvidence
from protocol.faults import Stage
from protocol.messages.activation import ProveActivation
from protocol.messages.est import decode_certs_only
from protocol.messages.renewal import ProveRenewal, StartRenewal
from protocol.messages.sessions import Ask, OpenSession
from tests.simulators.forged_evidence import request
from tests.simulators.machine_clocks import right_window
from tests.system.support.harness import Plan, new_cloud, new_machine
from tests.system.support.software_machine import NO_TPM, hardware
from tests.system.support.wire import Closed, Wire, renew_device, service_identity

LEASE_SECONDS = "4,3600,7200,10800"
"""A lease that is due for a new signature after two seconds and runs for hours. So each exchange refreshes it."""
RUNNING = ("active", "refresh-due")
REVOKED = 81
WAITS = 88
"""The exit status of an activation that waits for an operator."""


class Interrupted(Exception):
    """A step of a scenario failed. This is expected while a process dies, and an error afterwards."""


@dataclass
class Prepared:
    """A situation on disk, and a session of each generation that has been current in it."""

    directory: Path
    sessions: dict[int, Credentials] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The activation file of the situation, used or not."""
        return self.directory / "activation.json"


class Site:
    """One copy of a situation: a cloud, a machine, and at most one process to kill."""

    def __init__(self, lane: "Lane", directory: Path, sessions: dict[int, Credentials]) -> None:
        self.lane = lane
        self.directory = directory
        self.sessions = sessions
        self.cloud = new_cloud(directory)
        self.machine = new_machine(directory, lane.chip, "m", heartbeat_seconds=2)
        self.armed: Plan | None = None
        self.victim: Process | None = None
        self._readmission: Path | None = None
        self._hardware = ""

    @property
    def file(self) -> Path:
        return self.directory / "activation.json"

    @property
    def record(self) -> Path:
        return self.directory / "passed"

    def end(self) -> None:
        for process in (self.victim, self.machine.agent, self.cloud.process):
            if process is not None:
                process.kill()

    # The process to kill

    def arm(self, point: str, stage: Stage) -> None:
        self.armed = Plan(record=str(self.record), kill=(point, stage))

    def _plan(self, side: Literal["node", "cloud"]) -> Plan | None:
        """The plan of the kill, for the first process of its side; None for every other process."""
        plan = self.armed
        if plan is None or plan.kill is None or plan.kill[0].startswith("node.") != (side == "node"):
            return None
        self.armed = None
        return plan

    def _start(self, plan: Plan | None) -> Plan | None:
        """How a process of the machine starts: with the plan of its kill, and with the simulated serial numbers."""
        if not self._hardware:
            return plan
        return msgspec.structs.replace(plan or Plan(), hardware=self._hardware)

    def _remember(self, process: Process, plan: Plan | None) -> Process:
        if plan is not None:
            self.victim = process
        return process

    def died(self, point: str, stage: Stage) -> bool:
        """Whether the armed process was killed, with this fault point and stage as the last that it passed."""
        victim = self.victim
        if victim is None:
            return False
        with suppress(AssertionError):
            wait_until("the death", lambda: not victim.running, WAIT_SECONDS / 2)
        if victim.running or victim.wait() != -signal.SIGKILL:
            return False
        return self.record.read_text().splitlines()[-1] == f"{point} {stage}"

    # Steps

    def serve(self) -> None:
        """Start the cloud if it is not running. Raises Interrupted."""
        if self.cloud.process is None or not self.cloud.process.running:
            plan = self._plan("cloud")
            self._remember(self.cloud.up(plan), plan)
        if self.cloud.process is None or not self.cloud.process.running:
            raise Interrupted(f"the cloud did not start:\n{self.cloud.process.report() if self.cloud.process else ''}")

    def command(self, *argv: str, expect: tuple[int, ...] = (0,)) -> None:
        """Run a `cascadia` command. Raises Interrupted when the exit status is not in `expect`."""
        plan = self._plan("node")
        process = self._remember(self.machine.start(*argv, "--json", start=self._start(plan)), plan)
        code = process.wait()
        if code not in expect:
            raise Interrupted(f"cascadia {argv[0]} ended with {code}, not {expect}:\n{process.report()}")

    def operate(self, *argv: str) -> None:
        """Run a `cascade` command. Raises Interrupted when it fails."""
        try:
            self.cloud.run(*argv)
        except AssertionError as error:
            raise Interrupted(str(error)) from error

    def activate(self, file: Path | None = None) -> None:
        self.command("activate", str(file or self.file))

    def agent(self) -> None:
        """Start the agent if it is not running, and wait for its contact with the cloud. Raises Interrupted."""
        if self.machine.agent is None or not self.machine.agent.running:
            plan = self._plan("node")
            self._remember(self.machine.launch(self._start(plan)), plan)
        agent = self.machine.agent
        if agent is None:
            raise Interrupted("no agent")

        cloud = self.cloud.process

        def settled() -> bool:
            if not agent.running or cloud is None or not cloud.running:
                return True
            status = self.machine.ask("/v1/status") or {"failures": 1}
            return bool(status["failures"] == 0 and status["last_contact_at"] and status["license"]["state"] in RUNNING)

        wait_until("the agent's contact with the cloud", settled)
        if not agent.running:
            raise Interrupted(f"the agent ended with {agent.wait()}:\n{agent.report()}")
        if cloud is None or not cloud.running:
            raise Interrupted("the cloud died")

    def hears(self, state: str) -> None:
        """Wait until the running agent shows this state of the licence. Raises Interrupted."""
        agent = self.machine.agent
        if agent is None:
            raise Interrupted("no agent")

        def heard() -> bool:
            status = self.machine.ask("/v1/status") if agent.running else None
            return not agent.running or (status is not None and status["license"]["state"] == state)

        wait_until(f"the agent's change to {state}", heard)
        if not agent.running:
            raise Interrupted(f"the agent ended with {agent.wait()}:\n{agent.report()}")

    def refused_start(self) -> None:
        """Wait until the agent knows its revocation. After that it must not start. Raises Interrupted."""
        agent = self.machine.agent
        if agent is None or not agent.running:
            plan = self._plan("node")
            agent = self._remember(self.machine.launch(plan), plan)
            running = agent
            wait_until("an answer or the end of the agent", lambda: not running.running or self.machine.answers())
        if agent.running:
            if self.cloud.process is None or not self.cloud.process.running:
                raise Interrupted("the cloud died; the agent runs on its lease")
            self.machine.wait_state("revoked")
            agent.stop()
            agent = self.machine.launch()
        code = agent.wait()
        if code != REVOKED:
            raise Interrupted(f"the agent of a revoked node ended with {code}:\n{agent.report()}")

    def node(self) -> str:
        ((node,),) = self.cloud.rows("fabric", "SELECT id FROM node")
        return str(node)

    def closed(self) -> None:
        """Wait until Fabric has closed every closed generation at Breakwater. Raises Interrupted."""
        self.see("the closing at Breakwater", "SELECT count(*) FROM node WHERE closing = 0")

    def see(self, what: str, sql: str) -> None:
        """Wait until a query of Fabric's database returns a true value. Raises Interrupted."""
        cloud = self.cloud.process
        wait_until(what, lambda: cloud is None or not cloud.running or self.cloud.rows("fabric", sql)[0][0])
        if cloud is None or not cloud.running:
            raise Interrupted("the cloud died")

    def allow_restores(self) -> None:
        """Have the tenant repair any number of restores without a person. Raises Interrupted."""
        ((tenant,),) = self.cloud.rows("fabric", "SELECT id FROM tenant")
        self.operate("recovery", "policy", str(tenant), "--repair-quota", "9")

    def demand_approval(self, tiers: str) -> None:
        """Have the tenant demand approval for these tiers. Raises Interrupted."""
        ((tenant,),) = self.cloud.rows("fabric", "SELECT id FROM tenant")
        self.operate("tenant", "approve-tiers", str(tenant), tiers)

    def remove_tpm(self) -> None:
        """Take the TPM from the machine, and simulate its serial numbers. The tenant admits it. Raises Interrupted."""
        ((tenant,),) = self.cloud.rows("fabric", "SELECT id FROM tenant")
        self.operate("tenant", "tiers", str(tenant), "attested,software")
        if not self._hardware:
            self._hardware = hardware(self.directory, 1).hardware
            self.machine.env |= NO_TPM

    def approve(self) -> None:
        """Approve every activation that waits. Raises Interrupted."""
        for (activation,) in self.cloud.rows("fabric", "SELECT id FROM activation WHERE state = 'pending'"):
            self.operate("activation", "approve", str(activation), "--reason", "walk")

    def approve_recoveries(self) -> None:
        """Approve every recovery case that waits. Raises Interrupted."""
        waiting = "SELECT id FROM recovery_case WHERE state = 'needs_operator'"
        for (case,) in self.cloud.rows("fabric", waiting):
            self.operate("recovery", "approve", str(case), "--reason", "walk")

    def lose_keys(self) -> None:
        """Name another parent of the stored keys, as if the TPM had been cleared: it cannot make this parent."""
        store = IdentityStore(self.machine.state)
        identity = store.current()
        if identity is None:
            raise Interrupted("no identity")
        parent = b"\0\x0b" + bytes(32)
        made = msgspec.structs.replace(
            identity,
            ak=msgspec.structs.replace(identity.ak, parent=parent, parent_public=None),
            node_key=msgspec.structs.replace(identity.node_key, parent=parent, parent_public=None),
        )
        (self.machine.state / "current.json").unlink()
        store.save_generation(made)
        store.switch_to(identity.generation)

    def readmit(self) -> None:
        """Readmit the revoked node with a new code, as an operator does, and activate. Raises Interrupted."""
        (tenant,) = self.cloud.rows("fabric", "SELECT id FROM tenant")[0]
        if self._readmission is None:
            try:
                self._readmission = self.cloud.code(
                    str(tenant), "--readmit", self.node(), "--lease-seconds", LEASE_SECONDS
                )
            except AssertionError as error:
                raise Interrupted(str(error)) from error
        self.activate(self._readmission)

    # Requests without a session, and of an earlier generation

    async def anonymous(self) -> tuple[TrustSet, api.Service]:
        """A client without a session. An interrupted first activation has not stored its trust."""
        try:
            trusted = published.load(self.machine.state)
        except StateDamaged:
            file, _ = read_activation_file(self.file)
            trusted = (await published.stage(file.repository_url, file.pin, self.machine.state)).value
        return trusted, api.connect(trusted.bundle, trusted.urls, "fabric", right_window)

    def answer_wrongly(self) -> None:
        """Send the stored proof with another secret. Fabric has to count and refuse it."""
        pending = IdentityStore(self.machine.state).load_activation()
        if pending is None:
            raise Interrupted("no proof is stored")
        _refused("challenge_failed", partial(self._wrong_answer, pending))

    async def _wrong_answer(self, pending: PendingActivation) -> None:
        proof = json_decode(pending.proof, ProveActivation)
        body = json_encode(msgspec.structs.replace(proof, secret=bytes(len(proof.secret))))
        _, service = await self.anonymous()
        try:
            await service.prove_activation(pending.activation, body)
        finally:
            await service.aclose()

    def answer_renewal_wrongly(self) -> None:
        """Start a renewal with valid evidence, and send a proof with a wrong secret. Fabric has to refuse it."""
        _refused("challenge_failed", self._wrong_renewal)

    async def _wrong_renewal(self) -> None:
        identity = IdentityStore(self.machine.state).current()
        if identity is None:
            raise Interrupted("no identity")
        tpm = Tpm(self.lane.chip.tcti)
        _, service = await self.anonymous()
        try:
            endorsement = await tpm.run(lambda esys: evidence.endorsement_evidence(esys, identity.ak))
            made = await service.start_renewal(StartRenewal(identity.chain[0], endorsement, AGENT_VERSION))
            body = ProveRenewal(bytes(32), b"", KeyEvidence(b"", b"", b""), fresh_nonce())
            await service.prove_renewal(made.renewal, json_encode(body))
        finally:
            await service.aclose()
            await tpm.aclose()

    def forge_session(self) -> None:
        """Ask for a session with the device certificate and an unsigned proof. Fabric has to refuse it."""
        _refused("proof_refused", self._forged_session)

    async def _forged_session(self) -> None:
        identity = IdentityStore(self.machine.state).current()
        if identity is None:
            raise Interrupted("no identity")
        _, service = await self.anonymous()
        try:
            await service.open_session(OpenSession(device_certificate=identity.chain[0], csr=b"", proof="a.b.c"))
        finally:
            await service.aclose()

    def session(self) -> tuple[int, Credentials]:
        """Open a session of the current generation with the machine's TPM. Returns the generation and the session."""
        identity = IdentityStore(self.machine.state).current()
        if identity is None:
            raise Interrupted("no identity")

        async def prove() -> Credentials:
            tpm = Tpm(self.lane.chip.tcti)
            try:
                opened = await open_session(published.load(self.machine.state), identity, tpm, right_window, "")
            finally:
                await tpm.aclose()
            await self._use(opened.credentials, "fabric")
            return opened.credentials

        return identity.generation, trio.run(prove)

    async def _use(self, credentials: Credentials, name: str) -> None:
        service = credentials.connect(published.load(self.machine.state), name, right_window)
        try:
            if name == "fabric":
                await service.statement(Ask(nonce=fresh_nonce()))
            else:
                await service.reenroll(b"", "of-an-earlier-generation")
        finally:
            await service.aclose()

    def spare_certificate(self) -> Path:
        """The file of a certificate that was issued to Fabric's identity and that Fabric does not use."""
        spare = self.directory / "spare.pem"
        if not spare.exists():
            identity = service_identity(self.cloud, "fabric")
            try:
                with Wire(self.cloud, "breakwater", identity) as wire:
                    answer = renew_device(wire, request(identity.key))
            except (OSError, Closed) as error:
                raise Interrupted(repr(error)) from error
            (leaf,) = decode_certs_only(answer.body)
            spare.write_bytes(ssl.DER_cert_to_PEM_cert(leaf).encode())
        return spare

    # The end of every case

    def check_end(self, *, renewed: bool = False) -> None:
        """Assert one node, one seat and one valid device certificate, and that no earlier generation is usable.

        No interruption makes the cloud suspect a clone.

        With `renewed`, older device certificates of the same key may be valid too.
        """
        self.serve()
        self.agent()
        self.closed()
        status = self.machine.ask("/v1/status")
        current = status["license"]["generation"]
        assert self.machine.granted()
        nodes = self.cloud.rows("fabric", "SELECT id, standing, seat_held, current_generation FROM node")
        assert nodes == [(status["license"]["node"], "active", 1, current)], nodes
        assert self.cloud.rows("fabric", "SELECT sum(seats_taken) FROM code") == [(1,)]
        assert self.cloud.rows("fabric", "SELECT id, clone_cause FROM node WHERE clone_cause != ''") == []
        self._check_generations(current)
        self._check_certificates(current, renewed=renewed)
        for generation, credentials in self.sessions.items():
            if generation != current:
                for name in ("fabric", "breakwater"):
                    _refused("generation_closed", partial(self._use, credentials, name))

    def _check_generations(self, current: int) -> None:
        """Assert that only the current generation is open in both services."""
        at_fabric = self.cloud.rows(
            "fabric",
            "SELECT g.number FROM generation g JOIN node n ON n.id = g.node "
            "WHERE g.number > n.closed_up_to AND g.state != 'closed'",
        )
        at_issuer = self.cloud.rows(
            "breakwater",
            "SELECT g.generation FROM generation g LEFT JOIN closing c ON c.node = g.node "
            "WHERE g.generation > coalesce(c.closed_up_to, 0) AND g.closed_at IS NULL",
        )
        assert (at_fabric, at_issuer) == ([(current,)], [(current,)])

    def _check_certificates(self, current: int, *, renewed: bool) -> None:
        """Assert that all valid device certificates are of one key, and that the one on disk is the newest."""
        valid = self.cloud.rows(
            "breakwater",
            "SELECT generation, certificate, spki_sha256 FROM certificate "
            "WHERE profile = 'device' AND state = 'issued' ORDER BY not_after, recorded_at",
        )
        numbers = [row[0] for row in valid]
        assert set(numbers) == {current}, numbers
        assert renewed or len(numbers) == 1, numbers
        assert len({row[2] for row in valid}) == 1
        path = self.machine.state / "identity" / f"g-{current}" / "device.pem"
        assert decode_chain(path, path.read_bytes())[0] == valid[-1][1]
        # An OCSP delegate or a session may be issued now. Breakwater must have marked each record of a killed issuance.
        recorded = "SELECT count(*) FROM certificate WHERE state = 'recorded'"
        wait_until("a result of every issuance", lambda: self.cloud.rows("breakwater", recorded) == [(0,)])


def _refused(code: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, and assert that the cloud refuses it with this code. Raises Interrupted without an answer."""
    try:
        trio.run(work)
    except api.CloudRefused as refusal:
        answered = refusal.code
    except api.CloudUnreachable as error:
        raise Interrupted(error.text) from error
    else:
        answered = "yes"
    assert answered == code, f"answered {answered}, not {code}"


class Lane:
    """One installation with its prepared situations. One thread walks its cases, one at a time."""

    def __init__(self, directory: Path, chip: SoftTpm, prepare: Mapping[str, Callable[["Lane"], Prepared]]) -> None:
        self.directory = directory
        self.chip = chip
        self.port = 0
        self._prepare = prepare
        self._prepared: dict[str, Prepared] = {}
        self._count = 0

    def site(self, situation: str) -> Site:
        """A copy of a situation. The first use prepares the situation."""
        if situation not in self._prepared:
            self._prepared[situation] = self._prepare[situation](self)
        return self.copy(self._prepared[situation])

    def has(self, situation: str) -> bool:
        return situation in self._prepared

    def copy(self, prepared: Prepared) -> Site:
        self._count += 1
        directory = self.directory / f"{self._count}"
        site = Site(self, directory, dict(prepared.sessions))
        site.cloud.copy_from(self._cloud_in(prepared.directory))
        state = prepared.directory / "m" / "state"
        if state.exists():
            shutil.copytree(state, site.machine.state)
        shutil.copy2(prepared.file, site.file)
        return site

    def _cloud_in(self, directory: Path) -> Cloud:
        cloud = new_cloud(directory)
        cloud.port = self.port
        return cloud

    def begin(self, *lease: str) -> Site:
        """A running copy of the new installation with a tenant and an activation file."""
        if not (self.directory / "installation").exists():
            self.port = new_cloud(self.directory / "installation").init().port
        self._count += 1
        directory = self.directory / f"{self._count}"
        site = Site(self, directory, {})
        site.cloud.copy_from(self._cloud_in(self.directory / "installation"))
        site.serve()
        tenant = site.cloud.tenant(self.chip)
        site.cloud.code(tenant, "--seats", "1", "--lease-seconds", *lease).rename(site.file)
        return site

    def keep(self, site: Site) -> Prepared:
        """Stop all processes of the site. Returns its files as a situation."""
        site.end()
        return Prepared(site.directory, site.sessions)
