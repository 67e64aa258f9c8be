"""Messages: renewal of a device certificate with fresh TPM evidence, after its expiry or for another node key.

The exchange is that of an activation without the code (section 6 of the design, "Certificates and leases"). The TPM
alone authenticates the caller, within the generation in force. A node whose certificate is valid renews it over a
session instead (`protocol.messages.est`).

Evolution: requests refuse unknown fields. A field is added at the end with a default. If a server
refuses the field, the agent sends the request again without it. The text below a field is its description in the API
document.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.evidence import EndorsementEvidence, KeyEvidence
from protocol.ids import RenewalId
from protocol.limits import AGENT_VERSION_CHARS_MAX, NONCE_BYTES_MAX, NONCE_BYTES_MIN
from protocol.messages.sessions import Jws

PATH_RENEWALS = "/v1/node/renewals"


def path_proof(renewal: str) -> str:
    """Path for the proof of a renewal. `renewal` is its id."""
    return f"{PATH_RENEWALS}/{renewal}/proof"


class StartRenewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start of a renewal."""

    device_certificate: bytes
    """Device certificate in DER. It may have expired, because it only names the node and the generation."""
    evidence: EndorsementEvidence
    """The TPM and the attestation key that activated the generation."""
    agent_version: Annotated[str, limits(maxLength=AGENT_VERSION_CHARS_MAX)]
    """Version of the agent, up to 256 printable characters."""


class RenewalChallenge(msgspec.Struct, frozen=True):
    """Challenge to a TPM (`TPM2_MakeCredential`). `TPM2_ActivateCredential` releases its secret."""

    renewal: RenewalId
    """Id of the renewal."""
    credential_blob: bytes
    """TPM2B_ID_OBJECT, marshalled."""
    encrypted_secret: bytes
    """TPM2B_ENCRYPTED_SECRET, marshalled."""
    expires_at: datetime
    """Time until which the answer is accepted."""
    tries_left: int
    """Number of answers that may be sent."""
    ek_name: bytes = b""
    """TPM name of the endorsement key that the challenge is encrypted to. Empty: the first one of the evidence."""


class ProveRenewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer to the challenge of a renewal."""

    secret: bytes
    """Secret that the TPM released."""
    csr: bytes
    """Certificate request (PKCS#10) in DER, signed by the node key, without extensions and attributes."""
    key: KeyEvidence
    """Evidence that the key of the CSR is in the TPM, over `protocol.evidence.qualifying_data` with the renewal's id."""
    answer_nonce: Annotated[str, limits(minLength=NONCE_BYTES_MIN, maxLength=NONCE_BYTES_MAX)]
    """Nonce of the node. If the answer is a refusal with a statement, its freshness is over this nonce."""
    presented: Jws | msgspec.UnsetType = msgspec.UNSET
    """The node's last stored statement. The refusal of a copy carries a final lease with the end of this lease. Left out
    by a node without a statement."""


class Renewed(msgspec.Struct, frozen=True):
    """New device certificate of the node."""

    certificate_chain: tuple[bytes, ...]
    """Device certificate and the certificate of its CA, in DER."""
