"""The issuer walk: Breakwater is killed at every durable write of issuance, renewal, revocation and CRL publication.

The modes are SQLite, PostgreSQL, and two replicas on one PostgreSQL. With two replicas, one is killed and the other
answers the retry.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.contracts.breakwater import PATH_DEVICE
from lab.cloud import Cloud
from lab.postgres import postgres_copy
from lab.processes import wait_until
from protocol.messages.est import PATH_SIMPLEREENROLL, decode_certs_only, encode_base64
from tests.system.support.fault_points import points_in_code
from tests.system.support.harness import Plan
from tests.system.support.issuer_walk.checks import check, serials_of
from tests.system.support.issuer_walk.scenarios import (
    MODES,
    SCENARIOS,
    Group,
    all_groups,
    kept_groups,
    walk_group,
)
from tests.system.support.issuer_walk.site import Interrupted, Mode, Site
from tests.system.support.wire import Identity

GROUP_SECONDS = 1.5


def begin(mode: Mode, directory: Path, installation: Cloud) -> Site:
    """A copy of the installation and its database, with no process. Only the main thread may start PostgreSQL."""
    if mode == "sqlite":
        return Site(mode, directory, installation, None)
    made = installation.directory / "breakwater" / "database.sqlite"
    return Site(mode, directory, installation, postgres_copy("breakwater", made))


def test_every_fault_point_of_the_issuer_has_a_scenario() -> None:
    assert {point for each in SCENARIOS for point in each.points} == set(points_in_code("breakwater"))


def test_each_fault_point_of_the_issuer_is_walked_here_and_by_the_drill() -> None:
    kept = [case for group in kept_groups() for case in group.cases]
    assert {case.point for case in kept} == set(points_in_code("breakwater"))
    assert {case.mode for case in kept} == set(MODES)
    everything = {(case.mode, case.scenario.name, case.point, case.stage) for g in all_groups() for case in g.cases}
    assert everything == {
        (mode, scenario.name, point, stage)
        for scenario in SCENARIOS
        for mode in MODES
        for point in scenario.points
        for stage in ("before", "after")
        if mode != "two replicas" or scenario.dies == "server"
    }


@pytest.mark.parametrize(
    "group", [pytest.param(group, id=str(group), marks=pytest.mark.long(GROUP_SECONDS)) for group in kept_groups()]
)
def test_a_kill_at_a_fault_point_is_survived(group: Group, tmp_path: Path, installation: Cloud) -> None:
    taken = walk_group(begin(group.mode, tmp_path / "site", installation), group)
    assert set(taken) == set(group.cases)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_certificate_that_is_closed_during_signing_is_not_returned(
    mode: Mode, tmp_path: Path, installation: Cloud
) -> None:
    """The client gets no certificate when its generation or service is closed between signature and storing.

    The test does this for an issuance and a renewal by a node, and for a renewal by a service.
    """
    site = begin(mode, tmp_path / "site", installation)
    try:
        site.there_before = frozenset(serials_of(site))
        for replica in site.replicas:
            replica.up(Plan(control=str(replica.control), patient=True))
            site.warm(replica)
        elsewhere = site.b or site.a
        first, second, third = (site.tag() for _ in range(3))

        site.open(site.a, first)
        with held(site, lambda: site.device(site.a, first)):
            site.close(elsewhere, first)
        site.tell(site.a, PATH_DEVICE, site.order(first, "device", 1)).refused("generation_closed")

        site.open(site.a, second)
        site.device(site.a, second)
        session = site.session(site.a, second)
        csr = site.csr(f"{second}.device")
        with held(site, lambda: site.reenroll(site.a, f"{second}.renewed", csr, session)):
            site.close(elsewhere, second, "device", one=True)
        refused = site.ask(site.a, "POST", PATH_SIMPLEREENROLL, encode_base64(csr), identity=session)
        refused.refused("generation_closed")

        secret = site.secret(third)
        answer = site.enroll(site.a, site.csr(f"{third}.ledger"), "ledger", secret)
        leaf = site.memory.receive(f"{third}.ledger", decode_certs_only(answer.body)[0])
        ledger = Identity(site.key(f"{third}.ledger"), (leaf, *services_ca(site)))
        next_csr = site.csr(f"{third}.next")
        with held(site, lambda: site.reenroll(site.a, f"{third}.next", next_csr, ledger)):
            site.pki("revoke", "--service", "ledger", "--reason", "keyCompromise")
            site.memory.revoke(f"{third}.ledger")
        site.ask(site.a, "POST", PATH_SIMPLEREENROLL, encode_base64(next_csr), identity=ledger).refused("peer_refused")

        for replica in site.replicas:
            check(site, replica)
        assert not {f"{first}.device", f"{second}.renewed", f"{third}.next"} & set(site.memory.certificates)
    finally:
        site.end()


@contextmanager
def held(site: Site, ask: Callable[[], object]) -> Iterator[None]:
    """Ask the first replica, and hold its signed certificate during the block. Asserts that the client is refused."""
    control = site.a.control
    (control / "held").unlink(missing_ok=True)
    (control / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            wait_until("a signature", (control / "held").exists)
            yield
        finally:
            (control / "hold").unlink()
        with pytest.raises(Interrupted, match="unavailable"):
            asked.result()


def services_ca(site: Site) -> tuple[bytes, ...]:
    pem = (site.a.directory / "breakwater" / "certs" / "services-ca.pem").read_bytes()
    return (x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER),)
