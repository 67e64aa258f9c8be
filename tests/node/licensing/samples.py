"""A node's holder, signing keys and statements, made once; and a child process that dies at a fault point."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.licensing.trusted_time import Judged
from protocol import faults
from protocol.ids import NodeId, TenantId
from protocol.signed.envelope import KeyRing, VerificationKey, key_id, seal
from protocol.signed.statements import (
    TYP_LEASE,
    TYP_REVOCATION,
    TYP_SUSPENSION,
    Holder,
    Lease,
    Revocation,
    Statement,
    Suspension,
    Verified,
    payload_of,
    typ_of,
)

T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
TENANT = TenantId("ten_0" + "1" * 25)
NODE = NodeId("node_0" + "1" * 25)
OTHER_NODE = NodeId("node_0" + "2" * 25)
HOLDER = Holder("cascade.internal", TENANT, NODE, 1)

KEY = ec.derive_private_key(7, ec.SECP256R1())
OTHER_KEY = ec.derive_private_key(8, ec.SECP256R1())


def verification_key(key: ec.EllipticCurvePrivateKey, *, withdrawn: bool = False) -> VerificationKey:
    public = key.public_key()
    return VerificationKey(
        kid=key_id(public),
        typs=(TYP_LEASE, TYP_SUSPENSION, TYP_REVOCATION),
        public_key_der=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        not_before=T0 - 365 * DAY,
        not_after=T0 + 365 * DAY,
        withdrawn=withdrawn,
    )


RING = KeyRing([verification_key(KEY), verification_key(OTHER_KEY)])


def _head(node: NodeId, generation: int, seq: int, issued_at: datetime = T0) -> dict[str, Any]:
    """The fields that every statement has."""
    return {
        "trust_domain": HOLDER.trust_domain,
        "tenant": TENANT,
        "node": node,
        "generation": generation,
        "epoch": 1,
        "seq": seq,
        "issued_at": issued_at,
    }


def make_lease(*, generation: int = 1, seq: int = 1, issued_at: datetime = T0, node: NodeId = NODE) -> Lease:
    return Lease(
        **_head(node, generation, seq, issued_at),
        tier="attested",
        profile="standard",
        entitlements=("render",),
        not_before=issued_at - timedelta(minutes=5),
        refresh_after=issued_at + DAY,
        expires_at=issued_at + 30 * DAY,
        grace_until=issued_at + 45 * DAY,
        terminate_at=issued_at + 60 * DAY,
    )


def make_suspension(*, seq: int = 2, generation: int = 1) -> Suspension:
    return Suspension(**_head(NODE, generation, seq), reason="unpaid")


def make_revocation(*, seq: int = 3, generation: int = 1, node: NodeId = NODE) -> Revocation:
    return Revocation(**_head(node, generation, seq), reason="revoked")


def verified(statement: Statement, key: ec.EllipticCurvePrivateKey = KEY) -> Verified:
    kid = key_id(key.public_key())
    return Verified(statement=statement, token=seal(typ_of(statement), kid, payload_of(statement), key), kid=kid)


def changed(lease: Lease, **fields: object) -> Lease:
    return msgspec.structs.replace(lease, **fields)


ENDS = 24
"""How many lengths `damaged_forms` takes near each end of a file."""


def damaged_forms(path: Path) -> Iterator[bytes]:
    """Write every form of the file with one changed byte, then shorter lengths. Yields the content each time.

    The lengths are those near both ends, and every eighth in between.
    The file is changed in place: a rewrite would make the file system flush thousands of times.
    """
    sound = path.read_bytes()
    descriptor = os.open(path, os.O_RDWR)
    try:
        for at, byte in enumerate(sound):
            os.pwrite(descriptor, bytes([byte ^ 1 << at % 8]), at)
            yield sound[:at] + bytes([byte ^ 1 << at % 8]) + sound[at + 1 :]
            os.pwrite(descriptor, bytes([byte]), at)
        for length in range(len(sound) - 1, -1, -1):
            if ENDS < length < len(sound) - ENDS and length % 8:
                continue
            os.ftruncate(descriptor, length)
            yield sound[:length]
    finally:
        os.close(descriptor)
    path.write_bytes(sound)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child. Returns its exit code: 0 done, 9 died at the fault point, 1 raised an error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying_at(name: str, stage: str, work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` in a process that ends at that point without any clean-up."""

    def hook(point: str, when: faults.Stage) -> None:
        if (point, when) == (name, stage):
            os._exit(9)

    def armed() -> None:
        faults.install(hook)
        work()

    return armed


def trusted(at: datetime) -> Judged:
    """Trusted time of a machine whose clocks all agree."""
    return Judged(low=at, high=at, least_high=at, wall=at, source="signed", suspect=False)
