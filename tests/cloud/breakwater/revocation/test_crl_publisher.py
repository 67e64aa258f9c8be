"""`cloud.breakwater.revocation.crl_publisher`: revocations appear at once, and CRL numbers only grow."""

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.errors import SignerError, SignerUnavailable
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.revocation.crl_publisher import RETRY_SECONDS, CrlPublisher
from cloud.breakwater.revocation.crl_shards import distribution
from cloud.breakwater.store.shards import PublishedCrl
from cloud.storage import Location, ServiceEngine, Statement
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from tests.cloud.breakwater.revoking import (
    SCHEDULE,
    SPIFFE,
    Bench,
    Clock,
    Hierarchy,
    bench_at,
    crl_of,
    new_public_key,
    number_of,
    pem,
    serial,
    serials_of,
)
from tests.cloud.engines import ENGINES
from tests.fault_hooks import hooked
from tests.waiting import until

SHARD = "nodes-1.1"
DER, PEM = Encoding.DER, Encoding.PEM
_SHARD = Statement("SELECT * FROM shard WHERE id = {id}")
_PUT_BACK = Statement("UPDATE shard SET crl_number = 5, published_number = 0, published_revision = -1 WHERE id = {id}")
_NO_CRLS = Statement("DELETE FROM crl WHERE shard = {shard}")


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return Hierarchy(Clock().at)


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


@pytest.fixture
async def bench(location: Location, hierarchy: Hierarchy) -> AsyncIterator[Bench]:
    async with bench_at(location, hierarchy, Clock()) as made:
        yield made


async def fresh(bench: Bench, publisher: CrlPublisher | None = None, shard: str = SHARD) -> PublishedCrl:
    crl = await (publisher or bench.publisher).ensure_fresh(shard)
    assert crl is not None
    return crl


async def test_an_empty_shard_has_a_list_from_its_first_place_on(bench: Bench) -> None:
    await bench.places.take("nodes-1")
    assert await bench.publisher.run_once() == 1
    found = await bench.shards.find(SHARD)
    assert found is not None
    crl = await bench.shards.published(found)
    assert crl is not None
    assert (crl.entries, serials_of(crl.data)) == (0, set())
    assert number_of(crl.data) == crl.number >= int(bench.clock().timestamp())
    assert await bench.publisher.run_once() == 0


async def test_an_unknown_shard_has_none(bench: Bench) -> None:
    assert await bench.publisher.ensure_fresh("nodes-1.9") is None
    assert await bench.publisher.publish("nodes-1.9") is None


async def test_revocations_before_a_request_are_in_the_answer(bench: Bench) -> None:
    certificates = [await bench.issue() for _ in range(3)]
    first = await fresh(bench)
    assert await fresh(bench) == first
    await bench.revoke(certificates[0].serial_number, 1)
    second = await fresh(bench)
    await bench.revoke(certificates[1].serial_number, state="orphaned", reason=0)
    third = await fresh(bench)
    assert [serials_of(crl.data) for crl in (first, second, third)] == [
        set(),
        {certificates[0].serial_number},
        {certificates[0].serial_number, certificates[1].serial_number},
    ]
    assert first.number < second.number < third.number


async def test_shards_are_apart(bench: Bench) -> None:
    node, service = await bench.issue(), await bench.issue("services-1")
    await bench.revoke(service.serial_number)
    assert serials_of((await fresh(bench)).data) == set()
    assert serials_of((await fresh(bench, shard="services-1.1")).data) == {service.serial_number}
    assert node.serial_number != service.serial_number


async def test_it_is_made_again_on_schedule(bench: Bench) -> None:
    await bench.issue()
    first = await fresh(bench)
    schedule = SCHEDULE
    assert first.next_update - first.this_update == schedule.life
    bench.clock.forward(schedule.period - timedelta(seconds=1))
    assert await bench.publisher.run_once() == 0
    bench.clock.forward(timedelta(seconds=1))
    assert await bench.publisher.run_once() == 1
    second = await fresh(bench)
    assert second.this_update == first.this_update + schedule.period
    assert second.number > first.number


