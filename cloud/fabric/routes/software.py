"""Routes: activation and renewal of machines without a TPM. Code and proof, or the key in force, admit the caller."""

from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody

from cloud.fabric import errors
from cloud.fabric.routes.access import OfActivation, activation_id
from cloud.fabric.routes.activation import CODE_REFUSALS, PROOF_REFUSALS, answered
from cloud.fabric.routes.buckets import ACTIVATION, RENEWAL
from cloud.fabric.service.activations.without_tpm import SoftwareActivations
from cloud.fabric.service.renewals.software_renewal import SoftwareRenewals
from cloud.http.app import Wired
from cloud.http.guard import ANONYMOUS, host_of
from cloud.http.openapi import operation_options
from protocol.encoding import sha256_hex
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.renewal import Renewed
from protocol.messages.software import (
    PATH_SOFTWARE_ACTIVATIONS,
    PATH_SOFTWARE_RENEWALS,
    ProveSoftwareActivation,
    RenewSoftware,
    SoftwareChallenge,
    StartSoftwareActivation,
)


@post(
    PATH_SOFTWARE_ACTIVATIONS,
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
async def start_software_activation(
    data: JSONBody[StartSoftwareActivation],
    request: Request[Any, Any, Any],
    software_activations: Wired[SoftwareActivations],
) -> SoftwareChallenge:
    """Start the activation of a machine without a TPM.

    Fabric answers with a nonce. The node key signs it in the request to
    `POST /v1/software-activations/{activation}/proof`.
    """
    return await software_activations.start(data, host_of(request))


@post(
    PATH_SOFTWARE_ACTIVATIONS + "/{activation:str}/proof",
    status_code=200,
    opt=operation_options(ANONYMOUS, bucket=ACTIVATION, refuses=PROOF_REFUSALS, also={202: AwaitedApproval}),
)
async def prove_software_activation(
    activation: OfActivation,
    data: JSONBody[ProveSoftwareActivation],
    request: Request[Any, Any, Any],
    software_activations: Wired[SoftwareActivations],
) -> Response[Activated | AwaitedApproval]:
    """Prove the activation of a machine without a TPM and get the device certificate.

    A repeat with a byte-identical body gets the stored answer. If a person must approve, the answer is 202; the node
    repeats the request after `Retry-After`.
    """
    body_sha256 = sha256_hex(await request.body())
    return answered(await software_activations.prove(activation_id(activation), data, body_sha256))


@post(
    PATH_SOFTWARE_RENEWALS,
    status_code=200,
    opt=operation_options(
        ANONYMOUS,
        bucket=RENEWAL,
        refuses=(
            errors.CertificateRefused,
            errors.ProofRefused,
            errors.Invalid,
            errors.FingerprintRefused,
            errors.GenerationClosed,
            errors.CsrRefused,
            errors.Conflict,
            errors.ActivationClosed,
            errors.TooManyChallenges,
            errors.TooOften,
            errors.HolderRefused,
            errors.IssuerUnavailable,
        ),
    ),
)
async def renew_software(
    data: JSONBody[RenewSoftware], request: Request[Any, Any, Any], software_renewals: Wired[SoftwareRenewals]
) -> Renewed:
    """Renew the device certificate of a node without a TPM, after its expiry or for another key.

    The key in force signs the proof. A repeat with the same proof gets the stored answer.
    """
    return await software_renewals.renew(data, host_of(request))


HANDLERS = (start_software_activation, prove_software_activation, renew_software)
