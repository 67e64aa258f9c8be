"""`cloud.breakwater.issuance.enrolment`: one use of each secret; all wrong secrets get the same, counted refusal."""

import asyncio
import os
from datetime import timedelta

import pytest

from cloud.breakwater.errors import EnrolmentRefused, TriedTooOften, ValueRefused
from cloud.breakwater.issuance.enrolment import (
    FAILURES_PER_SOURCE,
    FAILURES_WHOLE,
    LIFE_MAX,
    USES_PER_SECRET,
    Attempts,
    Enrolments,
    caller_of,
)
from cloud.breakwater.store.enrolments import EnrolmentStore
from protocol.codes import parse_secret, secret_hash
from tests.cloud.breakwater.support import START, Issuer

HOUR = timedelta(hours=1)
CSR = "a" * 64
OTHER_CSR = "b" * 64
HOST = "192.0.2.1"


def enrolments(issuer: Issuer) -> Enrolments:
    return Enrolments(EnrolmentStore(issuer.engine), issuer.parts.entries, issuer.clock, os.urandom)


async def redeemed(it: Enrolments, secret: str, csr: str = CSR, service: str = "fabric", host: str = HOST) -> str:
    row = await it.judge(service, secret, csr, host)
    await it.bind(row, csr, host)
    return row.id


async def test_a_secret_is_good_for_one_request_and_its_repeats(issuer: Issuer) -> None:
    it = enrolments(issuer)
    secret = await it.create("fabric", "operator/alice", HOUR)
    assert parse_secret("ces", secret) == secret
    (row,) = await it.list()
    assert (row.service, row.created_by, row.used_at, row.csr_sha256) == ("fabric", "operator/alice", None, "")
    assert row.secret_hash == secret_hash(secret)
    assert secret not in repr(row)
    assert await redeemed(it, secret) == await redeemed(it, secret) == row.id
    assert await redeemed(it, f" {secret.upper()}\n") == row.id
    with pytest.raises(EnrolmentRefused):
        await it.judge("fabric", secret, OTHER_CSR, HOST)
    (row,) = await it.list()
    assert (row.used_at, row.csr_sha256) == (START, CSR)


async def test_every_wrong_secret_is_refused_alike_and_audited(issuer: Issuer) -> None:
    it = enrolments(issuer)
    secret = await it.create("fabric", "operator", HOUR)
    used, over, ended = [await it.create("fabric", "operator", life) for life in (HOUR, timedelta(minutes=1), HOUR)]
    await redeemed(it, used, OTHER_CSR)
    (identifier,) = [row.id for row in await it.list() if row.secret_hash == secret_hash(ended)]
    assert await it.revoke(identifier, "operator/bob")
    assert not await it.revoke(identifier, "operator/bob")
    assert not await it.revoke("enr_unknown", "operator/bob")
    issuer.clock.forward(timedelta(minutes=1))
    other = await enrolments(issuer).create("breakwater", "operator", HOUR)
    cases = {
        "no secret": ("fabric", ""),
        "not a secret": ("fabric", "swordfish"),
        "a byte changed": ("fabric", secret[:-1] + ("0" if secret[-1] != "0" else "1")),
        "unknown": ("fabric", "ces_" + secret_hash("x")[:38]),
        "another service's": ("fabric", other),
        "another service": ("breakwater", secret),
        "no service": ("", secret),
        "an odd service": ("fabric\x00é", secret),
    }
    messages = set()
    for number, (service, shown) in enumerate(cases.values()):
        with pytest.raises(EnrolmentRefused) as caught:
            await it.judge(service, shown, CSR, f"192.0.2.{number}")
        messages.add(str(caught.value))
    for number, shown in enumerate((used, over, ended)):
        with pytest.raises(EnrolmentRefused) as caught:
            await it.judge("fabric", shown, CSR, f"198.51.100.{number}")
        messages.add(str(caught.value))
    assert len(messages) == 1
    refused = [row for row in await issuer.audit() if row["outcome"] == "refused"]
    assert len(refused) == len(cases) + 3
    assert {row["action"] for row in refused} == {"enrolment.use"}
    assert {row["object"] for row in refused} == {"service/fabric", "service/breakwater", "service/(unknown)"}
    assert secret not in repr(await issuer.audit())
    assert await redeemed(it, secret)


