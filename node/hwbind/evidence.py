"""Adapter: the evidence of one chip in the form that is sent (RFC 9334: the attester's claims about itself).

The node checks no evidence; the verifier in the cloud does. The functions run inside `Tpm.call`, as those of `keys.py`.
"""

import contextlib
import hashlib
from collections.abc import Iterator

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPMT_SIG_SCHEME

from node.hwbind import faults, keys
from node.hwbind.errors import TpmAbsent, TpmBusy, TpmError
from node.hwbind.keys import WrappedKey
from protocol.evidence import (
    PCRS_QUOTED,
    EndorsementEvidence,
    KeyEvidence,
    OtherEndorsement,
    PcrQuote,
    quoted_data,
)
from protocol.limits import OTHER_ENDORSEMENTS_MAX, PCR_FAULT_CHARS_MAX

_PCRS = "sha256:" + ",".join(map(str, range(PCRS_QUOTED)))
_PCR_BYTES = hashlib.sha256().digest_size


def endorsement_evidence(esys: ESAPI, ak: WrappedKey) -> EndorsementEvidence:
    """The evidence in the first message of an activation: the chip's EKs and their certificates, and the AK.

    The cloud chooses the EK that the tenant trusts. The RSA EK is the first one, if the chip can make it.
    """
    # Imported here: an agent that runs reads no EK, and its certificates take five modules.
    from node.hwbind.endorsement import read_endorsements

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


@contextlib.contextmanager
def loaded_together(
    esys: ESAPI, ak: WrappedKey, node_key: WrappedKey
) -> Iterator[tuple[ESYS_TR | None, ESYS_TR | None]]:
    """Load both keys under one parent, which some TPMs make for each load in 0.1 to 1 s. Yields their handles.

    If they cannot be loaded together, it yields None twice. Each use then loads its key, and raises its own error.
    """
    handles: tuple[ESYS_TR | None, ...] = (None, None)
    with contextlib.ExitStack() as stack:
        if not node_key.in_software:
            with contextlib.suppress(TpmError, TSS2_Exception):
                handles = stack.enter_context(keys.loaded(esys, ak, node_key))
        yield handles[0], handles[1]


def pcr_quote(esys: ESAPI, ak: WrappedKey, challenge: bytes, handle: ESYS_TR | None = None) -> PcrQuote:
    """The PCRs 0 to 7 of the SHA-256 bank, quoted by the AK for this challenge (`protocol.evidence.quoted_data`).

    `handle` is that of the AK if the AK is loaded already.

    A quote that the TPM cannot make is an answer too: it has the reason in `fault`. A TPM without the bank is one cause.
    An error that stops every other command as well is raised as an error of the TSS, for `Tpm.call`.
    """
    try:
        _, _, digests = esys.pcr_read(_PCRS)
        values = tuple(bytes(digests[at]) for at in range(min(len(digests), PCRS_QUOTED)))
        if [len(value) for value in values] != [_PCR_BYTES] * PCRS_QUOTED:
            return PcrQuote(fault="the TPM has no SHA-256 bank with the PCRs 0 to 7")
        with contextlib.nullcontext((handle,)) if handle is not None else keys.loaded(esys, ak) as (quoter,):
            attestation, signature = esys.quote(
                quoter, _PCRS, quoted_data(challenge), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            )
    except TSS2_Exception as error:
        cause = faults.classify(error)
        if isinstance(cause, TpmAbsent | TpmBusy):
            raise
        return PcrQuote(fault=str(cause)[:PCR_FAULT_CHARS_MAX])
    except TpmError as cause:
        return PcrQuote(fault=str(cause)[:PCR_FAULT_CHARS_MAX])
    return PcrQuote(attestation=bytes(attestation), signature=bytes(signature.marshal()), values=values)
