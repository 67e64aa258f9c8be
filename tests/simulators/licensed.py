"""Simulator: an agent behind the port of the socket's routes, in every state of the licence, one after the other."""

from datetime import UTC, datetime, timedelta

import msgspec

from node.airgap.errors import AirgapRefused
from node.airgap.store import StoredRequest
from node.disk.deactivated import Deactivated
from node.errors import Unreachable
from node.exits import Exit
from node.hwbind.errors import TpmFailed
from node.licensing.trusted_time import Judged
from node.licensing.verdict import STATES, Snapshot, Verdict
from node.local.changes import Changes
from node.local.documents import StatusDocument, status_document
from protocol.airgap.answer import Outstanding
from protocol.ids import AirgapRequestId, NodeId, TenantId
from protocol.openapi import example_id
from protocol.signed.statements import Holder, Lease

AT = datetime(2030, 1, 1, tzinfo=UTC)
TENANT = TenantId(example_id("ten"))
NODE = NodeId(example_id("node"))
_TIME = Judged(low=AT, high=AT, least_high=AT, wall=AT, source="signed", suspect=False)
HOLDER = Holder("cascade.internal", TENANT, NODE, 1)


class SimulatedAgent:
    """Each answer is of the next state. Every third renewal succeeds; the others fail at the cloud, then at the TPM."""

    def __init__(self) -> None:
        self._asked = 0
        self._renewals = 0
        self.changes = Changes("simulator")

    def snapshot(self) -> Snapshot:
        state = STATES[self._asked % len(STATES)]
        self._asked += 1
        runs = state in ("active", "refresh-due", "grace", "restricted")
        return Snapshot(
            holder=HOLDER,
            hardware="ours",
            lease=_LEASE if runs else None,
            verdict=Verdict(
                state=state,
                gate_open=runs,
                new_work=runs and state != "restricted",
                reason=f"the simulator is {state}",
                next="",
                deadline=AT if runs else None,
                valid_until=AT,
                exit=Exit.OK if runs else Exit.STALE,
                clock_suspect=state == "grace",
                damaged=("statement.jws does not verify",) if state == "stale" else (),
            ),
            time=_TIME,
        )

    def status(self) -> StatusDocument:
        contact = AT if self._asked % 2 else None
        return status_document(
            self.snapshot(), "production", running=True, last_contact_at=contact, failures=self._asked % 3
        )

    async def renew(self, *, rekey: bool) -> None:
        self._renewals += 1
        if self._renewals % 3 == 1:
            raise Unreachable("cannot reach the cloud: the simulator has none")
        if self._renewals % 3 == 2:
            raise TpmFailed("the simulator has none")

    async def make_request(self, *, new: bool) -> StoredRequest:
        await self.renew(rekey=False)
        return _NEW_REQUEST if new else _REQUEST

    async def lend(self) -> None:
        await self.renew(rekey=False)

    async def import_answer(self, data: bytes) -> None:
        if not data:
            raise AirgapRefused("cannot import the answer: the file is empty")
        await self.renew(rekey=False)

    async def deactivate(self, *, forget: bool) -> Deactivated:
        if not forget:
            await self.renew(rekey=False)
        return Deactivated(node=NODE, at=AT, seat="taken" if forget else "free", complete=True)

    def end_deactivated(self) -> None:
        """The simulator goes on."""


_REQUEST = StoredRequest(
    outstanding=Outstanding("refresh", AirgapRequestId(example_id("agr")), "0" * 64, "n" * 32, "1" * 64),
    file=b'{"document":"cascade-airgap-request"}\n',
    generation=1,
    made_at=AT,
    expires_at=AT + timedelta(days=14),
    boot_id="",
    boot_seconds=0.0,
)
_NEW_REQUEST = msgspec.structs.replace(_REQUEST, made_at=AT + timedelta(days=1))


_LEASE = Lease(
    trust_domain=HOLDER.trust_domain,
    tenant=TENANT,
    node=NODE,
    generation=1,
    epoch=1,
    seq=1,
    issued_at=AT,
    tier="attested",
    profile="kiosk",
    entitlements=("vision",),
    not_before=AT,
    refresh_after=AT + timedelta(days=1),
    expires_at=AT + timedelta(days=30),
    grace_until=AT + timedelta(days=45),
    terminate_at=AT + timedelta(days=60),
)
