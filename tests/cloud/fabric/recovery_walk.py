"""Random recoveries on one Fabric: machines, operators, codes and time in any order, with invariants after each step.

A walk has one tenant, two nodes, and machines that were theirs, have other boards, or are strangers. Each step is an
action that a machine, an operator or the time can take. Most steps are refused, which is part of the walk.

The invariants: a recovery makes no node and takes no seat; a node has one open confirmed generation at most; a machine
with a closed generation has no lease beyond the published overlap; a code is used once; a node has one unfinished case at
most; a grace lease is not longer than the policy says; a refusal changes no row of a node, a generation, a case or a
code; a decision has one audit entry.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from cloud.fabric.bodies.recovery_codes import IssueRecoveryCodes, SetRecoveryPolicy
from cloud.fabric.errors import FabricError, GenerationClosed
from cloud.fabric.store.recovery_cases import UNFINISHED
from cloud.fabric.store.rows import GenerationRow, NodeRow, RecoveryCaseRow, RecoveryCodeRow
from protocol.ids import NodeId
from protocol.messages.activation import Activated, Challenge, ProveActivation
from protocol.messages.recovery import Situation
from protocol.signed.lease import Lease
from protocol.signed.statements import Revocation
from tests.cloud.fabric.recovering import claim, send, start
from tests.cloud.fabric.support import ALICE, FINGERPRINT, Machine, World, run_once

NODES = 2
SITUATIONS: tuple[Situation, ...] = ("reinstalled", "tpm-cleared", "hardware-replaced")
AHEAD = tuple(timedelta(hours=hours) for hours in (1, 5, 23, 49, 24 * 8, 24 * 40))
_PAGE = 1000

Step = Callable[[], Awaitable[None]]


class Body(msgspec.Struct, kw_only=True):
    """A machine of the walk. `waiting` is its last proof, which it can repeat."""

    machine: Machine
    waiting: tuple[Challenge, ProveActivation] | None = None
    unconfirmed: bool = False


GRACE_MAX = timedelta(hours=72)
"""The longest grace lease that `_policy` allows."""


class Rows(msgspec.Struct, frozen=True):
    """The rows that a refusal must not change."""

    nodes: list[NodeRow]
    generations: list[GenerationRow]
    cases: list[RecoveryCaseRow]
    codes: list[RecoveryCodeRow]


class Walk:
    """One walk. `seed` decides everything except keys and ids."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.nodes: list[NodeId] = []
        self.secrets: list[str] = []
        self.leases: dict[tuple[NodeId, int], datetime] = {}
        """The latest end of every lease that a machine got, by node and generation."""
        self.used: dict[str, str] = {}
        """Code -> case, of the codes that were seen as used."""
        self.name = ""

    async def run(self, steps: int) -> Counter[str]:
        """Make the machines, take the steps, and check the invariants after each. Returns what was done."""
        await self._begin()
        for _ in range(steps):
            step = self.random.choice(self._steps())
            self.name = step.__name__.removeprefix("_")
            self.world.clock.forward(timedelta(seconds=1))  # ids sort by time
            before = await self._rows()
            try:
                await step()
                self.done[self.name] += 1
            except FabricError as error:
                self.done[f"{self.name}: {type(error).__name__}"] += 1
                await self._check_refusal(before, error)
            await self._check()
        return self.done

    def _steps(self) -> list[Step]:
        machines = [self._recover, self._recover, self._repeat, self._repeat, self._confirm, self._confirm, self._ask]
        operators = [self._issue, self._approve, self._deny, self._revoke_code, self._standing, self._policy]
        return [*machines, *operators, self._time, self._background]

    async def _begin(self) -> None:
        code = await self.world.code(seats=NODES, life=timedelta(days=365))
        for number in range(NODES):
            parts = {"board_serial": f"{number}b" * 32, "disk_serial": f"{number}d" * 32}
            own = Machine(self.world, f"own {number}", lease_version=2, fingerprint=parts)
            body = Body(machine=own)
            self._took(await own.join(code.secret))
            self.nodes.append(own.node)
            repaired = Machine(self.world, f"new {number}", lease_version=2, fingerprint=parts, held=own.held)
            self.bodies += [body, Body(machine=repaired)]
        stranger = Machine(self.world, "stranger", lease_version=2, fingerprint=dict(FINGERPRINT))
        self.bodies.append(Body(machine=stranger))

    # Steps of machines

    def _body(self) -> Body:
        return self.random.choice(self.bodies)

    async def _recover(self) -> None:
        body = self._body()
        named = self.random.choice([*self.nodes, ""])
        held = self.random.choice(["", body.machine.held])
        ran_at = self.random.choice([msgspec.UNSET, self.world.clock() - timedelta(hours=self.random.randrange(60))])
        claims = claim(named, statement=held, situation=self.random.choice(SITUATIONS), last_ran_at=ran_at)
        code = self.random.choice([*self.secrets, "", ""])
        challenge = await start(body.machine, claims, code)
        proof = body.machine.proof(challenge)
        body.waiting, body.unconfirmed = (challenge, proof), False
        await self._send(body)

    async def _repeat(self) -> None:
        if waiting := [each for each in self.bodies if each.waiting is not None]:
            await self._send(self.random.choice(waiting))

    async def _send(self, body: Body) -> None:
        assert body.waiting is not None
        identity, key = body.machine.activated, body.machine.held
        answer = await send(body.machine, *body.waiting)
        if not isinstance(answer, Activated):
            return
        assert answer.node in self.nodes, "a recovery has made a node"
        if identity is not None and (identity.node, identity.generation) == (answer.node, answer.generation):
            body.machine.held = key
        else:
            body.unconfirmed = True

    async def _confirm(self) -> None:
        if unconfirmed := [each for each in self.bodies if each.unconfirmed]:
            body = self.random.choice(unconfirmed)
            self._took(await body.machine.confirm())
            body.unconfirmed = False
            self.done["confirmed"] += 1

    async def _ask(self) -> None:
        body = self._body()
        if body.machine.activated is None or body.unconfirmed:
            return
        try:
            peer = await body.machine.peer()
            self._took(await body.machine.refresh(peer))
        except GenerationClosed as error:
            closed = self.world.statement(error.statement)
            assert isinstance(closed, Revocation)
            raise

    def _took(self, statement: Any) -> None:
        if not isinstance(statement, Lease):
            return
        key = statement.node, statement.generation
        self.leases[key] = max(statement.terminate_at, self.leases.get(key, statement.terminate_at))
        if statement.recovery:
            assert statement.terminate_at <= statement.issued_at + GRACE_MAX, "a grace lease is too long"

    # Steps of operators

    async def _case(self) -> RecoveryCaseRow | None:
        cases = await self._cases()
        return self.random.choice(cases) if cases else None

    async def _decide(self, decision: Any) -> None:
        case = await self._case()
        if case is None:
            return
        before = await self._entries(case)
        decided = await self.world.parts.operators.recovery_decisions.decide(ALICE, case.id, decision, "a test")
        after = await self._entries(case)
        repeated = (decided.state, decided.decided_at) == (case.state, case.decided_at)
        assert after - before == (0 if repeated else 1), f"{after - before} audit entries for one decision"

    async def _approve(self) -> None:
        await self._decide("approve")

    async def _deny(self) -> None:
        await self._decide("deny")

    async def _issue(self) -> None:
        case = await self._case()
        scopes: list[dict[str, Any]] = [{"node": node} for node in self.nodes] + [{"tenant": self.world.tenant}]
        if case is not None:
            scopes.append({"case": case.id})
        body = IssueRecoveryCodes(
            expires_at=self.world.clock() + timedelta(days=self.random.choice([2, 60])), **self.random.choice(scopes)
        )
        issued = await self.world.parts.operators.recovery_code_issues.issue(ALICE, body)
        self.secrets += [each.secret for each in issued.codes]

    async def _revoke_code(self) -> None:
        codes = await self.world.stores.recovery_codes.page("", "", "", _PAGE)
        if codes:
            code = self.random.choice(codes)
            await self.world.parts.operators.recovery_code_issues.revoke(ALICE, code.id)

    async def _standing(self) -> None:
        change = self.random.choice(["suspend", "resume", "suspend", "resume", "resume", "revoke"])
        node = self.random.choice(self.nodes)
        await self.world.parts.operators.standings.change(ALICE, node, change, "a test")  # type: ignore[arg-type]  # one of the three

    async def _policy(self) -> None:
        policy = SetRecoveryPolicy(
            grace_quota=self.random.choice([0, 1, 2]),
            grace_hours=self.random.choice([24, 72]),
            silence_minutes=self.random.choice([0, 0, 60]),
            code_delay_hours=self.random.choice([0, 24]),
        )
        await self.world.parts.operators.recovery_policies.set(ALICE, self.world.tenant, policy)

    # Time

    async def _time(self) -> None:
        self.world.clock.forward(self.random.choice(AHEAD))

    async def _background(self) -> None:
        await run_once(self.world)

    # Invariants

    async def _cases(self) -> list[RecoveryCaseRow]:
        return await self.world.stores.recovery_cases.page("", "", "", "", _PAGE)

    async def _entries(self, case: RecoveryCaseRow) -> int:
        return len(await self.world.stores.audit.page("", case.id, "", "aud_8", _PAGE))

    async def _rows(self) -> Rows:
        nodes = [await self.world.node(node) for node in self.nodes]
        generations = [
            row
            for node in nodes
            for number in range(1, node.last_generation + 1)
            if (row := await self.world.stores.nodes.find_generation(node.id, number)) is not None
        ]
        codes = await self.world.stores.recovery_codes.page("", "", "", _PAGE)
        return Rows(nodes, generations, await self._cases(), codes)

    async def _check_refusal(self, before: Rows, error: FabricError) -> None:
        """A refused request changes nothing. A session leaves reports, also a refused one: the columns are left out.

        A confirm that cannot succeed any more begins the lapse of its generation, which was not in force. The return of
        a replaced machine raises the flag of a clone, and the node's next statement says so.
        """
        before, after = _without_reports(before), _without_reports(await self._rows())
        if self.name == "confirm":
            before, after = _in_force(before), _in_force(after)
        if self.name == "ask":
            before, after = _without_flags(before), _without_flags(after)
        for name in Rows.__struct_fields__:
            assert getattr(after, name) == getattr(before, name), (
                f"{self.name} was refused ({error}), and {name} changed"
            )

    async def _check(self) -> None:
        rows = await self._rows()
        await self._check_nodes(rows)
        for case, count in Counter(case.node for case in rows.cases if case.state in UNFINISHED).items():
            assert count == 1, f"{case} has {count} unfinished cases"
        for code in rows.codes:
            if code.used_at is not None:
                assert self.used.setdefault(code.id, code.used_case) == code.used_case, "a code was used twice"
        users = Counter(self.used.values())
        assert all(case for case in users), "a code was used without a case"
        for node in rows.nodes:
            self._check_leases(node, self.world.clock())

    async def _check_nodes(self, rows: Rows) -> None:
        listed = await self.world.parts.operators.node_lists.page("", "", "", 10)
        assert {node.id for node in listed.items} == set(self.nodes), "a recovery has made a node"
        (code,) = {node.code for node in rows.nodes}
        row = await self.world.stores.codes.find(code)
        assert row is not None
        assert row.seats_taken == sum(node.seat_held for node in rows.nodes), "the seats are wrong"
        for node in rows.nodes:
            in_force = [
                each.number
                for each in rows.generations
                if each.node == node.id and each.state == "confirmed" and each.number > node.closed_up_to
            ]
            assert len(in_force) <= 1, f"{node.id} has the generations {in_force} in force"

    def _check_leases(self, node: NodeRow, now: datetime) -> None:
        """A machine that is not the node any more has no lease beyond the published overlap."""
        for (owner, generation), ends in self.leases.items():
            if owner != node.id or ends <= now:
                continue
            if generation == node.current_generation and generation > node.closed_up_to:
                continue
            overlap = node.overlap_until
            assert overlap is not None, (
                f"a lease of the closed generation {generation} runs, and no overlap is published"
            )
            assert ends <= overlap, f"a lease of the closed generation {generation} runs beyond the published overlap"


