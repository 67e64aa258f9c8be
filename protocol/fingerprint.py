"""Pure functions: the judgement of a fingerprint. Is this machine still the one that was enrolled at the activation?

The cloud makes a `FingerprintPolicy` of the fingerprint of the activation. Kinds, weights and the threshold are the
cloud's; a machine only reports values. A signed lease carries the policy, so that a node judges without the cloud.

The rules (`docs/adr/0037-a-fingerprint-is-judged-by-the-clouds-policy.md`):

- A kind counts once, however many values it has. It is the same if one enrolled value is still there. So a machine may
  lose a disk of a mirror or all but one of its network cards.
- The weight of the same kinds must be at least `matched_percent_min` of the enrolled weight, and one anchor (a disk, or
  the board) must be the same. Hidden values do not help, because missing kinds stay in the enrolled weight.
- The comparison is always with the enrolled values. So many small changes add up, and their sum is bounded.
- A kind that could not be read is neither the same nor changed. The result is `inconclusive` if the unreadable kinds
  could still reach the threshold. Only a conclusive `mismatch` stops a machine.

Evolution: as `protocol.signed.statements`. The vector in `tests/protocol/test_fingerprint.py` is literal.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from protocol.limits import COMPONENTS_MAX

WEIGHTS: dict[str, int] = {
    "product_uuid": 25,
    "board_serial": 25,
    "chassis_serial": 10,
    "disk_serial": 15,
    "disk_wwn": 15,
    "mac": 10,
}
"""Weight of each kind, however many values it has."""
MATCHED_PERCENT_MIN = 60
"""Share of the enrolled weight that must be the same. With every kind enrolled, a machine may change its disks (30) and
its network cards (10). A new board changes UUID and board serial (50), so the board alone cannot be replaced."""
ENROLLED_WEIGHT_MIN = 40
"""A machine with less is not enrolled: one value alone, or a network card with a chassis, would be the whole identity."""
ANCHORS = frozenset({"disk_serial", "disk_wwn", "product_uuid", "board_serial"})
"""Kinds of a disk, and of the board: its firmware stores the UUID of the machine (DSP0134, 7.2 and 7.3)."""
VALUES_MAX: dict[str, int] = {
    "product_uuid": 1,
    "board_serial": 1,
    "chassis_serial": 1,
    "disk_serial": 6,
    "disk_wwn": 6,
    "mac": 16,
}
"""Values of each kind in a fingerprint; COMPONENTS_MAX bounds them together. A machine cannot enrol two boards."""
DIGEST_CHARS = 32
"""The policy has the first 128 bits of each HMAC in hex (RFC 2104, section 5). So it stays below 2 kB."""
KINDS_MAX = 16
WEIGHT_MAX = 1000

_HMAC = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(rf"[0-9a-f]{{{DIGEST_CHARS}}}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


class EnrolledKind(msgspec.Struct, frozen=True):
    """One kind of component, as enrolled."""

    kind: str
    """Kind, such as `disk_serial`."""
    weight: int
    """Weight of the kind, however many values it has."""
    anchor: bool
    """Whether the kind belongs to a disk or to the board."""
    digests: tuple[str, ...]
    """First 128 bits of the HMAC of each enrolled value, in hex."""


class FingerprintPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The enrolled fingerprint of a machine, and how much of it must be the same."""

    matched_percent_min: int
    """Share of the enrolled weight that must be the same, in percent."""
    kinds: tuple[EnrolledKind, ...]
    """The enrolled kinds."""

    @property
    def enrolled_weight(self) -> int:
        """The sum of the weights."""
        return sum(kind.weight for kind in self.kinds)


Result = Literal["match", "mismatch", "inconclusive"]
KindResult = Literal["same", "changed", "missing", "unreadable"]

_REASONS: dict[KindResult, str] = {
    "same": "an enrolled value is present",
    "changed": "no enrolled value is present, and other values are",
    "missing": "the machine has no value of this kind",
    "unreadable": "the values cannot be read",
}


class JudgedKind(msgspec.Struct, frozen=True):
    """The result of one kind, and why."""

    kind: str
    """Kind, such as `disk_serial`."""
    weight: int
    """Weight of the kind."""
    result: KindResult
    """Whether an enrolled value is present."""
    reason: str
    """Why, as text."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison, with its numbers."""

    result: Result
    """Whether the machine is the enrolled one."""
    reason: str
    """Why, as text."""
    enrolled_weight: int
    """Sum of the weights of the enrolled kinds."""
    matched_weight: int
    """Sum of the weights of the kinds that are the same."""
    kinds: tuple[JudgedKind, ...]
    """The result of each enrolled kind."""

    def of(self, result: KindResult) -> tuple[str, ...]:
        """The kinds with this result."""
        return tuple(kind.kind for kind in self.kinds if kind.result == result)


class PolicyError(ValueError):
    """A policy is malformed."""


class NotEnrollable(ValueError):
    """The fingerprint cannot identify a machine, or has more values than a machine may enrol. The text says which."""


def kind_of(name: str) -> str:
    """The kind of a component's name: `mac` of `mac/2`."""
    return name.partition("/")[0]


