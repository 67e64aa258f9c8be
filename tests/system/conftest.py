"""Fixtures of the system tests: two software TPMs of one maker, a cloud that is copied for each test, and a machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.shared_chips import shared_chip
from tests.system.support.harness import new_cloud, new_machine


@pytest.fixture(scope="session")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SoftTpm, SoftTpm]]:
    """Two software TPMs of one maker, each behind its own resource manager."""
    directory = tmp_path_factory.mktemp("chips")
    first, second = (shared_chip(tmp_path_factory, directory / str(number), number) for number in range(2))
    with first, second:
        yield first, second


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    """A cloud after `cascade init`. It is never started; `cloud` copies it."""
    return new_cloud(tmp_path_factory.mktemp("installation")).init()


@pytest.fixture
def cloud(tmp_path: Path, installation: Cloud) -> Iterator[Cloud]:
    """A running copy of `installation`, for one test."""
    copy = new_cloud(tmp_path).copy_from(installation)
    with ended(copy):
        copy.up()
        yield copy


@pytest.fixture
def machine(tmp_path: Path, chips: tuple[SoftTpm, SoftTpm]) -> Iterator[Machine]:
    """A machine with the first chip and without state."""
    bare = new_machine(tmp_path, chips[0])
    with ended(bare):
        yield bare
