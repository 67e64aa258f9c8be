"""The answer to a credential challenge: the secret that the TPM releases, and a key that it certifies over it.

Shared by activation and by renewal with fresh evidence. It makes no key, stores nothing and judges nothing.
"""

import msgspec

from node.hwbind import evidence, keys
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from node.link import api
from protocol.evidence import KeyEvidence, qualifying_data


class Answered(msgspec.Struct, frozen=True):
    """The parts of a proof: the secret, a request (PKCS#10, DER) by the key, and the key certified over both."""

    secret: bytes
    csr: bytes
    key: KeyEvidence


async def answer(
    tpm: Tpm, ak: WrappedKey, node_key: WrappedKey, *, exchange: str, credential_blob: bytes, encrypted_secret: bytes
) -> Answered:
    """Answer the challenge of the activation or renewal with the id `exchange`, for `node_key`.

    Raises CloudUnreachable when the challenge is not of the form it must have, TpmError.
    """
    secret = await tpm.run(lambda esys: keys.activate_credential(esys, ak, credential_blob, encrypted_secret))
    csr = await tpm.run(lambda esys: keys.certificate_request(esys, node_key))
    try:
        qualifying = qualifying_data(secret, exchange, csr)
    except ValueError as error:
        raise api.CloudUnreachable(f"the cloud's challenge cannot be used: {error}") from error
    certified = await tpm.run(lambda esys: evidence.key_evidence(esys, node_key, ak, qualifying))
    return Answered(secret=secret, csr=csr, key=certified)
