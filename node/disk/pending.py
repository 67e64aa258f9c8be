"""Values: an activation or a renewal that has not ended, as the state directory stores it."""

from datetime import datetime
from typing import Annotated

import msgspec

from node.disk.files import StateFile
from node.hwbind.keys import WrappedKey
from node.hwbind.presence import EndorsementRecord
from node.hwbind.succession import Succession
from protocol.ids import ActivationId, RenewalId
from protocol.messages.recovery import AwaitedRecovery, RecoveryClaim

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]


class ApprovalWait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An activation waits for an operator, who can decide until `expires_at`. `recovery` is its recovery case, if any."""

    activation: ActivationId
    asked_at: AwareTime
    expires_at: AwareTime
    recovery: AwaitedRecovery | msgspec.UnsetType = msgspec.UNSET


class PendingActivation(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An activation that has not ended. A repeat of `cascadia activate` with the same file continues it.

    `file_sha256` (hex) is the digest of the activation file; the file's content is not stored. For a recovery, which
    `cascadia recover` continues, it is the digest of the recovery code, and `recovery` is the claim. `proof` is the body of
    the proof request as it is sent: the cloud returns its stored answer only for identical bytes. An activation is
    stored once its proof is made. An activation that is interrupted earlier starts from its beginning. `approval` is
    stored once the cloud has answered that an operator must approve.
    """

    file_sha256: str
    activation: ActivationId
    fingerprint_salt: bytes
    ak: WrappedKey
    node_key: WrappedKey
    proof: bytes
    endorsement: EndorsementRecord | msgspec.UnsetType = msgspec.UNSET
    approval: ApprovalWait | msgspec.UnsetType = msgspec.UNSET
    recovery: RecoveryClaim | msgspec.UnsetType = msgspec.UNSET


class PendingRenewal(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A renewal with fresh evidence that has not ended.

    `node_key` is the key to certify: the present node key, or a new one for a rekey. `proof` is the body of the proof
    request as it is sent: the cloud returns its stored answer only for identical bytes. A renewal without a TPM has no
    id. `answer_nonce` is then the nonce of a refusal's freshness; the proof of a TPM's renewal has it in its body.
    `succession` is that of a rekey with a TPM.
    """

    generation: int
    renewal: RenewalId
    node_key: WrappedKey
    proof: bytes
    endorsement: EndorsementRecord | msgspec.UnsetType = msgspec.UNSET
    answer_nonce: str | msgspec.UnsetType = msgspec.UNSET
    succession: Succession | msgspec.UnsetType = msgspec.UNSET
