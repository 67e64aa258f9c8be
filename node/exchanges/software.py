"""Use case: the part of a machine without a TPM in activation and renewal: a key in a file proves itself over a nonce.

`protocol.messages.software` describes the exchange. This module makes the key and the proofs. It stores and sends
nothing but the start of an activation.
"""

from functools import partial

import msgspec
import trio

from node.config import AGENT_VERSION
from node.disk.identity import Identity
from node.disk.pending import PendingActivation, PendingRenewal
from node.exchanges.session import fresh_nonce
from node.hwbind import fingerprint, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.reading import components_in_time
from node.link import api
from protocol.encoding import json_encode, sha256_hex
from protocol.ids import RenewalId
from protocol.messages.recovery import RecoveryClaim
from protocol.messages.software import (
    PATH_SOFTWARE_RENEWALS,
    TYP_SOFTWARE_HELD,
    TYP_SOFTWARE_PROOF,
    TYP_SOFTWARE_RENEWAL,
    HeldGeneration,
    ProveSoftwareActivation,
    RenewSoftware,
    SoftwareProofClaims,
    SoftwareRenewalClaims,
    StartSoftwareActivation,
)
from protocol.signed import envelope

FINGERPRINT_SECONDS_MAX = 30.0
"""How long an activation waits for the serial numbers. They are the original that later readings are compared with."""
NO_RENEWAL_ID = ""
"""The id of a pending renewal of a node without a TPM: its exchange is one request."""

HAS_TPM = (
    "this machine has a TPM, and --software does not use it: the licence has shorter dates. Without --software the TPM "
    "protects the node key"
)
WITHOUT_TPM = (
    "If this machine has no TPM and your vendor admits that, run `cascadia activate FILE --software`; the licence then "
    "has shorter dates."
)
RECOVERS_WITHOUT_TPM = "If this machine never had a TPM, run `cascadia recover --software`."
"""Texts for the user of `cascadia activate` and `cascadia recover`, with and without --software."""


async def begin(
    service: api.Service,
    code: str,
    file_sha256: str,
    held: Identity | None,
    recovery: RecoveryClaim | msgspec.UnsetType = msgspec.UNSET,
) -> PendingActivation:
    """Start an activation or a recovery, and make its proof.

    `code` is the text of the activation code or the recovery code. `held` is the newest generation in the state directory. Its key signs the
    proof too if it is a software key, so that the machine stays the same node. Raises CloudRefused, CloudUnreachable,
    ServerUnproven, TpmIntegrity (of the held key).
    """
    node_key = await trio.to_thread.run_sync(keys.create_software_key)
    start = StartSoftwareActivation(
        code=code, public_key=node_key.public, agent_version=AGENT_VERSION, recovery=recovery
    )
    challenge = await service.start_software_activation(start)
    csr = keys.certificate_request(None, node_key)
    components = await components_in_time(seconds_max=FINGERPRINT_SECONDS_MAX)
    claims = SoftwareProofClaims(
        activation=challenge.activation,
        nonce=challenge.nonce,
        csr_sha256=sha256_hex(csr),
        fingerprint=fingerprint.fingerprint(challenge.fingerprint_salt, components),
        unreadable=tuple(sorted(components.unreadable)),
        held=None if held is None else HeldGeneration(held.tenant, held.node, held.generation),
    )
    signed = partial(_signed, payload=json_encode(claims))
    proof = ProveSoftwareActivation(
        csr=csr,
        proof=signed(node_key, TYP_SOFTWARE_PROOF),
        held_proof=signed(held.node_key, TYP_SOFTWARE_HELD) if held is not None and held.node_key.in_software else "",
    )
    return PendingActivation(
        file_sha256=file_sha256,
        activation=challenge.activation,
        ak=keys.NO_KEY,
        node_key=node_key,
        fingerprint_salt=challenge.fingerprint_salt,
        proof=json_encode(proof),
        recovery=recovery,
    )


async def begin_renewal(service: api.Service, identity: Identity, presented: str, *, rekey: bool) -> PendingRenewal:
    """Make the proof of a renewal, for the same key or with `rekey` for a new key. The key in force signs it.

    `presented` is the last stored statement, empty for none.

    Raises CloudRefused, CloudUnreachable, ServerUnproven, TpmIntegrity (of the key in force).
    """
    node_key = await trio.to_thread.run_sync(keys.create_software_key) if rekey else identity.node_key
    nonce = await service.nonce()
    csr = keys.certificate_request(None, node_key)
    components = await components_in_time()
    answer_nonce = fresh_nonce()
    claims = SoftwareRenewalClaims(
        tenant=identity.tenant,
        node=identity.node,
        generation=identity.generation,
        nonce=nonce.nonce,
        url=service.base_url + PATH_SOFTWARE_RENEWALS,
        csr_sha256=sha256_hex(csr),
        answer_nonce=answer_nonce,
        fingerprint=fingerprint.fingerprint(identity.fingerprint_salt, components),
        unreadable=tuple(sorted(components.unreadable)),
    )
    proof = RenewSoftware(
        device_certificate=identity.chain[0],
        csr=csr,
        proof=_signed(identity.node_key, TYP_SOFTWARE_RENEWAL, json_encode(claims)),
        presented=presented or msgspec.UNSET,
    )
    return PendingRenewal(
        generation=identity.generation,
        renewal=RenewalId(NO_RENEWAL_ID),
        node_key=node_key,
        proof=json_encode(proof),
        answer_nonce=answer_nonce,
    )


def _signed(key: WrappedKey, typ: str, payload: bytes) -> str:
    signed = envelope.signing_input(typ, envelope.key_id(key.public_key()), payload)
    return envelope.assemble(signed, keys.sign(None, key, signed))
