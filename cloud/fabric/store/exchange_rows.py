"""Values: the row of an exchange with a node without a network."""

from datetime import datetime

import msgspec

from cloud.fabric.bodies.airgap import ExchangeState
from cloud.fabric.schemas import StatementType
from protocol.airgap.request import Kind
from protocol.evidence import ClockInfo
from protocol.ids import AirgapRequestId, NodeId, TenantId


class AirgapExchangeRow(msgspec.Struct, frozen=True, kw_only=True):
    """An answered request of a node without a network. `id` is the id of the request.

    States: answered -> received when a later request carries the receipt, or -> superseded when a later request of the
    node is answered first. `request_sha256` is the digest of the request's body: another request with this id is refused.
    `made_at` and `clock` (the TPM's clock, None without a TPM) are the machine's report; they order its requests.
    `activation` is the activation that the request made, empty for a refresh. `seq`, `statement_type` and
    `statement_sha256` are of the statement in the answer. `answer` is the last answer file, empty after `valid_until`;
    `answers_sha256` has the hash of each answer's signature, of which a receipt names one. `received_at` is the time at
    which the receipt came, `imported_at` the time of the import by the machine's clock.
    """

    id: AirgapRequestId
    tenant: TenantId
    node: NodeId
    generation: int
    kind: Kind
    state: ExchangeState
    request_sha256: str
    activation: str
    made_at: datetime
    clock: ClockInfo | None
    answered_at: datetime
    valid_until: datetime
    answered_by: str
    seq: int
    statement_type: StatementType
    statement_sha256: str
    answer: str
    answers_sha256: tuple[str, ...]
    received_at: datetime | None = None
    imported_at: datetime | None = None
