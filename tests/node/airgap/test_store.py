"""The record of requests: one write replaces a request, and one write ends it with its receipt."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from node.airgap.store import FORMER_MAX, AirgapRecord, AirgapStore, StoredRequest
from node.errors import StateDamaged, StateUnsafe
from protocol.airgap.answer import Outstanding
from protocol.airgap.request import Receipt
from protocol.ids import AirgapRequestId, make_id

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def a_request(number: int = 1) -> StoredRequest:
    return StoredRequest(
        outstanding=Outstanding(
            "refresh", AirgapRequestId(make_id("agr", number, bytes(10))), "1" * 64, "n" * 24, "2" * 64
        ),
        file=b"{}\n",
        generation=1,
        made_at=AT,
        expires_at=AT + timedelta(days=14),
        boot_id="boot",
        boot_seconds=5.0,
    )


@pytest.fixture
def store(tmp_path: Path) -> AirgapStore:
    return AirgapStore(tmp_path / "state")


def test_without_a_file_there_is_an_empty_record(store: AirgapStore) -> None:
    assert store.load() == AirgapRecord()


def test_a_request_survives_and_its_receipt_ends_it(store: AirgapStore) -> None:
    first = a_request()
    store.save_request(store.load(), first)
    assert store.load().request == first
    receipt = Receipt(first.outstanding.request, "3" * 64, AT)
    store.save_receipt(store.load(), receipt)
    ended = store.load()
    assert (ended.request, ended.receipt, ended.former) == (msgspec.UNSET, receipt, (first.outstanding.request,))
    second = a_request(2)
    store.save_request(ended, second)
    assert (store.load().request, store.load().receipt) == (second, receipt)


def test_the_ids_of_earlier_requests_are_bounded(store: AirgapStore) -> None:
    record = AirgapRecord()
    for number in range(FORMER_MAX + 5):
        store.save_request(record, a_request(number))
        record = store.load()
    assert len(record.former) == FORMER_MAX
    assert record.former[0] == a_request(FORMER_MAX + 3).outstanding.request


def test_a_damaged_or_foreign_record_is_not_used(store: AirgapStore) -> None:
    store.save_request(store.load(), a_request())
    data = store.path.read_bytes()
    store.path.write_bytes(data[:-20])
    with pytest.raises(StateDamaged):
        store.load()
    store.path.write_bytes(data)
    store.path.chmod(0o666)
    with pytest.raises(StateUnsafe):
        store.load()
