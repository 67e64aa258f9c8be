"""Adapter: the evidence of one chip in the form that is sent (RFC 9334: the attester's claims about itself).

The node checks no evidence; the verifier in the cloud does. The functions run inside `Tpm.call`, as those of `keys.py`.
"""

from tpm2_pytss import ESAPI

from node.hwbind import keys
from node.hwbind.endorsement import DEFAULT_EK_TYPE, EkType, read_endorsement
from node.hwbind.keys import WrappedKey
from protocol.evidence import EndorsementEvidence, KeyEvidence


def endorsement_evidence(esys: ESAPI, ak: WrappedKey, ek_type: EkType = DEFAULT_EK_TYPE) -> EndorsementEvidence:
    """The evidence in the first message of an activation: the chip's EK and its certificate, and the AK."""
    endorsement = read_endorsement(esys, ek_type)
    return EndorsementEvidence(
        ek_public=endorsement.public, ak_public=ak.public, ek_certificate=endorsement.certificate
    )


def key_evidence(esys: ESAPI, node_key: WrappedKey, ak: WrappedKey, qualifying: bytes) -> KeyEvidence:
    """The evidence in a proof: the node key, certified by the AK.

    `qualifying` is the result of `protocol.evidence.qualifying_data`, 1 to 64 bytes.
    """
    certification = keys.certify(esys, node_key, ak, qualifying)
    return KeyEvidence(public=node_key.public, attestation=certification.attestation, signature=certification.signature)
