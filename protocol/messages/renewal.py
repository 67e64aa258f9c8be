"""Messages of a renewal with fresh evidence: a device certificate that has expired, or one for another key.

The same exchange as an activation without its code (section 6 of the design, "Certificates and leases"): who asks
is shown by the chip alone, within the generation in force. A certificate that still counts is renewed over a session
instead (`protocol.messages.est`).

Evolution: requests refuse unknown fields; a field is added with a default, at the end, and sent only to a server
that announces it.
"""

from datetime import datetime

import msgspec

from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import RenewalId

PATH_RENEWALS = "/v1/node/renewals"


def path_proof(renewal: str) -> str:
    """Where the proof of a renewal goes."""
    return f"{PATH_RENEWALS}/{renewal}/proof"


class StartRenewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/node/renewals`. `device_certificate` is DER and may have expired: it only says which node is meant.

    `evidence` is of the chip and the attestation key that the generation was activated with.
    """

    device_certificate: bytes
    evidence: EndorsementEvidence
    agent_version: str


class RenewalChallenge(msgspec.Struct, frozen=True):
    """The answer: `TPM2_MakeCredential` to the EK (`credential_blob` TPM2B_ID_OBJECT, `encrypted_secret`
    TPM2B_ENCRYPTED_SECRET, both marshalled)."""

    renewal: RenewalId
    credential_blob: bytes
    encrypted_secret: bytes
    expires_at: datetime
    tries_left: int


class ProveRenewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/node/renewals/{id}/proof`. `secret` is what the TPM released, `csr` is DER.

    `key` certifies the key of the CSR over `protocol.evidence.qualifying_data` with the renewal's id; `answer_nonce`
    is what the freshness of a refusal's statement is over.
    """

    secret: bytes
    csr: bytes
    key: KeyEvidence
    answer_nonce: str


class Renewed(msgspec.Struct, frozen=True):
    """The answer to a proof: the device certificate with the issuing CA's (DER, leaf first)."""

    certificate_chain: tuple[bytes, ...]