def policy_of(fingerprint: Mapping[str, str], worthless: Collection[str] = ()) -> FingerprintPolicy:
    """The policy for a machine that sent this fingerprint, also if it cannot be enrolled.

    `fingerprint` has the HMACs in hex by component name. `worthless` are HMACs of known placeholders
    (`protocol.hardware.placeholder_hmacs`); they do not count. Neither do kinds that the cloud does not know, and texts
    that are no HMAC.
    """
    digests = _digests(
        {name: value for name, value in fingerprint.items() if value not in worthless and _HMAC.fullmatch(value)}
    )
    return FingerprintPolicy(
        matched_percent_min=MATCHED_PERCENT_MIN,
        kinds=tuple(
            EnrolledKind(kind, weight, kind in ANCHORS, tuple(sorted(digests[kind])))
            for kind, weight in WEIGHTS.items()
            if kind in digests
        ),
    )


def enroll(fingerprint: Mapping[str, str], worthless: Collection[str] = ()) -> FingerprintPolicy:
    """As `policy_of`, for a machine that the fingerprint alone identifies. Raises NotEnrollable."""
    if len(fingerprint) > COMPONENTS_MAX:
        raise NotEnrollable(f"the fingerprint has more than {COMPONENTS_MAX} components")
    if any(_HMAC.fullmatch(value) is None for value in fingerprint.values()):
        raise NotEnrollable("a component of the fingerprint is not an HMAC-SHA-256 in hex")
    policy = policy_of(fingerprint, worthless)
    for kind in policy.kinds:
        if len(kind.digests) > (most := VALUES_MAX[kind.kind]):
            raise NotEnrollable(f"the fingerprint has more than {most} values of the kind {kind.kind}")
    if not any(kind.anchor for kind in policy.kinds):
        raise NotEnrollable("the fingerprint has no serial number of a disk or of the board")
    if policy.enrolled_weight < ENROLLED_WEIGHT_MIN:
        raise NotEnrollable(
            f"the fingerprint has the weight {policy.enrolled_weight}, and at least {ENROLLED_WEIGHT_MIN} is needed"
        )
    return policy


def judge(policy: FingerprintPolicy, seen: Mapping[str, str], unreadable: Collection[str] = ()) -> Judgement:
    """Compare a machine with its enrolled fingerprint.

    `seen` has the HMACs in hex by component name, as sent. `unreadable` are the kinds of which a value could not be
    read. It never fails.
    """
    digests = _digests(seen)
    kinds = tuple(_judged(kind, digests.get(kind.kind, frozenset()), unreadable) for kind in policy.kinds)
    anchors = {kind.kind for kind in policy.kinds if kind.anchor}
    matched = {kind for kind in kinds if kind.result == "same"}
    possible = {kind for kind in kinds if kind.result in ("same", "unreadable")}
    if not (lack := _lack(policy, matched, anchors)):
        result: Result = "match"
    else:
        result = "mismatch" if _lack(policy, possible, anchors) else "inconclusive"
    weight = _weight(matched)
    share = f"{weight} of {policy.enrolled_weight} of the enrolled weight is the same"
    return Judgement(
        result=result,
        reason=f"{share}, {lack}" if lack else share,
        enrolled_weight=policy.enrolled_weight,
        matched_weight=weight,
        kinds=kinds,
    )


def check_policy(policy: FingerprintPolicy) -> None:
    """Check that the numbers are within bounds, and that a machine could match. Raises PolicyError."""
    if not 1 <= policy.matched_percent_min <= 100:
        raise PolicyError("the share of the fingerprint that must be the same is not 1 to 100 percent")
    names = [kind.kind for kind in policy.kinds]
    if not 0 < len(names) <= KINDS_MAX or len(set(names)) != len(names):
        raise PolicyError("the fingerprint has no kind, too many, or the same one twice")
    if any(_KIND.fullmatch(kind.kind) is None or not 1 <= kind.weight <= WEIGHT_MAX for kind in policy.kinds):
        raise PolicyError("a kind of the fingerprint has a bad name or weight")
    digests = [digest for kind in policy.kinds for digest in kind.digests]
    if len(digests) > COMPONENTS_MAX or not all(kind.digests for kind in policy.kinds):
        raise PolicyError("the fingerprint has too many values, or a kind without a value")
    if any(_DIGEST.fullmatch(digest) is None for digest in digests):
        raise PolicyError("a value of the fingerprint is malformed")
    if not any(kind.anchor for kind in policy.kinds):
        raise PolicyError("the fingerprint has no anchor")


def _digests(components: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The shortened HMACs by kind."""
    found: dict[str, set[str]] = {}
    for name, value in components.items():
        found.setdefault(kind_of(name), set()).add(value[:DIGEST_CHARS])
    return {kind: frozenset(values) for kind, values in found.items()}


def _judged(enrolled: EnrolledKind, seen: frozenset[str], unreadable: Collection[str]) -> JudgedKind:
    if seen & set(enrolled.digests):
        result: KindResult = "same"
    elif enrolled.kind in unreadable:
        result = "unreadable"
    else:
        result = "changed" if seen else "missing"
    return JudgedKind(enrolled.kind, enrolled.weight, result, _REASONS[result])


def _weight(kinds: Iterable[JudgedKind]) -> int:
    return sum(kind.weight for kind in kinds)


def _lack(policy: FingerprintPolicy, kinds: Collection[JudgedKind], anchors: Collection[str]) -> str:
    """What these kinds lack for a match; empty if nothing."""
    if 100 * _weight(kinds) < policy.matched_percent_min * policy.enrolled_weight:
        return f"less than {policy.matched_percent_min} %"
    return "" if any(kind.kind in anchors for kind in kinds) else "and neither a disk nor the board"
