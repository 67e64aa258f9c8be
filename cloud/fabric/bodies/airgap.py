"""Messages: exchanges with nodes without a network, in the operators' API of Fabric. The rules are those of
`cloud.fabric.schemas`."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from protocol.airgap.request import Kind
from protocol.bounds import limits
from protocol.ids import ActivationId, AirgapRequestId, NodeId, RecoveryId, TenantId
from protocol.messages.recovery import Needs

VALID_DAYS_MAX = 60
"""The longest time for which an answer can be imported, in days: the time to `terminate_at` of the tier `attested`. The
lease in an older answer would have ended."""
REQUEST_CHARS_MAX = 60 * 1024
"""Longest request file. The rest of the 64 kB of a body is for the escapes of a text in JSON. A request with an RSA EK
certificate has about 9 kB."""

ExchangeState = Literal["answered", "received", "superseded"]
"""`answered`: the receipt is outstanding. `received`: a later request carried the receipt. `superseded`: a later request
of the node was answered before a receipt came."""


class AnswerAirgapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of a node without a network."""

    request: Annotated[str, limits(minLength=2, maxLength=REQUEST_CHARS_MAX)]
    """The request file: the JSON that `cascadia request --out FILE` writes."""
    valid_days: Annotated[int | msgspec.UnsetType, limits(minimum=1, maximum=VALID_DAYS_MAX)] = msgspec.UNSET
    """For how many days the node can import the answer. 14 by default. A repeat gets the answer that exists."""


class AirgapExchange(msgspec.Struct, frozen=True):
    """An answered request of a node without a network."""

    request: AirgapRequestId
    """Id of the request."""
    kind: Kind
    """`activate`: an activation. `refresh`: the node's current statement. `recover`: a recovery of the node."""
    state: ExchangeState
    """`answered`: the receipt of the answer is outstanding. `received`: a later request of the node carried the receipt.
    `superseded`: a later request of the node was answered before a receipt came."""
    tenant: TenantId
    """Tenant of the node."""
    node: NodeId
    """Id of the node."""
    generation: int
    """Generation that the answer is for."""
    made_at: datetime
    """Time of the request, by the clock of the machine."""
    answered_at: datetime
    """Time of the last answer."""
    valid_until: datetime
    """Time until which the node can import the answer."""
    statement: str
    """What the answer carries: `lease`, `suspension` or `revocation`."""
    answered_by: str
    """Token of the operator who answered."""
    received_at: datetime | None = None
    """Time at which the receipt came. Null without one."""
    imported_at: datetime | None = None
    """Time of the import, by the clock of the machine. Null without a receipt."""


class AirgapAnswer(msgspec.Struct, frozen=True):
    """Result of a request: the answer, or an activation that an operator must approve first."""

    answer: str
    """The answer file as JSON, for `cascadia license import`. Empty if an operator must approve first."""
    exchange: AirgapExchange | None = None
    """The exchange of the answer. Null without an answer."""
    activation: ActivationId | None = None
    """Activation that waits for a person before the same request can be answered. Null if none does."""
    approve_by: datetime | None = None
    """Time until which a person can decide. Null if none must."""
    recovery: RecoveryId | None = None
    """Recovery case of that activation. An operator decides about the case. Null without a recovery."""
    needs: Literal["", Needs] = ""
    """What the case waits for: `operator`, `code` (another request with a recovery code), or `operator-or-code`. Empty
    without a case."""
