"""Fixtures: one software TPM for all tests of this folder, and a port to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tpm import SoftTpm, shared_bus
from node.hwbind.tpm import Tpm


@pytest.fixture(scope="session")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTpm]:
    """A running chip. A test may clear it, and leaves it thawed and with a resource manager."""
    directory: Path = tmp_path_factory.mktemp("tpm")
    with SoftTpm(directory / "chip", ca=directory / "ca", bus=shared_bus()) as running:
        yield running


@pytest.fixture
def tpm(chip: SoftTpm) -> Iterator[Tpm]:
    port = Tpm(chip.tcti, command_seconds_max=10.0)
    yield port
    port.close()
