"""The TPM's part of an exchange with evidence: the chip's identity, and the answer to a credential challenge.

Activation and renewal with fresh evidence share it. It makes no key, stores nothing and judges nothing.
"""

import msgspec

from node.hwbind import evidence, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.link import api
from protocol.evidence import EndorsementEvidence, KeyEvidence, qualifying_data
from protocol.messages.activation import Challenge
from protocol.messages.renewal import RenewalChallenge


class Answered(msgspec.Struct, frozen=True):
    """The parts of a proof: the secret, a request (PKCS#10, DER) by the key, and the key certified over both."""

    secret: bytes
    csr: bytes
    key: KeyEvidence


async def endorse(tpm: Tpm, ak: WrappedKey) -> EndorsementEvidence:
    """Which chip this is, and the key that it attests with. Raises TpmError."""
    return await tpm.run(lambda esys: evidence.endorsement_evidence(esys, ak))


async def answer(tpm: Tpm, ak: WrappedKey, node_key: WrappedKey, challenge: Challenge | RenewalChallenge) -> Answered:
    """Answer the challenge for `node_key`: the secret that the TPM releases, and the key certified over it.

    Raises CloudUnreachable when the challenge is not of the form it must have, TpmError.
    """
    exchange = challenge.activation if isinstance(challenge, Challenge) else challenge.renewal
    secret = await tpm.run(
        lambda esys: keys.activate_credential(esys, ak, challenge.credential_blob, challenge.encrypted_secret)
    )
    csr = await tpm.run(lambda esys: keys.certificate_request(esys, node_key))
    try:
        qualifying = qualifying_data(secret, exchange, csr)
    except ValueError as error:
        raise api.CloudUnreachable(f"the cloud's challenge cannot be used: {error}") from error
    certified = await tpm.run(lambda esys: evidence.key_evidence(esys, node_key, ak, qualifying))
    return Answered(secret=secret, csr=csr, key=certified)
