"""Fixtures: one NATS server for the tests of a file, and what a service needs to reach it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.events.nats.connection import Access
from cloud.storage import Location
from lab.nats import NatsServer, nats_server
from lab.postgres import database_location
from tests.cloud.events.nats.support import access_of
from tests.cloud.events.support import SERVICE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
def location(tmp_path: Path) -> Location:
    """A migrated database without events. The drill `nats` has the same checks on PostgreSQL."""
    return database_location("sqlite", SERVICE, tmp_path)


@pytest.fixture(scope="module")
def access(server: NatsServer) -> Access:
    return access_of(server, "fabric")


@pytest.fixture
def absent(server: NatsServer, tmp_path: Path) -> Access:
    """A server that does not run."""
    return Access("tls://127.0.0.1:9", server.ca_file, server.credentials("fabric"), "fabric")
