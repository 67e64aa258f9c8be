"""The values of the vectors: one of each document, with fixed ids, dates and keys."""

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.evidence import ClockInfo
from protocol.fingerprint import EnrolledKind, FingerprintPolicy
from protocol.ids import NodeId, TenantId
from protocol.messages.sessions import TYP_SESSION_PROOF, ProofClaims
from protocol.signed import envelope
from protocol.signed.envelope import KeyRing, VerificationKey
from protocol.signed.freshness import TYP_FRESHNESS, Freshness
from protocol.signed.statements import (
    TYP_LEASE,
    TYP_LEASE_V2,
    TYP_REVOCATION,
    TYP_SUSPENSION,
    Entitlement,
    Final,
    HardwareFloor,
    Intervals,
    Lease,
    Revocation,
    Suspension,
)

TRUST_DOMAIN = "cascade.example"
TENANT = TenantId("ten_01jd7xq2vafw6b8tn4rz9k3mec")
NODE = NodeId("node_01jd7xq2vbh5s0d2yq8wv6g7pe")
ISSUED = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEYS = {name: ec.derive_private_key(number, ec.SECP256R1()) for name, number in (("lease", 1001), ("revocation", 1002), ("freshness", 1003), ("node", 1004))}  # fmt: skip


def common(seq: int) -> dict[str, object]:
    return {
        "trust_domain": TRUST_DOMAIN,
        "tenant": TENANT,
        "node": NODE,
        "generation": 2,
        "epoch": 1,
        "seq": seq,
        "issued_at": ISSUED,
    }


def lease(**changes: object) -> Lease:
    values: dict[str, object] = {
        **common(7),
        "tier": "attested",
        "profile": "default",
        "entitlements": ("vision", "export"),
        "not_before": ISSUED - timedelta(minutes=5),
        "refresh_after": ISSUED + timedelta(days=1),
        "expires_at": ISSUED + timedelta(days=30),
        "grace_until": ISSUED + timedelta(days=45),
        "terminate_at": ISSUED + timedelta(days=60),
        "notify_at": (ISSUED + timedelta(days=23),),
    }
    return Lease(**{**values, **changes})  # type: ignore[arg-type]  # one place builds all variants, tables name them


NODE_KEY = "3b" * 32
EK_NAME = "000b" + "4c" * 32


def lease_v2(**changes: object) -> Lease:
    values: dict[str, object] = {
        "entitlements": (
            "vision",
            Entitlement(
                name="cameras",
                limit=8,
                not_before=ISSUED,
                until=ISSUED + timedelta(days=90),
                attributes={"site": "north"},
            ),
        ),
        "node_key": NODE_KEY,
        "ek_name": EK_NAME,
        "fingerprint": FingerprintPolicy(
            matched_percent_min=60,
            kinds=(EnrolledKind("board_serial", 20, True, ("5d" * 16,)), EnrolledKind("mac", 10, False, ("6e" * 16,))),
        ),
        "floor": HardwareFloor(index=0x01800100),
        "intervals": Intervals(heartbeat_seconds=300, wake_seconds=120),
    }
    return lease(**{**values, **changes})


def final_lease() -> Lease:
    ends = ISSUED + timedelta(days=29)
    return lease_v2(expires_at=ends, grace_until=ends, terminate_at=ends, final=Final(reason="invoice overdue"))


def suspension() -> Suspension:
    return Suspension(**common(8), reason="invoice overdue")  # type: ignore[arg-type]  # as above


def revocation() -> Revocation:
    return Revocation(**common(9), reason="revoked")  # type: ignore[arg-type]  # as above


LEASE_TOKEN_SHA256 = "6f" * 32


def freshness() -> Freshness:
    return Freshness(
        trust_domain=TRUST_DOMAIN,
        node=NODE,
        generation=2,
        nonce="c29tZSBub25jZSBvZiB0aGUgYXNrZXI",
        statement_sha256=LEASE_TOKEN_SHA256,
        at=ISSUED,
    )


def proof_claims() -> ProofClaims:
    return ProofClaims(
        tenant=TENANT,
        node=NODE,
        generation=2,
        nonce="bm9uY2Ugb2YgdGhlIHNlcnZlcg",
        method="POST",
        url="https://fabric.cascade.example:8440/v1/node/sessions",
        csr_sha256="5a" * 32,
        answer_nonce="bm9uY2Ugb2YgdGhlIG5vZGU",
        fingerprint={"board_serial": "11" * 32, "mac/eth0": "22" * 32},
        clock=ClockInfo(clock=123456789, reset_count=3, restart_count=0, safe=True),
        agent_version="0.1.0",
    )


DOCUMENTS: dict[str, tuple[str, str, object]] = {
    "lease": (TYP_LEASE, "lease", lease()),
    "suspension": (TYP_SUSPENSION, "revocation", suspension()),
    "revocation": (TYP_REVOCATION, "revocation", revocation()),
    "freshness": (TYP_FRESHNESS, "freshness", freshness()),
    "session-proof": (TYP_SESSION_PROOF, "node", proof_claims()),
    "lease-v2": (TYP_LEASE_V2, "lease", lease_v2()),
    "lease-v2-final": (TYP_LEASE_V2, "lease", final_lease()),
}
"""Name -> type, signing key, value."""

MAY_SIGN = {
    "lease": (TYP_LEASE,),
    "revocation": (TYP_SUSPENSION, TYP_REVOCATION),
    "freshness": (TYP_FRESHNESS,),
}


def verification_key(name: str, **changes: object) -> VerificationKey:
    public = KEYS[name].public_key()
    values: dict[str, object] = {
        "kid": envelope.key_id(public),
        "typs": MAY_SIGN[name],
        "public_key_der": public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "not_before": ISSUED - timedelta(days=1),
        "not_after": ISSUED + timedelta(days=365),
    }
    return VerificationKey(**{**values, **changes})  # type: ignore[arg-type]  # as above


def ring() -> KeyRing:
    return KeyRing(verification_key(name) for name in MAY_SIGN)


def seal(typ: str, key: str, payload: bytes) -> str:
    """As `envelope.seal`, with a deterministic signature."""
    private = KEYS[key]
    signed = envelope.signing_input(typ, envelope.key_id(private.public_key()), payload)
    return envelope.assemble(signed, private.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
