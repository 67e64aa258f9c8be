"""Messages: bodies about the hardware that tenants trust, PCR quotes and fingerprints.

They belong to the operators' API; `cloud.fabric.schemas` has the rules and offers these names too.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from cloud.fabric.bodies.published_trust import TEXT_CHARS_MAX
from cloud.fabric.lease_schemas import LeaseTerms
from protocol.bounds import limits
from protocol.endorsement import EkType
from protocol.evidence import PCRS_QUOTED
from protocol.ids import TenantId
from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.signed.statements import Tier

EK_NAME_CHARS_MAX = 256
"""A TPM name has 68 digits with SHA-256, and 132 with SHA-512."""
ALLOW_EKS_MAX = 512
"""Most endorsement keys in one request. With 76 characters each they have 40 kB, and the body limit is 64 kB."""
PcrPolicy = Literal["ignore", "report", "require"]
EkIdentifier = Annotated[str, limits(maxLength=EK_NAME_CHARS_MAX)]
PcrValue = Annotated[str, limits(maxLength=64)]
"""A value of a PCR in hex."""
Text = Annotated[str, limits(maxLength=TEXT_CHARS_MAX)]


class AddEkRoots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CA certificates of TPM makers to trust."""

    pem: Annotated[str, limits(maxLength=REQUEST_BODY_BYTES_MAX), msgspec.Meta(extra={"lines": True})]
    """One or more CA certificates in PEM, at most 128. A certificate that the tenant trusts already is left as it is. One
    that cannot be used does not keep the others out."""
    ek_type: EkType = "rsa2048"
    """Type of the endorsement keys that these CAs certify."""


class AllowEk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One TPM chip to count as attested without a certificate."""

    ek_name: Annotated[str, limits(maxLength=EK_NAME_CHARS_MAX)]
    """TPM name of the endorsement key in hex: `000b` and the SHA-256 of the public area, 68 digits. `cascadia` shows
    it."""
    note: Text = ""
    """Note for people."""


class AllowEks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TPM chips to count as attested without a maker's root."""

    eks: Annotated[tuple[EkIdentifier, ...], limits(minItems=1, maxItems=ALLOW_EKS_MAX)]
    """Endorsement keys of the type RSA 2048, each by its TPM name (`000b` and the SHA-256 of the public area), or by
    `spki:` and the SHA-256 of its SubjectPublicKeyInfo in DER, or by `certificate:` and the SHA-256 of its certificate in
    DER, in hex."""
    note: Text = ""
    """Note for people, for each of them."""


class RemoveEk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An allowed TPM chip to remove."""

    ek: EkIdentifier
    """Endorsement key in a form of `AllowEks`."""


class RefusedEk(msgspec.Struct, frozen=True):
    """A value that identifies no endorsement key."""

    number: int
    """Number of the value in the request, from 1."""
    reason: str
    """Reason why it identifies none."""


class AllowedEks(msgspec.Struct, frozen=True):
    """What a request that allows TPM chips did."""

    added: int
    """Number of chips that are allowed now and were not before."""
    known: int
    """Number of chips that were allowed already, or are in the request twice."""
    total: int
    """Number of chips that the tenant allows now."""
    refused: tuple[RefusedEk, ...] = ()
    """Values that identify no endorsement key. The others are allowed all the same."""


class SetTiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Assurance tiers that a tenant admits."""

    tiers: tuple[Tier, ...]
    """At least one tier."""


class SetPcrPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Policy for the PCR quotes of a tenant's machines."""

    policy: PcrPolicy
    """`ignore`: quotes are not checked. `report`: the result is recorded. `require`: a machine without a valid quote, or
    with values that no operator has accepted, gets no activation and no session."""
    profile: Text = ""
    """Profile whose machines the policy is for. Empty for every profile without a policy."""


class EkRoot(msgspec.Struct, frozen=True):
    """CA certificate of a TPM maker. The tenant trusts endorsement keys under it."""

    sha256: str
    """SHA-256 of the certificate in DER, in hex."""
    subject: str
    """Subject of the certificate (RFC 4514)."""
    ek_type: EkType
    """Type of the endorsement keys that the CA certifies."""
    not_after: datetime
    """End of the certificate."""
    added_at: datetime
    """Time at which an operator added the CA."""
    root: bool = True
    """Whether the certificate is signed by its own key. Others may be between a root and an endorsement certificate."""
    maker: str = ""
    """Maker that the names in the certificate say, or `unknown`. It decides nothing."""


class AllowedEk(msgspec.Struct, frozen=True):
    """A TPM chip that counts as attested without a certificate."""

    ek_name: str
    """Identifier of the endorsement key: its TPM name, or another form of `AllowEks`."""
    note: str
    """Note for people."""
    added_at: datetime
    """Time at which an operator allowed the chip."""


class RefusedCertificate(msgspec.Struct, frozen=True):
    """A PEM block that cannot be used as a CA certificate of a TPM maker."""

    number: int
    """Number of the block in the request, from 1."""
    line: int
    """First line of the block in the request, from 1."""
    reason: str
    """Reason why the certificate cannot be used."""


class AddedEkRoots(msgspec.Struct, frozen=True):
    """What a request that adds CAs of TPM makers did."""

    added: int
    """Number of certificates that the tenant trusts now and did not trust before."""
    known: int
    """Number of certificates that the tenant trusted already."""
    refused: tuple[RefusedCertificate, ...] = ()
    """PEM blocks that cannot be used. The other certificates of the request are added all the same."""


class TenantTrust(msgspec.Struct, frozen=True):
    """The hardware that a tenant trusts."""

    tenant: TenantId
    """Id of the tenant."""
    tiers: tuple[Tier, ...]
    """Assurance tiers that the tenant admits."""
    ek_roots: tuple[EkRoot, ...]
    """CAs of TPM makers that the tenant trusts."""
    ek_allowed: tuple[AllowedEk, ...]
    """Chips that count as attested without a certificate."""
    upload: AddedEkRoots | None = None
    """What this request added. Null in the answer to any other request."""
    ek_allowed_total: int = 0
    """Number of chips that count as attested without a certificate. `ek_allowed` has at most 256 of them."""
    pcr_policies: dict[str, PcrPolicy] = {}
    """Policies for PCR quotes by profile. The empty name stands for every other profile; without it their policy is
    `report`."""
    approval_tiers: tuple[Tier, ...] = ()
    """Tiers whose activations an operator must approve."""
    lease_terms: dict[Tier, LeaseTerms] = {}
    """Dates of leases by tier, where the tenant has dates of its own."""


class AcceptPcrs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PCR values to accept."""

    values: Annotated[tuple[PcrValue, ...], limits(maxItems=PCRS_QUOTED)]
    """The values in `pcr_values` of the node's generation. Other values are a conflict: the machine has changed again."""


class FingerprintDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The last reported fingerprint, compared with that of the activation. With a TPM it ends no licence."""

    result: Literal["match", "mismatch", "inconclusive", "not-enrolled"]
    """`match`: the machine of the activation. `mismatch`: too little of it. `not-enrolled`: the activation reported no
    serial number."""
    reason: str
    """Numbers behind the result, for people."""
    changed: tuple[str, ...]
    """Kinds of components whose values differ."""
    missing: tuple[str, ...]
    """Kinds of components that the machine does not report any more."""
    changed_at: datetime
    """Time at which the comparison changed last."""
    alternated_at: datetime | None = None
    """Last time at which an earlier machine came back: two machines may share one chip. Null if none did."""