async def test_an_expired_certificate_leaves_after_one_more_list(bench: Bench) -> None:
    short, long = await bench.issue(life=timedelta(hours=1)), await bench.issue()
    for certificate in (short, long):
        await bench.revoke(certificate.serial_number)
    both = {short.serial_number, long.serial_number}
    assert serials_of((await fresh(bench)).data) == both
    bench.clock.forward(timedelta(hours=9))
    assert serials_of((await fresh(bench)).data) == both
    bench.clock.forward(timedelta(hours=9))
    assert serials_of((await fresh(bench)).data) == {long.serial_number}


async def test_a_certificate_revoked_after_its_end_is_in_one_list(bench: Bench) -> None:
    certificate = await bench.issue(life=timedelta(hours=1))
    await fresh(bench)
    bench.clock.forward(timedelta(hours=9))
    await fresh(bench)
    bench.clock.forward(timedelta(seconds=5))
    await bench.revoke(certificate.serial_number)
    assert serials_of((await fresh(bench)).data) == {certificate.serial_number}


async def test_numbers_grow_over_a_restored_database(bench: Bench) -> None:
    certificate = await bench.issue()
    await bench.revoke(certificate.serial_number)
    before = await fresh(bench)
    bench.clock.forward(timedelta(seconds=10))
    await bench.engine.fetch(_PUT_BACK, id=SHARD)
    await bench.engine.fetch(_NO_CRLS, shard=SHARD)
    after = await fresh(bench)
    assert after.number > before.number
    assert serials_of(after.data) == {certificate.serial_number}


async def test_numbers_grow_while_the_clock_stops_or_goes_back(bench: Bench) -> None:
    await bench.issue()
    numbers = []
    for _ in range(4):
        crl = await bench.publisher.publish(SHARD)
        assert crl is not None
        numbers.append(crl.number)
        bench.clock.forward(timedelta(hours=-1))
    assert numbers == sorted(set(numbers))


async def test_a_clock_that_ran_ahead_hides_no_revocation_and_stops_no_schedule(bench: Bench) -> None:
    """A CRL of a fast clock begins in the future. The next CRL must still contain every unexpired certificate."""
    certificate = await bench.issue(life=timedelta(days=7))
    await bench.revoke(certificate.serial_number)
    start = bench.clock.at
    bench.clock.forward(timedelta(days=60))
    ahead = await fresh(bench)
    bench.clock.at = start
    assert await bench.publisher.run_once() == 1
    present = await fresh(bench)
    assert present.number > ahead.number
    assert (present.this_update, serials_of(present.data)) == (start, {certificate.serial_number})
    assert await bench.publisher.run_once() == 0


async def test_three_lists_are_kept(bench: Bench) -> None:
    await bench.issue()
    made = [await bench.publisher.publish(SHARD) for _ in range(5)]
    assert await bench.shards.kept(SHARD) == made[:1:-1]


async def test_replicas_that_race_publish_growing_numbers_and_lose_nothing(bench: Bench) -> None:
    replicas = [bench.another_publisher() for _ in range(3)]
    certificates = [await bench.issue() for _ in range(6)]
    seen: list[PublishedCrl] = []

    async def revoke_and_look(certificate: int, publisher: CrlPublisher) -> None:
        await bench.revoke(certificate)
        crl = await fresh(bench, publisher)
        assert certificate in serials_of(crl.data)
        seen.append(crl)

    await asyncio.gather(*(revoke_and_look(each.serial_number, replicas[n % 3]) for n, each in enumerate(certificates)))
    last = await fresh(bench)
    assert serials_of(last.data) == {each.serial_number for each in certificates}
    by_number = {crl.number: crl for crl in seen}
    assert all(by_number[crl.number].data == crl.data for crl in seen)
    ordered = [serials_of(by_number[number].data) for number in sorted(by_number)]
    assert all(one <= other for one, other in pairwise(ordered))


