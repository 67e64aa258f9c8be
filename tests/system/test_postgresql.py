"""An installation on PostgreSQL: init, use, revocation, two Breakwaters on one database, and refused databases."""

import asyncio
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509

from cloud.storage.location import PostgresLocation
from cloud.storage.migrate import applied_ids, known_ids
from lab.cloud import Cloud
from lab.postgres import ROLE, cluster
from lab.processes import ended, free_ports, wait_until
from lab.stranger import Stranger
from lab.tpm import SoftTpm
from tests.simulators.forged_evidence import request
from tests.system.support.harness import forked, new_cloud, new_machine
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of
from tests.system.support.wire import PORTS, Wire, renew_device
from tests.system.test_service_revocation import Pair, settings_of


def address(location: PostgresLocation, user: str = ROLE) -> str:
    return f"postgresql://{user}@/{location.name}?host={location.host}"


def options(breakwater: PostgresLocation, fabric: PostgresLocation) -> tuple[str, ...]:
    return ("--breakwater-database", address(breakwater), "--fabric-database", address(fabric))


@pytest.fixture
def databases() -> Iterator[tuple[PostgresLocation, PostgresLocation]]:
    """Two empty databases: Breakwater's and Fabric's."""
    made = cluster().create(), cluster().create()
    yield made
    for location in made:
        cluster().drop(location)


METRICS_OF_BREAKWATER = 5
"""Offset of the port of Breakwater's metrics."""


def replica_of(cloud: Cloud, directory: Path) -> Cloud:
    """A second Breakwater of the same installation: a copy of the files, with other ports."""
    other = new_cloud(directory).copy_from(cloud)
    other.port = free_ports()
    settings = settings_of(other, "breakwater")
    text = settings.read_text()
    for offset in (PORTS["breakwater"], PORTS["pki"], METRICS_OF_BREAKWATER):
        here, there = cloud.port + offset, other.port + offset
        text = text.replace(f"port = {here}\n", f"port = {there}\n")
    settings.write_text(text)
    return other


@pytest.mark.long(5)
def test_an_installation_on_postgresql_and_a_second_issuer(
    databases: tuple[PostgresLocation, PostgresLocation], chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    cloud, machine = new_cloud(tmp_path).init(*options(*databases)), new_machine(tmp_path, chips[0])
    assert not list(cloud.directory.rglob("*.sqlite*"))
    with ended(cloud, machine):
        cloud.up()
        tenant = cloud.tenant(chips[0])
        node = machine.run("activate", str(cloud.code(tenant)))["node"]
        machine.up()
        assert machine.granted()
        cloud.run("node", "revoke", node)
        machine.wait_state("revoked")
        assert machine.down() == 0
        assert machine.launch().wait() == 81
        cloud.down()

    replica = replica_of(cloud, tmp_path / "replica")
    with ExitStack() as stack:
        first, second = Pair(cloud, tmp_path / "first"), Pair(replica, tmp_path / "second")
        for each in (first, second):
            stack.callback(each.end)
        first.serve("breakwater", "fabric")
        second.serve("breakwater")
        # Fabric stored what the machine's session had reported when it stopped.
        assert cloud.run("node", "show", node)["node"]["development"] is True
        entries = cloud.run("audit", "list", "--object", node)
        changes = [entry["detail"] for entry in entries if entry["action"] == "node.mode_changed"]
        assert changes == [{"generation": "1", "mode": "development"}]
        paper = PaperNode(cloud, "two issuers").join(secret_of(cloud.code(paper_tenant(cloud, tmp_path))))
        session, device = paper.session(), x509.load_der_x509_certificate(paper.device)
        stranger = Stranger(cloud, tmp_path / "stranger")
        before = stranger.asks(device)
        assert (before.ocsp, before.on_crl) == ("good", False)
        with Wire(replica, "breakwater", session) as wire:
            assert renew_device(wire, request(paper.node_key)).status == 200
            cloud.run("node", "revoke", paper.node)

            def closed() -> bool:
                """Fabric closes the node at the first Breakwater. The second reads it from their database."""
                return stranger.asks(device).ocsp == "revoked"

            wait_until("the closing at Breakwater", closed)
            renew_device(wire, request(paper.node_key)).refused("generation_closed")
        at_first = stranger.asks(device)
        there = str(device.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0].full_name[0].value)
        crl = stranger.crl(device, there.replace(f":{cloud.port + PORTS['pki']}/", f":{replica.port + PORTS['pki']}/"))
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        assert crl.get_revoked_certificate_by_serial_number(device.serial_number) is not None
        assert at_first.on_crl
        assert number >= at_first.crl_number > before.crl_number


