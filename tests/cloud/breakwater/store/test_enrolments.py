"""`cloud.breakwater.store.enrolments`: one-time secrets, each bound to one request."""

import pytest
from msgspec.structs import replace

from cloud.breakwater.errors import EnrolmentRefused
from cloud.breakwater.store import Stores
from cloud.breakwater.store.enrolments import EnrolmentRow
from cloud.storage import IntegrityError
from tests.cloud.breakwater.store.samples import HOUR, NOW, adopt, entry, issue, order

CSR, OTHER = "c" * 64, "d" * 64
ROW = EnrolmentRow("enr_1", "fabric", "a" * 64, "operator", NOW, NOW + HOUR, None, "")


async def test_a_row_comes_back(stores: Stores) -> None:
    second = replace(ROW, id="enr_2", secret_hash="b" * 64)
    for row in (ROW, second):
        await stores.enrolments.add(row, entry())
    assert await stores.enrolments.find(ROW.secret_hash) == ROW
    assert await stores.enrolments.find("") is None
    assert await stores.enrolments.newest(10) == (second, ROW)
    assert await stores.enrolments.newest(1) == (second,)
    with pytest.raises(IntegrityError):
        await stores.enrolments.add(ROW, entry())


async def test_a_secret_is_bound_to_one_request_until_it_expires(stores: Stores) -> None:
    """A repeat keeps the time of the first use."""
    await stores.enrolments.add(ROW, entry())
    assert await stores.enrolments.bind(ROW.id, CSR, entry(at=NOW + HOUR / 2))
    assert await stores.enrolments.bind(ROW.id, CSR, entry(at=NOW + HOUR / 3))
    assert not await stores.enrolments.bind(ROW.id, OTHER, entry())
    assert not await stores.enrolments.bind(ROW.id, CSR, entry(at=NOW + HOUR))
    bound = replace(ROW, used_at=NOW + HOUR / 2, csr_sha256=CSR)
    assert await stores.enrolments.find(ROW.secret_hash) == bound


async def test_a_binding_is_undone_only_before_the_caller_has_a_record(stores: Stores) -> None:
    await adopt(stores)
    await stores.enrolments.add(ROW, entry())
    await stores.enrolments.add(replace(ROW, id="other", secret_hash="other"), entry())
    await issue(stores, order(1, "service", caller="enrolment/other"))
    await issue(stores, order(2, "service", service="other", caller="enrolment/enr_1"))
    await stores.enrolments.bind(ROW.id, CSR, entry())
    await stores.enrolments.give_back(ROW.id, OTHER, "enrolment/enr_1")
    assert await stores.enrolments.find(ROW.secret_hash) == replace(ROW, used_at=NOW, csr_sha256=CSR)
    await stores.enrolments.give_back(ROW.id, CSR, "enrolment/enr_1")
    assert await stores.enrolments.find(ROW.secret_hash) == ROW
    await stores.enrolments.bind(ROW.id, CSR, entry())
    await issue(stores, order(3, "service", caller="enrolment/enr_1"))
    await stores.enrolments.give_back(ROW.id, CSR, "enrolment/enr_1")
    assert await stores.enrolments.find(ROW.secret_hash) == replace(ROW, used_at=NOW, csr_sha256=CSR)


async def test_a_secret_that_ended_after_its_binding_gets_no_record(stores: Stores) -> None:
    await adopt(stores)
    await stores.enrolments.add(ROW, entry())
    await stores.enrolments.bind(ROW.id, CSR, entry())
    await stores.enrolments.end(ROW.id, entry())
    for caller in (f"enrolment/{ROW.id}", "enrolment/unknown"):
        with pytest.raises(EnrolmentRefused):
            await issue(stores, order(1, "service", caller=caller))
    await issue(stores, order(1, "service", caller="operator/anna"))


async def test_a_secret_is_ended_once(stores: Stores) -> None:
    await stores.enrolments.add(ROW, entry())
    assert await stores.enrolments.end(ROW.id, entry(at=NOW + HOUR / 2))
    assert not await stores.enrolments.end(ROW.id, entry(at=NOW + HOUR / 2))
    assert not await stores.enrolments.end("enr_9", entry())
    assert await stores.enrolments.find(ROW.secret_hash) == replace(ROW, expires_at=NOW + HOUR / 2)