def _without_reports(rows: Rows) -> Rows:
    """The rows without the columns that sessions report, and without the time of the first delivered revocation."""
    nodes = [
        msgspec.structs.replace(each, superseded_asked_at=None, superseded_asked_generation=0) for each in rows.nodes
    ]
    generations = [
        msgspec.structs.replace(
            each, told_at=None, seen_at=None, seen_fingerprint={}, drift=None, holders="", holders_version=0
        )
        for each in rows.generations
    ]
    return msgspec.structs.replace(rows, nodes=nodes, generations=generations)


def _in_force(rows: Rows) -> Rows:
    """The rows with the generations in force only, and of the nodes the values that a lapse must leave."""
    nodes = [
        msgspec.structs.replace(each, closed_up_to=0, closed_at_issuer=0, closing=False, seq=0, wake_cursor=0)
        for each in rows.nodes
    ]
    numbers = {(each.id, each.current_generation) for each in rows.nodes}
    generations = [each for each in rows.generations if (each.node, each.number) in numbers]
    return msgspec.structs.replace(rows, nodes=nodes, generations=generations)


def _without_flags(rows: Rows) -> Rows:
    """The rows without the suspicion of a clone, without the statements that name it, and without returns of machines."""
    nodes = [
        msgspec.structs.replace(each, clone_cause="", clone_at=None, seq=0, wake_cursor=0, lease_until=None)
        for each in rows.nodes
    ]
    cases = [msgspec.structs.replace(each, returned_at=None) for each in rows.cases]
    return msgspec.structs.replace(rows, nodes=nodes, generations=[], cases=cases)
