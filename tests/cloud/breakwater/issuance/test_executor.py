"""`cloud.breakwater.issuance.executor`: record before signature, one certificate a request, none after a close."""

import asyncio
from pathlib import Path

import pytest

from cloud.breakwater.errors import (
    GenerationClosed,
    IssuanceLost,
    SignerUnavailable,
)
from cloud.breakwater.issuance import executor
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.store.issuance import IN_FLIGHT
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    SPIFFE,
    START,
    Clock,
    Issuer,
    Watched,
    ask,
    closing,
    issuer_at,
    load,
    new_key,
    opening,
)


async def test_the_record_is_durable_before_the_key_is_used_and_equals_what_is_signed(
    home: Path, database: Location
) -> None:
    seen: list[tuple[bytes, str]] = []

    async def look(linted: Linted) -> None:
        async with issuer_at(home, database, Clock()) as other:  # another connection sees only committed rows
            row = (await other.node_rows())[-1]
        seen.append((bytes(row["tbs"]), row["state"]))
        assert row["tbs"] == linted.tbs

    async with issuer_at(home, database, Clock(), Watched(look)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        answer = await issuer.issuing.issue_device(FABRIC, ask(new_key()))
        certificate = load(answer.certificate_chain[0])
        assert seen == [(certificate.tbs_certificate_bytes, "recorded")]
        (row,) = await issuer.node_rows()
    assert row["certificate"] == answer.certificate_chain[0]
    assert int(row["serial"], 16) == certificate.serial_number
    assert (row["state"], row["caller"]) == ("issued", FABRIC)
    assert row["not_after"] == certificate.not_valid_after_utc
    nodes = load(answer.certificate_chain[1])
    certificate.verify_directly_issued_by(nodes)


async def test_ten_at_once_with_one_request_id_get_one_certificate(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    asked = ask(new_key())
    answers = await asyncio.gather(*(issuer.issuing.issue_session(FABRIC, asked) for _ in range(10)))
    assert len(set(answers)) == 1
    assert [row["state"] for row in await issuer.node_rows()] == ["issued"]


async def test_a_close_between_record_and_signature_wins(home: Path, database: Location) -> None:
    closed: list[int] = []

    async def close(_: Linted) -> None:
        closed.append(await issuer.generations.close_up_to(FABRIC, closing(len(closed) + 1)))

    async with issuer_at(home, database, Clock(), Watched(close)) as issuer:
        for generation, issue in ((1, issuer.issuing.issue_device), (2, issuer.issuing.issue_session)):
            await issuer.generations.open(FABRIC, opening(generation))
            with pytest.raises(IssuanceLost):
                await issue(FABRIC, ask(new_key(), request=f"r{generation}", generation=generation))
        rows = await issuer.node_rows()
    assert closed == [1, 1]
    assert [(row["state"], row["certificate"]) for row in rows] == [("revoked", None), ("revoked", None)]


@pytest.mark.slow
async def test_issue_and_close_raced_a_hundred_times(issuer: Issuer) -> None:
    """Whichever is first: after the close every device certificate of the generation is revoked."""
    given, refused = 0, 0

    async def delayed(turns: int, generation: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await issuer.generations.close_up_to(FABRIC, closing(generation))

    for generation in range(1, 101):
        await issuer.generations.open(FABRIC, opening(generation))
        asked = ask(new_key(), request=f"r{generation}", generation=generation)
        answer, _ = await asyncio.gather(
            issuer.issuing.issue_device(FABRIC, asked), delayed(generation % 12, generation), return_exceptions=True
        )
        if isinstance(answer, BaseException):
            assert isinstance(answer, GenerationClosed | IssuanceLost)
            refused += 1
        else:
            given += 1
            assert await issuer.is_revoked(load(answer.certificate_chain[0]).serial_number)
    states = {row["state"] for row in await issuer.node_rows()}
    assert states <= {"revoked"}
    assert given + refused == 100


async def test_a_failed_signature_leaves_an_orphan_and_the_repeat_a_new_record(home: Path, database: Location) -> None:
    fail = True

    async def broken(_: Linted) -> None:
        if fail:
            raise OSError("the key is gone")

    async with issuer_at(home, database, Clock(), Watched(broken)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        asked = ask(new_key())
        with pytest.raises(OSError, match="the key is gone"):
            await issuer.issuing.issue_device(FABRIC, asked)
        fail = False
        answer = await issuer.issuing.issue_device(FABRIC, asked)
        rows = await issuer.node_rows()
        assert [row["state"] for row in rows] == ["orphaned", "issued"]
        assert rows[0]["request_key"] is None
        assert rows[0]["revoked_at"] == START
        assert await issuer.is_revoked(int(rows[0]["serial"], 16))
        assert int(rows[1]["serial"], 16) == load(answer.certificate_chain[0]).serial_number
        assert await issuer.generations.close_up_to(FABRIC, closing()) == 2


async def test_an_orphan_of_a_start_gets_no_certificate_later(home: Path, database: Location) -> None:
    """Another process starts, and orphans the record, while this process is between record and signature."""

    async def restart(_: Linted) -> None:
        async with issuer_at(home, database, Clock(START + IN_FLIGHT)) as other:
            assert await other.executor.recover() == 1
            assert await other.executor.recover() == 0

    async with issuer_at(home, database, Clock(), Watched(restart)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        with pytest.raises(IssuanceLost):
            await issuer.issuing.issue_device(FABRIC, ask(new_key()))
        rows = await issuer.node_rows()
    assert [(row["state"], row["certificate"]) for row in rows] == [("orphaned", None)]


async def test_a_restart_keeps_everything(home: Path, database: Location) -> None:
    asked, session = ask(new_key()), ask(new_key(), request="s")
    async with issuer_at(home, database, Clock()) as issuer:
        for generation in (1, 2):
            await issuer.generations.open(FABRIC, opening(generation))
        first = await issuer.issuing.issue_device(FABRIC, asked)
        second = await issuer.issuing.issue_session(FABRIC, session)
        await issuer.generations.close_up_to(FABRIC, closing(1))
    async with issuer_at(home, database, Clock()) as issuer:
        assert await issuer.executor.recover() == 0
        assert await issuer.is_revoked(load(first.certificate_chain[0]).serial_number)
        assert not await issuer.is_revoked(load(second.certificate_chain[0]).serial_number)
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_device(FABRIC, asked)
        assert await issuer.generations.is_open(SPIFFE.tenant, NODE, 2)


async def test_a_signature_that_takes_too_long_is_given_up(
    home: Path, database: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(_: Linted) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(executor, "SIGN_SECONDS_MAX", 0.05)
    async with issuer_at(home, database, Clock(), Watched(forever)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        with pytest.raises(SignerUnavailable):
            await issuer.issuing.issue_device(FABRIC, ask(new_key()))
        assert [row["state"] for row in await issuer.node_rows()] == ["orphaned"]


async def test_a_cancelled_issuance_leaves_an_orphan_that_its_shard_knows(home: Path, database: Location) -> None:
    reached = asyncio.Event()

    async def wait(_: Linted) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with issuer_at(home, database, Clock(), Watched(wait)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        running = asyncio.create_task(issuer.issuing.issue_device(FABRIC, ask(new_key())))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        (row,) = await issuer.node_rows()
        assert row["state"] == "orphaned"
        assert [each["revision"] for each in await issuer.shards() if each["id"] == row["shard"]] == [1]


async def test_an_expired_certificate_is_no_answer_to_a_repeat(issuer: Issuer) -> None:
    key = new_key()
    first = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    issuer.clock.at = load(first.certificate_chain[0]).not_valid_after_utc
    second = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    assert second != first
    assert await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC) == second
