"""Messages: the recovery of a node. A recovery is an activation whose right comes from a recovery case.

A start of an activation with a `RecoveryClaim` asks for the machine's own node back, in its seat. Everything that
follows (challenge, proof, wait, confirm, lapse) is that of an activation. The claim only names a node: the proof and the
fingerprint say what is still the same machine, and a person, a recovery code or the tenant's policy approve.

Evolution: as `protocol.messages.activation`. The text below a field is its description in the API document.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from protocol.bounds import limits
from protocol.ids import RecoveryId
from protocol.limits import ENVELOPE_BYTES_MAX, ID_CHARS_MAX

Situation = Literal["reinstalled", "tpm-cleared", "hardware-replaced"]
"""`reinstalled`: the chip is that of the node, and the state is lost. `tpm-cleared`: the chip is that of the node, and it
refuses the node's key. `hardware-replaced`: the chip is another one, or the machine without a TPM has other parts."""
CaseState = Literal["open", "eligible", "needs_operator", "refused", "approved", "code_issued", "consumed", "lapsed"]
"""`open`: a code was used, and the machine has not confirmed yet. `eligible`: the machine has or may get a grace lease,
and a person or a code must still approve. `needs_operator`: it waits. `refused`: by a rule or by a person. `approved`: a
person approved, and the machine has not confirmed yet. `code_issued`: an operator issued a recovery code for the case.
`consumed`: the new generation is confirmed with its full right. `lapsed`: the time ran out."""
Needs = Literal["operator", "code", "operator-or-code"]
"""What a case waits for: an operator's approval, a recovery code, or either of the two."""


class RecoveryClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine that asks for its node back says about itself. It proves nothing."""

    node: Annotated[str, limits(maxLength=ID_CHARS_MAX)] = ""
    """Id of the node. Empty if the machine and the person in front of it do not know the id."""
    statement: Annotated[str, limits(maxLength=ENVELOPE_BYTES_MAX)] = ""
    """Last stored statement of the node, as a JWS. It names the node. Empty if the machine has none."""
    situation: Situation
    """What the machine itself found. The cloud judges by the proof."""
    last_ran_at: Annotated[datetime, msgspec.Meta(tz=True)] | msgspec.UnsetType = msgspec.UNSET
    """Trusted time at which the machine last ran, from its state directory. Absent if the directory is lost."""


class AwaitedRecovery(msgspec.Struct, frozen=True):
    """The recovery case that an activation waits for."""

    case: RecoveryId
    """Id of the case, for `cascade recovery approve`."""
    state: CaseState
    """State of the case."""
    needs: Needs
    """What the case waits for: `operator`, `code`, or `operator-or-code`."""
    decide_by: datetime
    """Time at which the case ends without a decision."""
    reason: str = ""
    """Why the machine cannot go on by itself, for people."""