async def test_an_older_list_never_replaces_a_newer_one(bench: Bench) -> None:
    await bench.issue()
    older = await bench.shards.draw(SHARD, bench.clock(), 5000)
    newer = await bench.publisher.publish(SHARD)
    assert older is not None
    assert newer is not None
    late = msgspec.structs.replace(newer, number=older.number)
    assert not await bench.shards.publish(late, older.revision, bench.clock())
    assert not await bench.shards.publish(newer, older.revision, bench.clock())
    assert await fresh(bench) == newer


async def test_without_the_key_the_last_list_is_served(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    certificate = await bench.issue()
    first = await fresh(bench)
    await bench.revoke(certificate.serial_number)
    bench.signer.error = SignerUnavailable("the token is not available")
    asked = bench.signer.asked
    with caplog.at_level(logging.ERROR):
        assert await fresh(bench) == first
        assert await fresh(bench) == first
        assert await bench.publisher.run_once() == 0
    assert bench.signer.asked == asked + 1
    assert "cannot publish a CRL" in caplog.text
    bench.signer.error = None
    other = bench.another_publisher()
    assert serials_of((await fresh(bench, other)).data) == {certificate.serial_number}


async def test_it_is_tried_again_when_the_key_is_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.breakwater.revocation.crl_publisher.RETRY_SECONDS", RETRY_SECONDS / 100)
    await bench.issue()
    bench.signer.error = SignerUnavailable("the token is not available")
    stopping = Stopping()
    task = asyncio.create_task(bench.publisher.run(stopping))

    def asked_twice() -> bool:
        bench.publisher.wake()
        return bench.signer.asked >= 2

    await until("the second try", asked_twice)
    bench.signer.error = None
    await until_published(bench)
    stopping.request()
    await task


async def until_published(bench: Bench) -> PublishedCrl:
    async def published() -> PublishedCrl | None:
        found = await bench.shards.find(SHARD)
        if found is None or found.revision != found.published_revision:
            return None
        crl = await bench.shards.published(found)
        assert crl is not None
        return crl

    crl: PublishedCrl = await until("the publication", published)
    return crl


async def test_without_any_list_the_failure_is_raised(bench: Bench) -> None:
    await bench.issue()
    bench.signer.error = SignerUnavailable("the token is not available")
    for _ in range(2):
        with pytest.raises(SignerError):
            await bench.publisher.ensure_fresh(SHARD)


async def test_a_revoked_authority_publishes_no_more(bench: Bench, hierarchy: Hierarchy) -> None:
    await bench.issue()
    add = Statement(
        "INSERT INTO authority (id, ca, number, state, certificate, key, changed_at, reason) "
        "VALUES ('nodes-1', 'nodes', 1, 'revoked', {certificate}, '', {changed_at}, '')"
    )
    first = await fresh(bench)
    certificate = hierarchy.issuers["nodes-1"].certificate_der
    await bench.engine.fetch(add, certificate=certificate, changed_at=bench.clock())
    bench.clock.forward(timedelta(days=2))
    assert await bench.publisher.run_once() == 0
    asked = bench.signer.asked
    assert await fresh(bench) == first
    assert bench.signer.asked == asked


async def test_a_revocation_by_another_process_is_published_by_itself(bench: Bench, location: Location) -> None:
    certificate = await bench.issue()
    stopping = Stopping()
    task = asyncio.create_task(bench.publisher.run(stopping))
    await until_published(bench)
    elsewhere = ServiceEngine("breakwater")
    elsewhere.configure(location)
    await elsewhere.open()
    try:
        begun = asyncio.get_running_loop().time()
        await Bench(elsewhere, bench.hierarchy, bench.clock).revoke(certificate.serial_number)
        crl = await until_published(bench)
        assert asyncio.get_running_loop().time() - begun < 1
    finally:
        await elsewhere.close()
    assert serials_of(crl.data) == {certificate.serial_number}
    stopping.request()
    async with asyncio.timeout(1):
        await task


class Crash(BaseException):
    """Simulates the end of the process."""


@pytest.mark.parametrize("point", ["breakwater.crl.draw", "breakwater.crl.store"])
@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_crash_at_any_point_leaves_numbers_growing(bench: Bench, point: str, stage: str) -> None:
    certificate = await bench.issue()
    first = await fresh(bench)
    await bench.revoke(certificate.serial_number)

    def hook(name: str, at: str) -> None:
        if (name, at) == (point, stage):
            raise Crash

    with hooked(hook), pytest.raises(Crash):
        await bench.publisher.publish(SHARD)
    kept = await bench.shards.kept(SHARD)
    assert [crl.number for crl in kept] == sorted({crl.number for crl in kept}, reverse=True)
    after = await fresh(bench, bench.another_publisher())
    assert after.number > first.number
    assert serials_of(after.data) == {certificate.serial_number}
    row = await bench.engine.fetch_one(_SHARD, id=SHARD)
    assert row is not None
    assert row["published_number"] == after.number <= row["crl_number"]


async def test_openssl_accepts_every_shard(bench: Bench, hierarchy: Hierarchy, tmp_path: Path) -> None:
    bundle = hierarchy.bundle(tmp_path)
    good, bad = await bench.issue(), await bench.issue()
    service = await bench.issue("services-1")
    for certificate in (bad, service):
        await bench.revoke(certificate.serial_number, 1)
    for each in await bench.publisher.shards():
        crl = await fresh(bench, shard=each.id)
        (tmp_path / f"{each.id}.crl").write_bytes(crl.data)
        checked = openssl("crl", "-inform", "DER", "-in", f"{tmp_path}/{each.id}.crl", "-CAfile", str(bundle), "-noout")
        assert (checked.returncode, "verify OK" in checked.stderr) == (0, True), checked.stderr
    for certificate, shard, verdict in ((good, SHARD, 0), (bad, SHARD, 2), (service, "services-1.1", 2)):
        path = tmp_path / "leaf.pem"
        path.write_bytes(pem(certificate.public_bytes(DER)))
        list_pem = tmp_path / "list.pem"
        list_pem.write_bytes(crl_of((tmp_path / f"{shard}.crl").read_bytes()).public_bytes(PEM))
        checked = openssl(
            "verify", "-crl_check", "-extended_crl", "-CAfile", str(bundle), "-CRLfile", str(list_pem), str(path)
        )
        assert checked.returncode == verdict, checked.stderr
        assert ("certificate revoked" in checked.stderr) == bool(verdict)


async def test_the_list_of_another_shard_says_nothing_to_openssl(
    bench: Bench, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    await bench.issue()
    place = "nodes-1.2"
    key = describe_key(new_public_key())
    where = distribution(bench.base_url, "nodes-1", place)
    issuer = hierarchy.issuers["nodes-1"]
    end = bench.clock() + timedelta(days=9)
    wanted = profiles.want_device(SPIFFE, 1, key, serial(), bench.clock(), end, issuer, where)
    leaf = await bench.sign(wanted, issuer)
    (tmp_path / "leaf.pem").write_bytes(pem(leaf))
    (tmp_path / "list.pem").write_bytes(crl_of((await fresh(bench)).data).public_bytes(PEM))
    arguments = ("-CAfile", str(hierarchy.bundle(tmp_path)), "-CRLfile", str(tmp_path / "list.pem"))
    checked = openssl("verify", "-crl_check", *arguments, str(tmp_path / "leaf.pem"))
    assert (checked.returncode, "different CRL scope" in checked.stderr) == (2, True), checked.stderr


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=20)
