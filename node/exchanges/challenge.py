"""Use case: the TPM's part of an exchange with evidence. It identifies the chip and answers a credential challenge.

Activation and renewal with fresh evidence share this module. It makes no key, stores nothing and checks no evidence.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from node.hwbind import endorsement, evidence, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.link import api
from protocol.endorsement import TEMPLATES, name_of
from protocol.evidence import EndorsementEvidence, KeyEvidence, PcrQuote, qualifying_data
from protocol.messages.activation import Challenge
from protocol.messages.renewal import RenewalChallenge

T = TypeVar("T")

_CHIP_REFUSED = frozenset({"evidence_refused", "tier_refused"})


class Answered(msgspec.Struct, frozen=True):
    """The parts of a proof: the challenge's secret, a PKCS#10 request (DER) by the node key, and the key's evidence.

    The AK certifies the node key over secret, exchange and request (`protocol.evidence.qualifying_data`).
    """

    secret: bytes
    csr: bytes
    key: KeyEvidence


async def endorse(tpm: Tpm, ak: WrappedKey) -> EndorsementEvidence:
    """The evidence of which chip this is, and which AK it attests with. Raises TpmError."""
    return await tpm.run(lambda esys: evidence.endorsement_evidence(esys, ak))


async def start(send: Callable[[EndorsementEvidence], Awaitable[T]], sent: EndorsementEvidence) -> T:
    """Send the evidence that begins an exchange, and return the challenge.

    A cloud of an earlier release knows one EK only and refuses the other fields. It gets the evidence without them. If
    the cloud does not accept the chip, the refusal's next step has the name of the EK, which an operator can allow.
    Raises the errors of `send`.
    """
    try:
        try:
            return await send(sent)
        except api.CloudRefused as refusal:
            plain = msgspec.structs.replace(sent, others=(), intermediates=())
            if refusal.code != "invalid" or plain == sent:
                raise
            return await send(plain)
    except api.CloudRefused as refusal:
        if refusal.code in _CHIP_REFUSED and sent.ek_public.startswith(TEMPLATES["rsa2048"].head):
            refusal.next = (
                "Ask your vendor to allow this machine's endorsement key: `cascade hardware allow-ek TENANT "
                f"{name_of(sent.ek_public).hex()}`. `cascadia identity ek` shows the keys and certificates of the TPM."
            )
        raise


def challenged_ek(sent: EndorsementEvidence, ek_name: bytes) -> bytes:
    """The EK (`TPMT_PUBLIC`) of the evidence that a challenge is encrypted to. The cloud knows the chip by this EK.

    `ek_name` is the TPM name in the challenge; a cloud of an earlier release leaves it empty and uses the first EK.
    """
    publics = (sent.ek_public, *(other.ek_public for other in sent.others))
    return next((public for public in publics if name_of(public) == ek_name), sent.ek_public)


async def answer(tpm: Tpm, ak: WrappedKey, node_key: WrappedKey, challenge: Challenge | RenewalChallenge) -> Answered:
    """Answer the challenge, with evidence for `node_key`.

    Raises CloudUnreachable if the challenge has the wrong form, TpmError if the TPM cannot answer it.
    """
    exchange = challenge.activation if isinstance(challenge, Challenge) else challenge.renewal
    secret = await tpm.run(
        lambda esys: endorsement.activate_credential(
            esys, ak, challenge.credential_blob, challenge.encrypted_secret, challenge.ek_name
        )
    )
    csr = await tpm.run(lambda esys: keys.certificate_request(esys, node_key))
    try:
        qualifying = qualifying_data(secret, exchange, csr)
    except ValueError as error:
        raise api.CloudUnreachable(f"cannot use the cloud's challenge: {error}") from error
    certified = await tpm.run(lambda esys: evidence.key_evidence(esys, node_key, ak, qualifying))
    return Answered(secret=secret, csr=csr, key=certified)


async def quote(tpm: Tpm, ak: WrappedKey, challenge: Challenge, answered: Answered) -> PcrQuote:
    """A quote of the PCRs for an answered challenge, or the reason why there is none. Raises TpmError."""
    qualifying = qualifying_data(answered.secret, challenge.activation, answered.csr)
    return await tpm.run(lambda esys: evidence.pcr_quote(esys, ak, qualifying))
