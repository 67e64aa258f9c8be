"""Fixtures: one NATS server for the tests of a file, and what a service needs to reach it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.events.nats.connection import Access
from lab.nats import NatsServer, nats_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(scope="module")
def access(server: NatsServer) -> Access:
    return access_of(server, "fabric")


def access_of(server: NatsServer, service: str) -> Access:
    return Access(server.url, server.ca_file, server.credentials(service), service)


@pytest.fixture
def absent(server: NatsServer, tmp_path: Path) -> Access:
    """A server that does not run."""
    return Access("tls://127.0.0.1:9", server.ca_file, server.credentials("fabric"), "fabric")
