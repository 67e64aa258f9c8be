"""Use case: make a request for the operators of the cloud, on a machine without a network.

There is one outstanding request. It is stored before it is returned, and returned again, with the same bytes, until its
answer is imported, it has expired, or the generation that it is for is no longer in force. The user abandons it with
`new`. `protocol.airgap.request` has the format.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.airgap.errors import AirgapRefused, NoChip, RequestOutstanding
from node.airgap.store import AirgapRecord, AirgapStore, StoredActivation, StoredRequest
from node.clock import Clock
from node.config import AGENT_VERSION, BUILT_AT
from node.disk.boot import BootRecord
from node.disk.identity import Identity
from node.disk.thread import DISK_SECONDS_MAX, on_disk
from node.errors import NodeError, StateError
from node.exchanges.recovery import Source, TrustNeeded
from node.exchanges.session import fresh_nonce
from node.exits import Exit
from node.hwbind import evidence, fingerprint, keys
from node.hwbind.errors import TpmAbsent
from node.hwbind.keys import WrappedKey
from node.hwbind.reading import components_in_time
from node.hwbind.tpm import Esys, Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.licence import Licence
from node.licensing.trusted_time import TrustedTime, first_floor
from node.state import State
from node.trust import published
from protocol.airgap import request as wire
from protocol.airgap.answer import Outstanding
from protocol.airgap.code_proof import prove_code
from protocol.airgap.errors import AirgapError
from protocol.airgap.forms import to_file
from protocol.airgap.request import REQUEST_LIFE, ClockEvidence, Request, RequestFile
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo, EndorsementEvidence, KeyEvidence, PcrQuote
from protocol.ids import AirgapRequestId, make_id
from protocol.limits import HELD_GENERATION_MAX
from protocol.messages.activation import ActivationFile, TrustPin
from protocol.messages.recovery import RecoveryClaim
from protocol.signed.statements import LEASE_VERSION

TASK = "make a request"


class NothingToRefresh(NodeError):
    """No generation is in force, so there is no licence to ask for."""

    exit = Exit.UNACTIVATED
    code = "unactivated"
    next = (
        "Run `cascadia request --file FILE` with an activation file. If this machine was activated before, run "
        "`cascadia request --recover`."
    )


async def refresh_request(
    state: State, licence: Licence, tpm: Tpm, *, new: bool = False, development: bool = False
) -> StoredRequest:
    """The outstanding request for the current statement of the generation in force, or a new one.

    `new` abandons an outstanding request. `development`: the agent runs in development mode. The caller owns the state.
    Raises RequestOutstanding, NothingToRefresh, AirgapRefused, StateError, DiskSilent, TpmError.
    """
    identity = licence.identity
    if not licence.confirmed:
        raise NothingToRefresh(f"cannot {TASK}: no generation of this machine is confirmed")
    store = AirgapStore(state.directory)
    record = await on_disk(store.load, seconds_max=DISK_SECONDS_MAX)
    # An activation over a network has made the request of an activation void.
    void = record.request and record.request.activation and record.request.generation < identity.generation
    stored = None if new or void else _outstanding(record, state.time.high(), "refresh")
    if stored is not None and stored.generation == identity.generation and _is_by(stored, identity.node_key):
        return stored
    licence.verdict()  # compares the floor record with the counter that the TPM has shown
    holder = keys.holder_of(tpm, identity.node_key)
    token = await on_disk(partial(state.renewal_tokens.token, identity.generation), seconds_max=DISK_SECONDS_MAX)
    clock, csr = await holder.run(partial(_clock_and_csr, node_key=identity.node_key))
    components = await components_in_time()
    trusted = licence.trust.value
    made = msgspec.structs.replace(
        _begun("refresh", identity.node_key, state.time, clock),
        csr=csr,
        pin=trusted.pin,
        trust_version=trusted.version,
        root_version=await on_disk(partial(published.root_version, state.directory), seconds_max=DISK_SECONDS_MAX),
        tenant=identity.tenant,
        node=identity.node,
        generation=identity.generation,
        presented=licence.presented,
        device_certificate=identity.chain[0],
        floor=state.floors.counter,
        fingerprint=fingerprint.fingerprint(identity.fingerprint_salt, components),
        unreadable=tuple(sorted(components.unreadable)),
        receipt=record.receipt or None,
        development=development,
        renewal=token or msgspec.UNSET,
    )
    body = wire.body_of(made)
    signed = wire.signed_bytes(body, made.request, identity.node_key.public_key())
    signature, quote = await holder.run(partial(_signed, identity=identity, signed=signed, body=body))
    file = wire.assembled(body, signed, signature, pcr_quote=quote)
    return await _stored(store, record, _stored_request(made, file, state.time, identity.generation))


async def activation_request(
    state: State,
    tpm: Tpm,
    given: tuple[ActivationFile, str],
    clock: Clock,
    *,
    new: bool = False,
    development: bool = False,
) -> StoredRequest:
    """The outstanding request for an activation with this file, or a new one.

    `given` is the activation file with the SHA-256 (hex) of its bytes. `clock` is the wall clock. The other arguments
    and errors are those of `refresh_request`. Raises NoChip without a TPM.
    """
    file, file_sha256 = given
    wanted = _Wanted(
        kind="activate",
        name=file_sha256,
        repository_url=file.repository_url,
        pin=file.pin,
        known_at=_aware(file.created_at),
        code=file.code,
    )
    return await _enrolment_request(state, tpm, wanted, clock, new=new, development=development)


async def recovery_request(
    state: State,
    tpm: Tpm,
    claim: RecoveryClaim,
    clock: Clock,
    *,
    source: Source | None = None,
    code: str = "",
    new: bool = False,
    development: bool = False,
) -> StoredRequest:
    """The outstanding request for a recovery with this claim, or a new one.

    Args:
        state: the state directory, which the caller owns.
        tpm: the TPM.
        claim: what the machine says about the node that it was.
        clock: the wall clock.
        source: the cloud that a file names; None uses the stored trust.
        code: a recovery code in its canonical form, or "".
        new: abandon an outstanding request.
        development: the agent runs in development mode.

    Raises TrustNeeded without a source and a stored trust; NoChip, RequestOutstanding, AirgapRefused, StateError,
    TpmError.
    """
    origin = published.origin(state.directory) if source is None else (source.repository_url, source.pin)
    if origin is None:
        raise TrustNeeded(f"cannot {TASK}: the published trust is lost, and no file names the cloud")
    known = [BUILT_AT]
    known += [] if source is None else [_aware(source.created_at)]
    known += [] if claim.last_ran_at is msgspec.UNSET else [claim.last_ran_at]
    name = sha256_hex(code.encode() + claim.node.encode())
    wanted = _Wanted(
        kind="recover",
        name=name,
        repository_url=origin[0],
        pin=origin[1],
        known_at=max(known),
        code=code,
        recovery=claim,
    )
    return await _enrolment_request(state, tpm, wanted, clock, new=new, development=development)


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An activation or a recovery. `name` is the SHA-256 (hex) of what the user gave: another one is another request.

    `known_at` is a time that has passed.
    """

    kind: Literal["activate", "recover"]
    name: str
    repository_url: str
    pin: TrustPin
    known_at: datetime
    code: str
    recovery: RecoveryClaim | None = None


