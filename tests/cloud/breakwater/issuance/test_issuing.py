"""`cloud.breakwater.issuance.issuing`: who gets which certificate, repeats, renewals, and refusals."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from cloud.breakwater.errors import (
    AuthorityNotCurrent,
    Conflict,
    CsrRefused,
    GenerationClosed,
    NotAdmitted,
    RenewedTooOften,
    SignerUnavailable,
    ValueRefused,
)
from cloud.breakwater.issuance.issuing import RENEWALS_WINDOW
from cloud.breakwater.pkix.profiles import ISSUING_LIFE, PROFILE_VERSION
from cloud.contracts.breakwater import IssueNodeCertificate, RevocationReason
from cloud.crypto.validity import is_current
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from protocol.ids import NodeId
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    OTHER_TENANT,
    PKI_URL,
    SPIFFE,
    START,
    Clock,
    Issuer,
    ask,
    closing,
    issuer_at,
    load,
    new_key,
    opening,
)


async def test_a_repeat_gets_the_stored_certificate(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    asked = ask(new_key())
    first = await issuer.issuing.issue_device(FABRIC, asked)
    issuer.clock.forward(timedelta(hours=1))
    assert await issuer.issuing.issue_device(FABRIC, asked) == first
    assert len(await issuer.node_rows()) == 1


async def test_only_open_generations_are_issued_for(issuer: Issuer) -> None:
    with pytest.raises(GenerationClosed):
        await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    await issuer.generations.open(FABRIC, opening())
    for wrong in (ask(new_key(), generation=2), ask(new_key(), tenant=OTHER_TENANT)):
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_device(FABRIC, wrong)
    assert await issuer.node_rows() == []


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


async def test_a_responder_without_a_ca_key_leaves_no_record(issuer: Issuer) -> None:
    before = len(await issuer.records())
    issuer.signer.remove("nodes-1")
    with pytest.raises(SignerUnavailable):
        await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    assert len(await issuer.records()) == before


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


async def test_a_key_of_another_generation_or_node_is_refused(issuer: Issuer) -> None:
    key = new_key()
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(key))
    await issuer.issuing.issue_device(FABRIC, ask(key, request="again"))
    for issue in (issuer.issuing.issue_device, issuer.issuing.issue_session):
        with pytest.raises(CsrRefused, match="was used for another"):
            await issue(FABRIC, ask(key, request="other", generation=2))
    with pytest.raises(CsrRefused, match="was used for another"):
        await issuer.issuing.issue_service("fabric", make_csr(key), "s", FABRIC)
    assert len(await issuer.node_rows()) == 2


REUSE: dict[RevocationReason, bool] = {"superseded": True, "keyCompromise": False, "unspecified": False}


@pytest.mark.parametrize("reason", REUSE)
async def test_a_revoked_key_is_certified_again_only_if_it_was_superseded(
    issuer: Issuer, reason: RevocationReason
) -> None:
    key = new_key()
    issued = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    await issuer.service_certificates.revoke(FABRIC, load(issued.certificate_chain[0]).serial_number, reason)
    again = issuer.issuing.issue_service("fabric", make_csr(key), "b", FABRIC)
    if REUSE[reason]:
        await again
    else:
        with pytest.raises(CsrRefused, match="revoked"):
            await again
    with pytest.raises(CsrRefused, match="another subject"):
        await issuer.issuing.issue_service("breakwater", make_csr(key), "c", FABRIC)


async def test_the_record_names_authority_shard_and_version(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    device = await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    await issuer.issuing.issue_session(FABRIC, ask(new_key(), request="s"))
    rows = {row["profile"]: row for row in await issuer.node_rows()}
    assert (rows["device"]["authority"], rows["device"]["shard"]) == ("nodes-1", "nodes-1.1")
    assert (rows["session"]["authority"], rows["session"]["shard"]) == ("nodes-1", "")
    assert {row["profile_version"] for row in rows.values()} == {PROFILE_VERSION}
    points = load(device.certificate_chain[0]).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or []] == [f"{PKI_URL}/crl/nodes-1/1.crl"]


async def test_a_request_that_was_on_its_way_when_its_certificate_was_revoked_gets_nothing(issuer: Issuer) -> None:
    """A thief starts requests before the revocation and finishes them afterwards. The guard has admitted them."""
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), "a", FABRIC)
    shown = load(issued.certificate_chain[0]).serial_number
    await issuer.issuing.issue_service("fabric", make_csr(new_key()), "b", FABRIC, shown)
    await issuer.service_certificates.revoke_all("operator/anna", "fabric", "keyCompromise")
    before = len(await issuer.records())
    with pytest.raises(NotAdmitted, match="authenticated the request is revoked"):
        await issuer.issuing.issue_service("fabric", make_csr(new_key()), "c", FABRIC, shown)
    assert len(await issuer.records()) == before


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


async def test_two_callers_may_use_the_same_request_id(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    key = new_key()
    await issuer.issuing.issue_device(FABRIC, ask(key, request="same"))
    await issuer.issuing.renew_device(SPIFFE, 1, make_csr(key), "same")
    await issuer.issuing.issue_service("fabric", make_csr(new_key()), "other", FABRIC)
    assert len(await issuer.node_rows()) == 2


AHEAD = [timedelta(hours=1), timedelta(days=365)]


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_repeat_gets_no_certificate_from_the_future(issuer: Issuer, ahead: timedelta) -> None:
    """The clock was ahead at the first call. Its certificate is of no use until the clock gets there."""
    await issuer.generations.open(FABRIC, opening())
    device, session = ask(new_key(), request="d"), ask(new_key(), request="s")
    later = START + timedelta(days=400)
    device, session = (msgspec.structs.replace(each, not_after=later) for each in (device, session))
    calls: tuple[Callable[[], Awaitable[Certificate]], ...] = (
        partial(issuer.issuing.issue_device, FABRIC, device),
        partial(issuer.issuing.issue_session, FABRIC, session),
        partial(issuer.issuing.issue_service, "fabric", make_csr(new_key()), "r", FABRIC),
    )
    issuer.clock.forward(ahead)
    future = [load((await call()).certificate_chain[0]) for call in calls]
    issuer.clock.forward(-ahead)
    assert all(each.not_valid_before_utc > issuer.clock() for each in future)
    fresh = [load((await call()).certificate_chain[0]) for call in calls]
    assert all(is_current(each, issuer.clock()) for each in fresh)
    assert [load((await call()).certificate_chain[0]) for call in calls] == fresh


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_ca_from_the_future_issues_nothing(home: Path, database: Location, ahead: timedelta) -> None:
    async with issuer_at(home, database, Clock(START - ahead)) as issuer:
        service = issuer.issuing.issue_service("fabric", make_csr(new_key()), "r", FABRIC)
        for call in (issuer.issuing.ready(), service):
            with pytest.raises(AuthorityNotCurrent, match=r"of (nodes|services)-1 is not valid before") as got:
                await call
            assert "cascade init" in got.value.next_step
            assert "cascade pki rotate request" in got.value.next_step
        issuer.clock.forward(ahead)
        await issuer.issuing.ready()
        issuer.clock.forward(ISSUING_LIFE)
        with pytest.raises(AuthorityNotCurrent, match="nodes-1 has expired"):
            await issuer.issuing.ready()
