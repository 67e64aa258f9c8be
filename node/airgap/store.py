"""Store: the outstanding request of this machine, the receipt of the last answer, and the ids of earlier requests.

    STATE/airgap.json

All three are in one file, so one write ends a request and keeps its receipt. A request is stored before it is shown.
The file has the bytes of the request, so that it is shown again without a change. The request of a recovery has its
recovery code in them, until the answer is imported or another request takes its place.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from node.disk.files import StateFile, encode_state, ensure_private_dir, read_state, write_atomic
from node.hwbind.keys import WrappedKey
from protocol.airgap.answer import Outstanding
from protocol.airgap.request import Receipt
from protocol.faults import fault_point
from protocol.messages.activation import TrustPin

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

FORMER_MAX = 32
"""Ids of earlier requests. An answer to one of them is refused as outdated, instead of as another machine's."""
_NEXT = "Nothing was changed. Remove the file; then make another request with `cascadia request`."


class StoredActivation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parts of an activation that the request does not have, or that the import needs before it is verified.

    Attributes:
        file_sha256: SHA-256 of the activation file, in hex.
        file_created_at: the time in the activation file, the first floor of trusted time.
        repository_url: the repository in the activation file.
        pin: the pin in the activation file.
        ak: the attestation key of the request.
        node_key: the node key of the request.
        eks: `TPMT_PUBLIC` of each EK in the request.
    """

    file_sha256: str
    file_created_at: AwareTime
    repository_url: str
    pin: TrustPin
    ak: WrappedKey
    node_key: WrappedKey
    eks: tuple[bytes, ...]


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outstanding request.

    Attributes:
        outstanding: the part that an answer is matched with.
        file: the request as it is carried, in JSON.
        generation: the generation of a refresh; for an activation the highest one of the state directory.
        made_at: the trusted time at which it was made.
        expires_at: the time from which another request is made.
        boot_id: the boot in which it was made; empty if unknown.
        boot_seconds: the seconds since that boot.
        activation: the parts of an activation; absent for a refresh.
    """

    outstanding: Outstanding
    file: bytes
    generation: int
    made_at: AwareTime
    expires_at: AwareTime
    boot_id: str
    boot_seconds: float
    activation: StoredActivation | msgspec.UnsetType = msgspec.UNSET


class AirgapRecord(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file."""

    request: StoredRequest | msgspec.UnsetType = msgspec.UNSET
    receipt: Receipt | msgspec.UnsetType = msgspec.UNSET
    former: tuple[str, ...] = ()


class AirgapStore:
    """The record of a state directory. A caller that writes holds the directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.path = state_dir / "airgap.json"

    def load(self) -> AirgapRecord:
        """The record; an empty one without a file. Raises StateDamaged, StateUnsafe, StateUnreadable."""
        return read_state(self.path, AirgapRecord, _NEXT) or AirgapRecord()

    def save_request(self, before: AirgapRecord, request: StoredRequest) -> None:
        """Store a request in place of the outstanding one. Raises DiskFull, StateUnwritable, StateUnsafe."""
        ensure_private_dir(self._state_dir)
        with fault_point("node.airgap.request"):
            write_atomic(self.path, encode_state(_ended(before, request)))

    def save_receipt(self, before: AirgapRecord, receipt: Receipt) -> None:
        """Store the receipt of an imported answer. It ends the outstanding request. Raises as `save_request`."""
        ended = msgspec.structs.replace(_ended(before, msgspec.UNSET), receipt=receipt)
        with fault_point("node.airgap.receipt"):
            write_atomic(self.path, encode_state(ended))


def _ended(before: AirgapRecord, request: StoredRequest | msgspec.UnsetType) -> AirgapRecord:
    """The record with another request. The id of the outstanding one becomes a former id."""
    former = before.former
    if before.request:
        former = (before.request.outstanding.request, *former)[:FORMER_MAX]
    return msgspec.structs.replace(before, request=request, former=former)
