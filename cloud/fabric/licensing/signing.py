"""Adapter: Fabric's three signing keys, read from key files. They sign leases, revocations and suspensions, freshness.

Each purpose has one key, and none of the keys is used for TLS. The TUF repository publishes which `kid` may sign which
`typ`. This module verifies a signature in one case: a node presents a statement that one of these keys signed.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.keyfile import KeyFileError, PrivateKey, read_keys, write_keys
from protocol.airgap.answer import AnswerClaims
from protocol.airgap.answer import sign as sign_answer
from protocol.signed.envelope import EnvelopeError, KeyRing, VerificationKey, key_id, seal
from protocol.signed.freshness import TYP_FRESHNESS, Freshness
from protocol.signed.freshness import payload_of as freshness_payload
from protocol.signed.statements import (
    TYP_LEASE,
    TYP_REVOCATION,
    TYP_SUSPENSION,
    Lease,
    Statement,
    StatementError,
    payload_of,
    typ_of,
    verify_statement,
)

TYPS: dict[str, tuple[str, ...]] = {
    "lease": (TYP_LEASE,),
    "revocation": (TYP_SUSPENSION, TYP_REVOCATION),
    "freshness": (TYP_FRESHNESS,),
}
"""The document types that each key signs, by purpose. The purpose is also the name of the key file."""

_ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


class SigningKey:
    """A P-256 private key with its key id (`kid`)."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise ValueError("signing keys are P-256 keys")
        self.private_key = private_key
        self.kid = key_id(private_key.public_key())

    def verification(self, typs: tuple[str, ...], not_before: datetime, not_after: datetime) -> VerificationKey:
        """The public key as it is published."""
        spki = self.private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return VerificationKey(self.kid, typs, spki, not_before, not_after)


class Signer:
    """Signs Fabric's statements about nodes, each type with the key for it."""

    def __init__(self, trust_domain: str, *, lease: SigningKey, revocation: SigningKey, freshness: SigningKey) -> None:
        self.trust_domain = trust_domain
        self._keys = {"lease": lease, "revocation": revocation, "freshness": freshness}
        self._ring = KeyRing(self.published(*_ALWAYS))

    def published(self, not_before: datetime, not_after: datetime) -> tuple[VerificationKey, ...]:
        """The public keys, for the TUF target of signing keys."""
        return tuple(key.verification(TYPS[name], not_before, not_after) for name, key in self._keys.items())

    def statement(self, statement: Statement) -> str:
        """The signed token of a statement."""
        key = self._keys["lease" if isinstance(statement, Lease) else "revocation"]
        return seal(typ_of(statement), key.kid, payload_of(statement), key.private_key)

    def freshness(self, freshness: Freshness) -> str:
        """The signed token of a freshness."""
        key = self._keys["freshness"]
        return seal(TYP_FRESHNESS, key.kid, freshness_payload(freshness), key.private_key)

    def airgap_answer(self, claims: AnswerClaims) -> str:
        """The signature of an answer to a node without a network. The key of freshness signs it."""
        key = self._keys["freshness"]
        return sign_answer(claims, key.kid, key.private_key)

    def presented(self, token: str) -> Statement | None:
        """Read a statement that a node presents. Returns None if it does not verify under these keys."""
        if not token:
            return None
        try:
            return verify_statement(token, self._ring, self.trust_domain).statement
        except (EnvelopeError, StatementError, msgspec.MsgspecError):
            return None


def key_path(directory: Path, purpose: str) -> Path:
    """The key file of a purpose (a key of `TYPS`)."""
    return directory / f"{purpose}.key.pem"


def make_signer(directory: Path, passphrase: bytes, trust_domain: str) -> Signer:
    """Make three new keys, write them to files, and return the signer over them.

    Raises KeyFileError if a file cannot be written or exists already.
    """
    keys = {purpose: ec.generate_private_key(ec.SECP256R1()) for purpose in TYPS}
    write_keys({key_path(directory, purpose): key for purpose, key in keys.items()}, passphrase)
    return Signer(trust_domain, **{purpose: SigningKey(key) for purpose, key in keys.items()})


def _signing_key(path: Path, key: PrivateKey) -> SigningKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"cannot use {path}: not a P-256 key")
    return SigningKey(key)


def read_signer(directory: Path, passphrase: bytes, trust_domain: str) -> Signer:
    """The signer over the key files of a directory. Raises KeyFileError."""
    paths = [key_path(directory, purpose) for purpose in TYPS]
    lease, revocation, freshness = map(_signing_key, paths, read_keys(paths, passphrase))
    return Signer(trust_domain, lease=lease, revocation=revocation, freshness=freshness)
