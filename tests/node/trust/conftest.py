"""Fixtures: a repository over HTTP."""

from collections.abc import Iterator

import pytest

from tests.simulators.repository import Repository


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository().served() as served:
        yield served
