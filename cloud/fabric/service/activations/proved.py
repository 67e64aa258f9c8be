"""Values: a proved machine, and the node that it is recognised as."""

from collections.abc import Awaitable, Callable

import msgspec

from cloud.fabric.attestation.pcr_quotes import PcrReport
from cloud.fabric.schemas import Matched
from cloud.fabric.store.rows import NodeRow


class Recognised(msgspec.Struct, frozen=True):
    """The node that a machine is recognised as; None for a new machine. `matched` says by what it is recognised."""

    node: NodeRow | None
    matched: Matched


class Proved(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a checked proof.

    Attributes:
        spki: the node key (SubjectPublicKeyInfo, DER).
        csr: the certificate request (DER) by this key.
        fingerprint: name of a component to its HMAC in hex.
        held_generation: the highest generation in the state directory, 0 for none.
        body_sha256: the hash of the request's body.
        key: the transaction key under which machines of this kind are recognised.
        recognise: returns the node that the machine is recognised as. Called before the transaction.
        again: returns the same result inside the transaction, with the node's present row; None if it has changed.
        pcrs: the report of the PCR quote; empty without a TPM.
        enrolled: values by which a software node is found again; empty for a machine with a TPM.
        unreadable: kinds of components that the machine could not read.
    """

    spki: bytes
    csr: bytes
    fingerprint: dict[str, str]
    held_generation: int
    body_sha256: str
    key: str
    recognise: Callable[[], Awaitable[Recognised]]
    again: Callable[[Recognised], Awaitable[Recognised | None]]
    pcrs: PcrReport = PcrReport()
    enrolled: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
