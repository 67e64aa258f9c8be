"""Adapter: the evidence of one chip in the form that is sent (RFC 9334: the attester's claims about itself).

The node checks no evidence; the verifier in the cloud does. The functions run inside `Tpm.call`, as those of `keys.py`.
"""

from tpm2_pytss import ESAPI

from node.hwbind import keys
from node.hwbind.endorsement import read_endorsements
from node.hwbind.keys import WrappedKey
from protocol.evidence import EndorsementEvidence, KeyEvidence, OtherEndorsement
from protocol.limits import OTHER_ENDORSEMENTS_MAX


def endorsement_evidence(esys: ESAPI, ak: WrappedKey) -> EndorsementEvidence:
    """The evidence in the first message of an activation: the chip's EKs and their certificates, and the AK.

    The cloud chooses the EK that the tenant trusts. The RSA EK is the first one, if the chip can make it.
    """
    found = read_endorsements(esys)
    first, *others = found.keys
    return EndorsementEvidence(
        ek_public=first.public,
        ak_public=ak.public,
        ek_certificate=first.certificate,
        others=tuple(
            OtherEndorsement(other.public, other.certificate) for other in others if other.certificate is not None
        )[:OTHER_ENDORSEMENTS_MAX],
        intermediates=found.intermediates,
    )


def key_evidence(esys: ESAPI, node_key: WrappedKey, ak: WrappedKey, qualifying: bytes) -> KeyEvidence:
    """The evidence in a proof: the node key, certified by the AK.

    `qualifying` is the result of `protocol.evidence.qualifying_data`, 1 to 64 bytes.
    """
    certification = keys.certify(esys, node_key, ak, qualifying)
    return KeyEvidence(public=node_key.public, attestation=certification.attestation, signature=certification.signature)