async def _enrolment_request(
    state: State, tpm: Tpm, wanted: _Wanted, clock: Clock, *, new: bool, development: bool
) -> StoredRequest:
    """The outstanding request for this activation or recovery, or a new one with new keys."""
    state.start_time(first_floor(BUILT_AT, wanted.known_at), None, machine_clocks(clock))
    store = AirgapStore(state.directory)
    record = store.load()
    held = held_generation(state)
    stored = None if new else _outstanding(record, state.time.high(), wanted.kind)
    if stored is not None and stored.activation and stored.generation == held:
        if stored.activation.file_sha256 == wanted.name:
            return stored
        what = "activation file" if wanted.kind == "activate" else "recovery code or node"
        raise RequestOutstanding(f"cannot {TASK}: the request {_named(stored)} for another {what} is outstanding")
    chip = await _chip(tpm)
    trusted = _trust_of(state, wanted.pin)
    made = msgspec.structs.replace(
        _begun(wanted.kind, chip.node_key, state.time, chip.clock),
        csr=chip.csr,
        pin=wanted.pin,
        trust_version=trusted.version if trusted else 0,
        root_version=published.root_version(state.directory) if trusted else 0,
        held_generation=held,
        endorsement=chip.endorsement,
        receipt=record.receipt or None,
        development=development,
        recovery=wanted.recovery,
    )
    if wanted.code:
        made = msgspec.structs.replace(made, code=prove_code(wanted.code, made.request, made.public_key))
    body = wire.body_of(made)
    signed = wire.signed_bytes(body, made.request, chip.node_key.public_key())
    signature, key, quote = await tpm.run(partial(_proved, chip=chip, signed=signed, body=body))
    activation = StoredActivation(
        file_sha256=wanted.name,
        file_created_at=wanted.known_at,
        repository_url=wanted.repository_url,
        pin=wanted.pin,
        ak=chip.ak,
        node_key=chip.node_key,
        eks=(chip.endorsement.ek_public, *(other.ek_public for other in chip.endorsement.others)),
    )
    carried = wire.assembled(body, signed, signature, key, quote)
    to_store = msgspec.structs.replace(_stored_request(made, carried, state.time, held), activation=activation)
    return await _stored(store, record, to_store)


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def held_generation(state: State) -> int:
    """The highest generation in the state directory, 0 without one. What cannot be read does not count."""
    held = [0]
    with suppress(StateError):
        held.append(state.identities.current_generation() or 0)
    with suppress(StateError):
        held += state.identities.generations()
    return max(number for number in held if number <= HELD_GENERATION_MAX)


class _Chip(msgspec.Struct, frozen=True):
    """The TPM's part of an activation, before the request is made."""

    ak: WrappedKey
    node_key: WrappedKey
    endorsement: EndorsementEvidence
    clock: ClockInfo
    csr: bytes


