"""Pure functions: open a carried request, check its texts and times, and say in which order requests were made."""

from datetime import datetime
from typing import NoReturn

import msgspec

from cloud.fabric.errors import AirgapExpired, AirgapInvalid, AirgapOutdated, AirgapUsed
from cloud.fabric.licensing.request_order import Moment, is_earlier
from cloud.fabric.service.input_checks import check_fingerprint, check_floor, check_text, check_time
from cloud.fabric.store.exchange_rows import AirgapExchangeRow
from protocol.airgap.errors import AirgapError
from protocol.airgap.forms import read_request
from protocol.airgap.request import OpenedRequest, Request, check_life, open_request
from protocol.evidence import ClockInfo
from protocol.messages.sessions import ProofClaims


def opened_at(text: str, now: datetime) -> OpenedRequest:
    """Read a request file, and check its signature, its bounds and its age at `now`.

    The signature is that of the key in the request. The caller compares the key with a stored one, or proves it.
    Raises AirgapInvalid, AirgapExpired, Invalid.
    """
    try:
        opened = open_request(read_request(text.encode()))
    except AirgapError as error:
        raise AirgapInvalid(error.text) from error
    _check_bounds(opened.request)
    try:
        check_life(opened.request, now)
    except AirgapError as error:
        raise AirgapExpired(error.text) from error
    return opened


def _check_bounds(request: Request) -> None:
    """Check what the types of the request leave open. Raises Invalid."""
    check_text("agent_version", request.agent_version)
    check_fingerprint(request.fingerprint)
    check_floor(request.floor if request.floor is not None else msgspec.UNSET)
    for name, at in (("made_at", request.made_at), ("low", request.clock.low), ("high", request.clock.high)):
        check_time(name, at)
    if request.receipt is not None:
        check_time("imported_at", request.receipt.imported_at)
    if request.lease_version < 1:
        refuse_invalid("lease_version: at least 1")


def refuse_invalid(reason: str) -> NoReturn:
    """Raises AirgapInvalid."""
    raise AirgapInvalid(reason)


def tpm_clock(request: Request) -> ClockInfo | None:
    """The reported clock of the TPM; None without a TPM."""
    return request.clock.tpm if isinstance(request.clock.tpm, ClockInfo) else None


def moment_of(request: Request) -> Moment:
    """The time of a request as the machine reports it."""
    return Moment(request.made_at, tpm_clock(request))


def check_unused(opened: OpenedRequest, known: AirgapExchangeRow | None) -> None:
    """Check the exchange that has the id of a request. Raises AirgapInvalid, AirgapUsed, AirgapOutdated."""
    if known is None:
        return
    if known.request_sha256 != opened.sha256_hex:
        raise AirgapInvalid("another request with this id was answered")
    if known.state == "received":
        raise AirgapUsed(f"the receipt of the answer came at {known.received_at:%Y-%m-%d %H:%M} UTC")
    if known.state == "superseded":
        raise AirgapOutdated("a later request of this node was answered")


def check_latest(opened: OpenedRequest, other: Moment, what: str) -> None:
    """Check that a request was not made before another contact of its node. `what` names the contact.

    A machine whose clock is suspect is not refused for its clock. Raises AirgapOutdated.
    """
    if not opened.request.clock.suspect and is_earlier(moment_of(opened.request), other):
        raise AirgapOutdated(f"the request was made before {what}")


def as_claims(opened: OpenedRequest) -> ProofClaims:
    """The request as the claims of a session proof, for the checks that sessions and requests share."""
    request = opened.request
    return ProofClaims(
        tenant=request.tenant,
        node=request.node,
        generation=request.generation,
        nonce=request.nonce,
        method="",
        url="",
        csr_sha256="",
        answer_nonce=request.nonce,
        fingerprint=request.fingerprint,
        clock=request.clock.tpm,
        agent_version=request.agent_version,
        trust_version=request.trust_version or msgspec.UNSET,
        development=request.development or msgspec.UNSET,
        floor=request.floor if request.floor is not None else msgspec.UNSET,
        renewal=request.renewal,
        lease_version=request.lease_version,
    )
