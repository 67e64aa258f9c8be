"""What the local socket answers: licence, entitlement, status; and the one command, `renew`, with or without rekey.

The documents are versioned (`format`): fields are added, never renamed. They are made at the time of asking.
"""

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from node.config import AGENT_VERSION
from node.errors import NodeError
from node.hwbind.errors import TpmError
from node.licensing.keeper import Keeper
from node.licensing.verdict import Verdict, entitled
from node.local_api import Answer, Handler, Request, problem
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX
from protocol.statements import Lease

if TYPE_CHECKING:
    from node.agent import Agent

FORMAT = 1


class LicenseDocument(msgspec.Struct, frozen=True):
    """`GET /v1/license`. Software that is licensed keeps its last answer until `valid_until`, and no longer."""

    format: int
    state: str
    gate: str
    new_work: bool
    reason: str
    next: str
    valid_until: datetime
    exit_code: int
    flags: tuple[str, ...]
    tenant: str
    node: str
    generation: int
    lease: Lease | None


class EntitlementDocument(msgspec.Struct, frozen=True):
    """`GET /v1/entitlements/NAME`; the HTTP status is 200 when granted and 403 when not."""

    format: int
    name: str
    granted: bool
    state: str
    reason: str
    valid_until: datetime


class StatusDocument(msgspec.Struct, frozen=True):
    """`GET /v1/status`. `offline_bound_at`: until when a copy of this state could run without the cloud."""

    format: int
    version: str
    mode: str
    license: LicenseDocument
    hardware: str
    agent_running: bool
    last_contact_at: datetime | None
    failures: int
    offline_bound_at: datetime | None
    limits: str
    damaged: tuple[str, ...] = ()
    """A text for each licence file that is there and cannot be believed."""


LIMITS = (
    "A revocation or suspension binds this machine once it was told of it. A whole state directory put back from "
    "before the revocation, or the lease of before the suspension, with the cloud kept away, runs until "
    "offline_bound_at of then; longer where the clock is held back."
)


def _flags(verdict: Verdict) -> tuple[str, ...]:
    told = (
        ("clock-suspect", verdict.clock_suspect),
        ("tpm-failing", verdict.hardware_failing),
        ("state-damaged", bool(verdict.damaged)),
    )
    return tuple(flag for flag, holds in told if holds)


def license_document(keeper: Keeper) -> LicenseDocument:
    verdict = keeper.verdict()
    identity = keeper.identity
    return LicenseDocument(
        format=FORMAT,
        state=verdict.state,
        gate="open" if verdict.gate_open else "closed",
        new_work=verdict.new_work,
        reason=verdict.reason,
        next=verdict.next,
        valid_until=verdict.valid_until,
        exit_code=int(verdict.exit),
        flags=_flags(verdict),
        tenant=identity.tenant,
        node=identity.node,
        generation=identity.generation,
        lease=keeper.lease,
    )


def entitlement_document(keeper: Keeper, name: str) -> EntitlementDocument:
    verdict = keeper.verdict()
    granted = entitled(verdict, keeper.lease, name)
    reason = verdict.reason if granted or not verdict.gate_open else f"the licence does not include {name!r}"
    return EntitlementDocument(
        format=FORMAT,
        name=name,
        granted=granted,
        state=verdict.state,
        reason=reason,
        valid_until=verdict.valid_until,
    )


def status_document(
    keeper: Keeper, mode: str, *, running: bool, last_contact_at: datetime | None, failures: int
) -> StatusDocument:
    lease = keeper.lease
    return StatusDocument(
        format=FORMAT,
        version=AGENT_VERSION,
        mode=mode,
        license=license_document(keeper),
        hardware=keeper.hardware,
        agent_running=running,
        last_contact_at=last_contact_at,
        failures=failures,
        offline_bound_at=lease.terminate_at if lease else None,
        limits=LIMITS,
        damaged=keeper.verdict().damaged,
    )


async def _renew(agent: "Agent", request: Request, *, rekey: bool = False) -> Answer:
    """The one command. A revoked node has no session left to renew its certificate over."""
    if not request.privileged:
        return problem(403, "permission_denied", "only root and the agent's user may do this")
    if not await agent.contact(anew=True):
        return problem(503, "cloud_unreachable", "the cloud gave no usable answer; the licence is as it was")
    try:
        if not agent.keeper.revoked:
            await agent.renew_device(rekey=rekey)
    except (NodeError, TpmError) as error:
        return problem(503, getattr(error, "code", "failed"), str(error))
    return Answer(200, license_document(agent.keeper))


def handler(agent: "Agent") -> Handler:
    """The routes of the socket over a running agent."""

    async def handle(request: Request) -> Answer:
        match request.method, request.path.partition("?")[0].split("/"):
            case "GET", ["", "v1", "license"]:
                return Answer(200, license_document(agent.keeper))
            case "GET", ["", "v1", "entitlements", encoded]:
                name = unquote(encoded)
                if not 0 < len(name) <= ENTITLEMENT_NAME_CHARS_MAX:
                    return problem(400, "malformed", "an entitlement's name is empty or too long")
                document = entitlement_document(agent.keeper, name)
                return Answer(200 if document.granted else 403, document)
            case "GET", ["", "v1", "status"]:
                return Answer(200, agent.status())
            case "POST", ["", "v1", "renew"]:
                return await _renew(agent, request)
            case "POST", ["", "v1", "renew", "rekey"]:
                return await _renew(agent, request, rekey=True)
            case _, ["", "v1", "license" | "status" | "renew"] | ["", "v1", "entitlements" | "renew", _]:
                return problem(405, "method_not_allowed", "no such method here")
            case _:
                return problem(404, "not_found", "no such path; see cascadia(8)")

    return handle