async def test_a_source_that_fails_too_often_waits(issuer: Issuer) -> None:
    it = enrolments(issuer)
    secret = await it.create("fabric", "operator", HOUR)
    for _ in range(FAILURES_PER_SOURCE.burst):
        with pytest.raises(EnrolmentRefused):
            await it.judge("fabric", "wrong", CSR, HOST)
    with pytest.raises(TriedTooOften) as caught:
        await it.judge("fabric", "wrong", CSR, HOST)
    assert caught.value.wait == timedelta(seconds=FAILURES_PER_SOURCE.seconds)
    refused = [row for row in await issuer.audit() if row["outcome"] == "refused"]
    assert len(refused) == FAILURES_PER_SOURCE.burst
    # The failures of others never stop a right secret, not even one from the same address.
    await it.judge("fabric", secret, CSR, HOST)
    issuer.clock.forward(timedelta(seconds=FAILURES_PER_SOURCE.seconds))
    with pytest.raises(EnrolmentRefused):
        await it.judge("fabric", "wrong", CSR, HOST)


@pytest.mark.parametrize(
    ("service", "life"),
    [("other", HOUR), ("", HOUR), ("fabric", timedelta(0)), ("fabric", LIFE_MAX + HOUR), ("fabric", -HOUR)],
)
async def test_secrets_are_for_services_and_for_days(issuer: Issuer, service: str, life: timedelta) -> None:
    with pytest.raises(ValueRefused):
        await enrolments(issuer).create(service, "operator", life)
    assert await enrolments(issuer).list() == ()


def test_failures_of_many_sources_leave_a_bounded_number_of_rows() -> None:
    it = Attempts()
    counted = sum(it.failed(f"source{number}", START) == timedelta(0) for number in range(3000))
    assert counted == FAILURES_WHOLE.burst
    assert it.failed("another", START + HOUR) == timedelta(0)
    assert FAILURES_WHOLE.within(86_400) < 10_000


async def test_of_two_requests_at_once_one_is_bound(issuer: Issuer) -> None:
    it = enrolments(issuer)
    secret = await it.create("fabric", "operator", HOUR)
    rows = [await it.judge("fabric", secret, csr, HOST) for csr in (CSR, OTHER_CSR)]
    tries = [it.bind(row, csr, HOST) for row, csr in zip(rows, (CSR, OTHER_CSR), strict=True)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["EnrolmentRefused", "NoneType"]
    assert [row.csr_sha256 for row in await it.list()] == [CSR if outcomes[0] is None else OTHER_CSR]


async def test_a_refused_request_gives_the_secret_free_but_never_after_a_record(issuer: Issuer) -> None:
    it = enrolments(issuer)
    secret = await it.create("fabric", "operator", HOUR)
    row = await it.judge("fabric", secret, CSR, HOST)
    await it.bind(row, CSR, HOST)
    await it.give_back(row, OTHER_CSR)
    with pytest.raises(EnrolmentRefused):
        await it.judge("fabric", secret, OTHER_CSR, HOST)
    await it.give_back(row, CSR)
    assert await redeemed(it, secret, OTHER_CSR) == row.id
    assert caller_of(row.id) == f"enrolment/{row.id}"


async def test_a_secret_that_is_used_again_and_again_waits_and_stops_no_other(issuer: Issuer) -> None:
    """The hostile holder of a secret sends requests that are refused, from many addresses."""
    it = enrolments(issuer)
    leaked, other = [await it.create("fabric", "operator", LIFE_MAX) for _ in range(2)]
    used, waits = 0, set()
    for number in range(100):
        host, csr = f"198.51.100.{number}", f"{number:064x}"
        try:
            row = await it.judge("fabric", leaked, csr, host)
        except TriedTooOften as error:
            waits.add((str(error), error.wait))
            continue
        used += 1
        await it.bind(row, csr, host)
        await it.give_back(row, csr)
    assert (used, waits) == (
        USES_PER_SECRET.burst,
        {("this secret was used too often; try again later", timedelta(seconds=USES_PER_SECRET.seconds))},
    )
    await redeemed(it, other)
    issuer.clock.forward(timedelta(seconds=USES_PER_SECRET.seconds))
    await redeemed(it, leaked)
    assert len(await issuer.audit()) < 2 * USES_PER_SECRET.burst + 10
