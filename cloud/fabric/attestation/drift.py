"""Pure functions: how far a machine has drifted from the fingerprint of its activation, and which machines take turns.

With a TPM a changed fingerprint is reported and never punished: the key in the chip identifies the machine. Two machines
that take turns with one chip are a suspected clone: one of them relays the other's TPM. A machine without a TPM must
match its enrolled fingerprint (`protocol.fingerprint`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from cloud.fabric.bodies.hardware import FingerprintDrift
from protocol.encoding import json_encode, sha256_hex
from protocol.fingerprint import NotEnrollable, enroll, judge, kind_of, policy_of

MACHINES_MAX = 4
"""Machines that are remembered of one generation, each with up to 32 HMACs: at most 12 kB."""
RETURN_WITHIN = timedelta(days=30)
"""A machine that comes back within this time takes turns. A later one is a repair that was undone."""
AUDIT_PERIOD = timedelta(hours=1)
"""A further change of the same result within this time gets no audit entry."""
DIGEST_CHARS = 16


class Machine(msgspec.Struct, frozen=True):
    """One machine, as its fingerprints show: the first of them, and when the machine was seen first and last."""

    fingerprint: dict[str, str]
    first_at: datetime
    last_at: datetime


class Drift(FingerprintDrift, frozen=True, kw_only=True):
    """The stored comparison. `audited_at` is the time of the last audit entry; `seen` has 16 hex digits that identify the
    last reported fingerprint."""

    audited_at: datetime | None = None
    seen: str = ""


class Observed(msgspec.Struct, frozen=True):
    """What one report adds.

    Attributes:
        drift: the new comparison.
        machines: the machines of the generation, the latest first.
        other: the machine that the returned one has replaced; None if no machine came back.
        audited: whether the change gets an audit entry.
    """

    drift: Drift
    machines: tuple[Machine, ...]
    other: Machine | None
    audited: bool


def digest_of(fingerprint: Mapping[str, str]) -> str:
    """16 hex digits that identify a fingerprint."""
    return sha256_hex(json_encode(sorted(fingerprint.items())))[:DIGEST_CHARS]


def observe(
    enrolled: Mapping[str, str],
    before: Drift | None,
    machines: tuple[Machine, ...],
    fingerprint: Mapping[str, str],
    at: datetime,
) -> Observed:
    """Judge a reported fingerprint.

    `enrolled` is the fingerprint of the activation. `before` and `machines` are the stored values; None and () before
    the first report. The activation itself counts as the first machine.
    """
    machines, other = _seen(machines or (Machine(dict(enrolled), at, at),), fingerprint, at)
    compared = _compared(enrolled, fingerprint, at)
    same = before is not None and (before.result, before.changed, before.missing) == (
        compared.result,
        compared.changed,
        compared.missing,
    )
    quiet = before is None and compared.result == "match" and not compared.changed + compared.missing
    recent = (
        before is not None
        and before.audited_at is not None
        and before.result == compared.result
        and at < before.audited_at + AUDIT_PERIOD
    )
    audited = not (same or quiet or recent or compared.result == "not-enrolled")
    drift = msgspec.structs.replace(
        compared,
        changed_at=before.changed_at if same and before is not None else at,
        alternated_at=at if other is not None else before.alternated_at if before is not None else None,
        audited_at=at if audited else before.audited_at if before is not None else None,
    )
    return Observed(drift, machines, other, audited)


def _compared(enrolled: Mapping[str, str], fingerprint: Mapping[str, str], at: datetime) -> Drift:
    policy = policy_of(enrolled)
    judged = judge(policy, fingerprint)
    return Drift(
        result=judged.result if policy.kinds else "not-enrolled",
        reason=judged.reason if policy.kinds else "the activation reported no serial number",
        changed=judged.of("changed"),
        missing=judged.of("missing"),
        changed_at=at,
        seen=digest_of(fingerprint),
    )


def _seen(
    machines: tuple[Machine, ...], fingerprint: Mapping[str, str], at: datetime
) -> tuple[tuple[Machine, ...], Machine | None]:
    """The machines after a report, and the machine that a returned one has replaced."""
    if not _identifies(fingerprint):
        return machines, None
    current, *earlier = machines
    if not _identifies(current.fingerprint):
        return (Machine(dict(fingerprint), at, at), *earlier)[:MACHINES_MAX], None
    if not _differs(current.fingerprint, fingerprint):
        return (msgspec.structs.replace(current, last_at=at), *earlier), None
    for known in earlier:
        if _identifies(known.fingerprint) and not _differs(known.fingerprint, fingerprint):
            back = msgspec.structs.replace(known, last_at=at)
            others = tuple(machine for machine in machines if machine is not known)
            return (back, *others), current if at <= known.last_at + RETURN_WITHIN else None
    left = msgspec.structs.replace(current, last_at=at)
    return (Machine(dict(fingerprint), at, at), left, *earlier)[:MACHINES_MAX], None


def _identifies(fingerprint: Mapping[str, str]) -> bool:
    try:
        enroll(fingerprint)
    except NotEnrollable:
        return False
    return True


def _differs(known: Mapping[str, str], fingerprint: Mapping[str, str]) -> bool:
    """Whether the values show another machine. Kinds that were not reported show nothing: a permission can be missing."""
    absent = {kind_of(name) for name in known} - {kind_of(name) for name in fingerprint}
    return judge(policy_of(known), fingerprint, absent).result == "mismatch"
