"""The promises of issuing: recorded before signed, once a request, never for a closed generation."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from cloud.breakwater.errors import (
    Conflict,
    CsrRefused,
    GenerationClosed,
    IssuanceLost,
    NotAdmitted,
    RenewedTooOften,
    SignerUnavailable,
    ValueRefused,
)
from cloud.breakwater.issuance.issuing import RENEWALS_WINDOW
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.store.issuance import IN_FLIGHT
from cloud.contracts.breakwater import IssueNodeCertificate
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from protocol.ids import NodeId
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    OTHER_TENANT,
    SPIFFE,
    START,
    Clock,
    Issuer,
    Watched,
    ask,
    closing,
    closing_one,
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
        async with issuer_at(home, database, Clock()) as other:  # another connection sees only what is committed
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


async def test_a_repeat_gets_the_stored_certificate(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    asked = ask(new_key())
    first = await issuer.issuing.issue_device(FABRIC, asked)
    issuer.clock.forward(timedelta(hours=1))
    assert await issuer.issuing.issue_device(FABRIC, asked) == first
    assert len(await issuer.node_rows()) == 1


async def test_the_same_request_id_for_something_else_is_a_conflict(issuer: Issuer) -> None:
    key = new_key()
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(key))
    for other in (ask(new_key()), ask(key, generation=2)):
        with pytest.raises(Conflict, match="another key, generation or kind"):
            await issuer.issuing.issue_device(FABRIC, other)
    with pytest.raises(Conflict):
        await issuer.issuing.issue_session(FABRIC, ask(key))
    await issuer.issuing.issue_device(FABRIC, ask(new_key(), request="r2"))
    assert len(await issuer.node_rows()) == 2


async def test_ten_at_once_with_one_request_id_get_one_certificate(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    asked = ask(new_key())
    answers = await asyncio.gather(*(issuer.issuing.issue_session(FABRIC, asked) for _ in range(10)))
    assert len(set(answers)) == 1
    assert [row["state"] for row in await issuer.node_rows()] == ["issued"]


async def test_only_open_generations_are_issued_for(issuer: Issuer) -> None:
    with pytest.raises(GenerationClosed):
        await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    await issuer.generations.open(FABRIC, opening())
    for wrong in (ask(new_key(), generation=2), ask(new_key(), tenant=OTHER_TENANT)):
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_device(FABRIC, wrong)
    assert await issuer.node_rows() == []


async def test_closing_is_final_and_revokes(issuer: Issuer) -> None:
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    asked = ask(new_key())
    device = await issuer.issuing.issue_device(FABRIC, asked)
    assert await issuer.generations.close_up_to(FABRIC, closing(1)) == 1
    assert await issuer.generations.close_up_to(FABRIC, closing(1)) == 1
    assert await issuer.is_revoked(load(device.certificate_chain[0]).serial_number)
    for attempt in (asked, ask(new_key(), request="r2")):
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_device(FABRIC, attempt)
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_session(FABRIC, attempt)
    with pytest.raises(Conflict, match="closed for ever"):
        await issuer.generations.open(FABRIC, opening(1))
    assert not await issuer.generations.is_open(SPIFFE.tenant, NODE, 1)
    assert await issuer.generations.is_open(SPIFFE.tenant, NODE, 2)


async def test_closing_covers_generations_that_were_never_opened(issuer: Issuer) -> None:
    assert await issuer.generations.close_up_to(FABRIC, closing(5)) == 0
    assert await issuer.generations.close_up_to(FABRIC, closing(3)) == 0
    for generation in (3, 5):
        with pytest.raises(Conflict):
            await issuer.generations.open(FABRIC, opening(generation))
    await issuer.generations.open(FABRIC, opening(6))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.open(FABRIC, opening(7, OTHER_TENANT))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.close_up_to(FABRIC, closing(7, OTHER_TENANT))


async def test_a_generation_closed_alone_leaves_the_one_before_it(issuer: Issuer) -> None:
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
        await issuer.issuing.issue_device(FABRIC, ask(new_key(), generation=generation, request=f"r{generation}"))
    for _ in range(2):
        assert await issuer.generations.close_one(FABRIC, closing_one(2)) == 1
    assert await issuer.generations.close_one(FABRIC, closing_one(3)) == 0
    assert [row["state"] for row in await issuer.node_rows()] == ["issued", "revoked"]
    assert await issuer.generations.is_open(SPIFFE.tenant, NODE, 1)
    for closed in (2, 3):
        assert not await issuer.generations.is_open(SPIFFE.tenant, NODE, closed)
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_session(FABRIC, ask(new_key(), generation=closed, request=f"s{closed}"))
        with pytest.raises(Conflict, match="closed for ever"):
            await issuer.generations.open(FABRIC, opening(closed))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.close_one(FABRIC, closing_one(1, OTHER_TENANT))
    actions = [(row["action"], row["generation"]) for row in await issuer.audit()]
    assert actions.count(("generation.close_one", 2)) == 1


async def test_opening_and_closing_are_audited_once(issuer: Issuer) -> None:
    for _ in range(2):
        await issuer.generations.open(FABRIC, opening())
    for _ in range(2):
        await issuer.generations.close_up_to(FABRIC, closing())
    rows = await issuer.audit()
    assert [(r["action"], r["caller"], r["node"], r["generation"], r["at"]) for r in rows] == [
        ("generation.open", FABRIC, NODE, 1, START),
        ("generation.close", FABRIC, NODE, 1, START),
    ]


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


async def test_issue_and_close_raced_a_hundred_times(issuer: Issuer) -> None:
    """Whoever comes first: after the close no device certificate of the generation is unrevoked."""
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
    """Another process starts (and orphans) while this one is between record and signature."""

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


async def test_renewal_keeps_key_and_length(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    key = new_key()
    first = load((await issuer.issuing.issue_device(FABRIC, ask(key))).certificate_chain[0])
    issuer.clock.forward(timedelta(days=60))
    renewal = (make_csr(key), "n1")
    answer = await issuer.issuing.renew_device(SPIFFE, 1, *renewal)
    second = load(answer.certificate_chain[0])
    assert second.public_key() == first.public_key()
    assert second.serial_number != first.serial_number
    life = first.not_valid_after_utc - first.not_valid_before_utc
    assert second.not_valid_after_utc - second.not_valid_before_utc == life
    assert await issuer.issuing.renew_device(SPIFFE, 1, *renewal) == answer


async def test_renewal_refuses_another_key_and_a_generation_without_certificate(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    with pytest.raises(NotAdmitted):
        await issuer.issuing.renew_device(SPIFFE, 1, make_csr(new_key()), "n1")
    key = new_key()
    await issuer.issuing.issue_device(FABRIC, ask(key))
    with pytest.raises(CsrRefused, match="not the key of this generation"):
        await issuer.issuing.renew_device(SPIFFE, 1, make_csr(new_key()), "n1")
    await issuer.generations.close_up_to(FABRIC, closing())
    with pytest.raises(NotAdmitted):
        await issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), "n1")


async def test_a_generation_renews_so_often_and_no_more(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.breakwater.issuance.issuing.RENEWALS_MAX", 3)
    key = new_key()
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(key))
    asked = [issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), f"n{number}") for number in range(6)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(error) for error in refused] == [RenewedTooOften] * 3
    made = next(number for number, answer in enumerate(answers) if not isinstance(answer, BaseException))
    assert await issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), f"n{made}") == answers[made]
    other = new_key()
    await issuer.issuing.issue_device(FABRIC, ask(other, request="g2", generation=2))
    await issuer.issuing.renew_device(SPIFFE, 2, make_csr(other), "another-generation")
    issuer.clock.forward(RENEWALS_WINDOW)
    await issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), "an-hour-later")


async def test_the_key_of_the_newest_device_certificate_renews_not_that_of_the_longest(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    older, newer = new_key(), new_key()
    await issuer.issuing.issue_device(FABRIC, ask(older, request="a"))
    issuer.clock.forward(timedelta(seconds=1))
    await issuer.issuing.issue_device(FABRIC, ask(newer, request="b", not_after=START + timedelta(days=30)))
    with pytest.raises(CsrRefused):
        await issuer.issuing.renew_device(SPIFFE, 1, make_csr(older), "c")
    await issuer.issuing.renew_device(SPIFFE, 1, make_csr(newer), "d")


async def test_a_responder_whose_key_is_away_leaves_no_record(issuer: Issuer) -> None:
    before = len(await issuer.records())
    issuer.signer.remove("nodes-1")
    with pytest.raises(SignerUnavailable):
        await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    assert len(await issuer.records()) == before


async def test_two_callers_may_use_the_same_request_id(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    key = new_key()
    await issuer.issuing.issue_device(FABRIC, ask(key, request="same"))
    await issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), "same")
    await issuer.issuing.issue_service("fabric", make_csr(new_key()), "other", FABRIC)
    assert len(await issuer.node_rows()) == 2


async def test_a_service_gets_its_recorded_names_only(issuer: Issuer) -> None:
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), "x", FABRIC)
    leaf = load(issued.certificate_chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    with pytest.raises(NotAdmitted, match="ledger"):
        await issuer.issuing.issue_service("ledger", make_csr(new_key()), "x", "service/ledger")


BAD_VALUES = {
    "no such tenant id": lambda: ask(new_key(), tenant=OTHER_TENANT[:-1]),  # type: ignore[arg-type]
    "generation 0": lambda: ask(new_key(), generation=0),
    "generation of ten digits": lambda: ask(new_key(), generation=10**9),
    "naive end": lambda: ask(new_key(), not_after=datetime(2027, 1, 1)),  # noqa: DTZ001  the naive time is the test
    "end in the past": lambda: ask(new_key(), not_after=START),
    "end out of the calendar": lambda: ask(
        new_key(), not_after=datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    ),
    "empty request id": lambda: ask(new_key(), request=""),
    "odd request id": lambda: ask(new_key(), request="a b"),
    "long request id": lambda: ask(new_key(), request="a" * 129),
}


@pytest.mark.parametrize("name", BAD_VALUES)
async def test_bad_values_change_nothing(issuer: Issuer, name: str) -> None:
    await issuer.generations.open(FABRIC, opening())
    with pytest.raises(ValueRefused):
        await issuer.issuing.issue_device(FABRIC, BAD_VALUES[name]())
    assert await issuer.node_rows() == []


async def test_another_time_zone_is_the_same_time(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    end = START + timedelta(days=3)
    body: IssueNodeCertificate = ask(new_key(), not_after=end.astimezone(timezone(timedelta(hours=9))))
    leaf = load((await issuer.issuing.issue_device(FABRIC, body)).certificate_chain[0])
    assert leaf.not_valid_after_utc == end.astimezone(UTC)


async def test_ready(issuer: Issuer) -> None:
    await issuer.issuing.ready()
    assert not await issuer.generations.is_open(SPIFFE.tenant, NodeId(NODE), 9)
