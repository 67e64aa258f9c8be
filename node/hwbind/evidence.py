"""Adapter: the evidence of one chip in the form of the wire (RFC 9334: the attester's claims about itself).

It makes no judgement: every check is the verifier's. Its functions run inside `Tpm.call`, like those of `keys.py`.
"""

from tpm2_pytss import ESAPI

from node.hwbind import keys
from node.hwbind.keys import DEFAULT_EK_TYPE, EkType, WrappedKey
from protocol.evidence import EndorsementEvidence, KeyEvidence


def endorsement_evidence(esys: ESAPI, ak: WrappedKey, ek_type: EkType = DEFAULT_EK_TYPE) -> EndorsementEvidence:
    """For the first message of an activation: which chip this claims to be, and the key it will attest with."""
    endorsement = keys.read_endorsement(esys, ek_type)
    return EndorsementEvidence(
        ek_public=endorsement.public, ak_public=ak.public, ek_certificate=endorsement.certificate
    )


def key_evidence(esys: ESAPI, node_key: WrappedKey, ak: WrappedKey, qualifying: bytes) -> KeyEvidence:
    """For the proof: the node key certified by the AK over `protocol.evidence.qualifying_data`."""
    certification = keys.certify(esys, node_key, ak, qualifying)
    return KeyEvidence(public=node_key.public, attestation=certification.attestation, signature=certification.signature)