# Refused databases, and the state after a failure


def refused(tmp_path: Path, *arguments: str) -> str:
    """Run `cascade init`, which must fail and leave no file. Returns the error code."""
    place = tmp_path / "refused" / "cloud"
    process = forked(tmp_path, "cascade", "init", "--dir", str(place), "--json", *arguments)
    assert process.wait() != 0
    assert not place.exists()
    assert not place.parent.exists() or not list(place.parent.iterdir())
    shutil.rmtree(place.parent, ignore_errors=True)
    return str(process.out()["error"]["code"])


def applied(location: PostgresLocation) -> set[str]:
    return asyncio.run(applied_ids(location))


def test_a_database_that_has_tables_is_refused_and_nothing_is_left(
    databases: tuple[PostgresLocation, PostgresLocation], tmp_path: Path
) -> None:
    breakwater, fabric = databases
    cluster().administer("DROP ROLE IF EXISTS limited", "CREATE ROLE limited LOGIN")
    # The role may not make tables, so Fabric's part fails after Breakwater's is done.
    unable = (*options(breakwater, fabric)[:2], "--fabric-database", address(fabric, "limited"))
    assert refused(tmp_path, *unable) == "init_failed"
    assert applied(breakwater) == applied(fabric) == set()
    # The next init of the same databases succeeds, and the one after that is refused.
    new_cloud(tmp_path).init(*options(breakwater, fabric))
    assert refused(tmp_path, *options(breakwater, fabric)) == "database_in_use"
    assert applied(breakwater) == known_ids("breakwater")
    assert applied(fabric) == known_ids("fabric")


def test_addresses_that_are_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("p" * 20)
    password.chmod(0o644)
    one = "postgresql://cascade@/one?host=/run"
    for code, arguments in (
        ("database_invalid", ("--fabric-database", "postgresql://cascade:secret@localhost/name")),
        ("database_invalid", ("--fabric-database", "somewhere.sqlite")),
        ("database_invalid", ("--breakwater-database", "postgresql://localhost/name")),
        ("database_shared", ("--breakwater-database", one, "--fabric-database", one)),
        ("database_missing", ("--database-password-file", str(password))),
        ("database_refused", ("--fabric-database", one, "--database-password-file", str(password))),
        ("database_refused", ("--fabric-database", "postgresql://cascade@db.example.com/name")),
    ):
        assert refused(tmp_path, *arguments) == code, arguments
    assert "secret" not in (tmp_path / "cascade.log").read_text()


def test_a_password_stays_in_its_file(databases: tuple[PostgresLocation, PostgresLocation], tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("never-anywhere-else\n")
    cloud = new_cloud(tmp_path).init(*options(*databases), "--database-password-file", os.path.relpath(password))
    for service in ("breakwater", "fabric"):
        named = tomllib.loads(settings_of(cloud, service).read_text())["database"]["password_file"]
        assert Path(named).is_absolute()
        assert Path(named).resolve() == password
    written = [path for path in cloud.directory.rglob("*") if path.is_file()]
    assert not [path for path in written if b"never-anywhere-else" in path.read_bytes()]
