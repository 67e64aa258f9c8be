"""Routes: activation. The caller has no identity yet; code, TPM evidence and proof admit it."""

from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody

from cloud.fabric import errors
from cloud.fabric.routes.access import OfActivation, activation_id
from cloud.fabric.routes.buckets import ACTIVATION
from cloud.fabric.service.activations.with_tpm import Activations
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, host_of
from cloud.http.openapi import operation_options
from protocol.encoding import sha256_hex
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, ProveActivation, StartActivation

CODE_REFUSALS = (
    errors.CodeRefused,
    errors.CodeExpired,
    errors.CodeRevoked,
    errors.RecoveryRefused,
    errors.RecoveryCodeRefused,
)
"""Refusals of an activation code, and of a recovery."""
PROOF_REFUSALS = (
    *CODE_REFUSALS,
    errors.NotFound,
    errors.Invalid,
    errors.ChallengeExpired,
    errors.ChallengeFailed,
    errors.ActivationClosed,
    errors.EvidenceNotAccepted,
    errors.TierNotAllowed,
    errors.TpmRequired,
    errors.CsrRefused,
    errors.SeatsExhausted,
    errors.NodeRevoked,
    errors.ApprovalDenied,
    errors.ApprovalExpired,
    errors.TooManyChallenges,
    errors.TooOften,
    errors.IssuerUnavailable,
)
"""Refusals of the proof of an activation, with a TPM and without one."""


@post(
    "/v1/activations",
    status_code=201,
    opt=operation_options(
        ANONYMOUS,
        bucket=ACTIVATION,
        refuses=(
            *CODE_REFUSALS,
            errors.Invalid,
            errors.TooOften,
            errors.EvidenceNotAccepted,
            errors.TierNotAllowed,
            errors.TpmRequired,
        ),
    ),
)
async def start_activation(
    data: JSONBody[StartActivation], request: Request[Any, Any, Any], activations: Wired[Activations]
) -> Challenge:
    """Start an activation, or a recovery.

    Fabric answers with a challenge that only the TPM in the evidence can solve. The node sends the solution to
    `POST /v1/activations/{activation}/proof`.
    """
    return await activations.start(data, host_of(request))


@post(
    "/v1/activations/{activation:str}/proof",
    status_code=200,
    opt=operation_options(
        ANONYMOUS,
        bucket=ACTIVATION,
        refuses=(*PROOF_REFUSALS, errors.QuoteRefused),
        also={202: AwaitedApproval},
    ),
)
async def prove_activation(
    activation: OfActivation,
    data: JSONBody[ProveActivation],
    request: Request[Any, Any, Any],
    activations: Wired[Activations],
) -> Response[Activated | AwaitedApproval]:
    """Prove an activation and get the device certificate.

    A repeat with a byte-identical body gets the stored answer. If a person must approve, the answer is 202; the node
    repeats the request after `Retry-After`. The node then opens a session and confirms the generation before
    `confirm_by`.
    """
    body_sha256 = sha256_hex(await request.body())
    return answered(await activations.prove(activation_id(activation), data, body_sha256))


def answered(answer: Activated | AwaitedApproval) -> Response[Activated | AwaitedApproval]:
    """The response: 200 with the device certificate, or 202 with `Retry-After` while a person must approve."""
    if isinstance(answer, AwaitedApproval):
        return Response(answer, status_code=202, headers={"Retry-After": str(answer.retry_after_seconds)})
    return Response(answer, status_code=200)


HANDLERS = (start_activation, prove_activation)