async def _chip(tpm: Tpm) -> _Chip:
    """Make the keys of an activation. Raises NoChip, TpmError."""
    try:
        ak = await tpm.run(keys.create_ak)
    except TpmAbsent as error:
        raise NoChip(f"cannot {TASK}: {error}. Without a TPM an activation needs a connection to the cloud") from error
    node_key = await tpm.run(keys.create_node_key)
    endorsement = await tpm.run(partial(evidence.endorsement_evidence, ak=ak))
    clock, csr = await tpm.run(partial(_clock_and_csr, node_key=node_key))
    if clock is msgspec.UNSET:
        raise NoChip(f"cannot {TASK}: the node key is not in a TPM")
    return _Chip(ak, node_key, endorsement, clock, csr)


def _clock_and_csr(esys: Esys, node_key: WrappedKey) -> tuple[ClockInfo | msgspec.UnsetType, bytes]:
    clock = msgspec.UNSET if node_key.in_software else keys.read_clock(esys)
    return clock, keys.certificate_request(esys, node_key)


def _signed(esys: Esys, identity: Identity, signed: bytes, body: bytes) -> tuple[bytes, PcrQuote | msgspec.UnsetType]:
    """The signature of a refresh, and with a TPM a quote of the PCRs."""
    signature = keys.sign(esys, identity.node_key, signed)
    if identity.node_key.in_software:
        return signature, msgspec.UNSET
    return signature, evidence.pcr_quote(esys, identity.ak, wire.certified_data(body))


def _proved(esys: Esys, chip: _Chip, signed: bytes, body: bytes) -> tuple[bytes, KeyEvidence, PcrQuote]:
    """The signature of the request, and the evidence over its body."""
    certified = wire.certified_data(body)
    signature = keys.sign(esys, chip.node_key, signed)
    key = evidence.key_evidence(esys, chip.node_key, chip.ak, certified)
    return signature, key, evidence.pcr_quote(esys, chip.ak, certified)


def _trust_of(state: State, pin: TrustPin) -> published.TrustSet | None:
    """The stored trust, if it started from this pin. Otherwise the answer has to begin at the pin."""
    with suppress(StateError, published.TrustError):
        trusted = published.load(state.directory)
        return trusted if trusted.pin == pin else None
    return None


def _begun(kind: wire.Kind, node_key: WrappedKey, time: TrustedTime, clock: ClockInfo | msgspec.UnsetType) -> Request:
    """The parts that every request has."""
    if clock is not msgspec.UNSET:
        time.observe(clock)
    judged = time.judged()
    return Request(
        format=wire.FORMAT,
        kind=kind,
        request=AirgapRequestId(make_id("agr", int(judged.high.timestamp() * 1000), secrets.token_bytes(10))),
        public_key=node_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        nonce=fresh_nonce(),
        agent_version=AGENT_VERSION,
        made_at=_whole(judged.high),
        clock=ClockEvidence(
            low=_whole(judged.low),
            high=_whole(judged.high),
            wall=_whole(judged.wall),
            suspect=judged.suspect,
            tpm=clock,
        ),
        lease_version=LEASE_VERSION,
    )


def _whole(at: datetime) -> datetime:
    """The time without its microseconds, which make a printed request longer."""
    return at.replace(microsecond=0)


def _outstanding(record: AirgapRecord, now: datetime, kind: wire.Kind) -> StoredRequest | None:
    """The outstanding request of a kind that has not expired; None without one. Raises RequestOutstanding."""
    stored = record.request or None
    if stored is None or now >= stored.expires_at:
        return None
    if stored.outstanding.kind != kind:
        raise RequestOutstanding(
            f"cannot {TASK} of the kind {kind}: the request {_named(stored)} of the kind {stored.outstanding.kind} is "
            "outstanding"
        )
    return stored


def _named(stored: StoredRequest) -> str:
    return f"{stored.outstanding.request} of {stored.made_at:%Y-%m-%d %H:%M} UTC"


def _is_by(stored: StoredRequest, node_key: WrappedKey) -> bool:
    return stored.outstanding.node_key_sha256 == keys.key_hash(node_key.public_key())


def _stored_request(made: Request, file: RequestFile, time: TrustedTime, generation: int) -> StoredRequest:
    try:
        data = to_file(file)
    except AirgapError as error:
        raise AirgapRefused.of_error(error, TASK) from error
    return StoredRequest(
        outstanding=Outstanding(
            made.kind, made.request, sha256_hex(file.body.encode()), made.nonce, sha256_hex(made.public_key)
        ),
        file=data,
        generation=generation,
        made_at=made.made_at,
        expires_at=made.made_at + REQUEST_LIFE,
        boot_id=BootRecord(Path()).boot_id(),
        boot_seconds=time.boot_seconds(),
    )


async def _stored(store: AirgapStore, before: AirgapRecord, request: StoredRequest) -> StoredRequest:
    await on_disk(partial(store.save_request, before, request), seconds_max=DISK_SECONDS_MAX)
    return request
