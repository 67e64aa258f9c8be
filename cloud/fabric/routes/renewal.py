"""Routes: renewal with fresh TPM evidence, for a node whose device certificate opens no session.

The caller needs no client certificate; the TPM of the node admits it.
"""

from typing import Any

from litestar import Request, post
from litestar.params import JSONBody

from cloud.fabric import errors
from cloud.fabric.routes.access import OfRenewal, renewal_id
from cloud.fabric.routes.buckets import RENEWAL
from cloud.fabric.service.renewals.renewal import Renewals
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, host_of
from cloud.http.openapi import operation_options
from protocol.encoding import sha256_hex
from protocol.messages.renewal import PATH_RENEWALS, ProveRenewal, RenewalChallenge, Renewed, StartRenewal


@post(
    PATH_RENEWALS,
    status_code=201,
    opt=operation_options(
        ANONYMOUS,
        bucket=RENEWAL,
        refuses=(
            errors.CertificateRefused,
            errors.TooManyChallenges,
            errors.TooOften,
            errors.EvidenceNotAccepted,
            errors.TierNotAllowed,
            errors.Invalid,
        ),
    ),
)
async def start_renewal(
    data: JSONBody[StartRenewal], request: Request[Any, Any, Any], renewals: Wired[Renewals]
) -> RenewalChallenge:
    """Start a renewal of a device certificate.

    Fabric answers with a challenge that only the TPM of the named generation can solve. The node sends the solution to
    `POST /v1/node/renewals/{renewal}/proof`. A node with a session renews by EST at Breakwater instead.
    """
    return await renewals.start(data, host_of(request))


@post(
    f"{PATH_RENEWALS}/{{renewal:str}}/proof",
    status_code=200,
    opt=operation_options(
        ANONYMOUS,
        bucket=RENEWAL,
        refuses=(
            errors.NotFound,
            errors.Invalid,
            errors.ChallengeExpired,
            errors.ChallengeFailed,
            errors.GenerationClosed,
            errors.EvidenceNotAccepted,
            errors.CsrRefused,
            errors.Conflict,
            errors.ActivationClosed,
            errors.TooManyChallenges,
            errors.HolderRefused,
            errors.IssuerUnavailable,
        ),
    ),
)
async def prove_renewal(
    renewal: OfRenewal,
    data: JSONBody[ProveRenewal],
    request: Request[Any, Any, Any],
    renewals: Wired[Renewals],
) -> Renewed:
    """Prove a renewal and get the new device certificate.

    A repeat with a byte-identical body gets the stored answer. A machine with a former key of its generation was restored
    from a backup, or is a copy. A copy, and a restored machine that an operator must approve, are refused with the signed
    statement for this machine.
    """
    body_sha256 = sha256_hex(await request.body())
    return await renewals.prove(renewal_id(renewal), data, body_sha256, host_of(request))


HANDLERS = (start_renewal, prove_renewal)
