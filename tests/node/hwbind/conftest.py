"""Fixtures: one software TPM for all tests of this folder, and a port to it."""

from collections.abc import Iterator

import pytest

from lab.tpm import SoftTpm
from node.hwbind.tpm import Tpm
from tests.shared_chips import shared_chip


@pytest.fixture(scope="session")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTpm]:
    """A running chip. A test may clear it, and leaves it thawed and with a resource manager."""
    with shared_chip(tmp_path_factory, tmp_path_factory.mktemp("tpm") / "chip") as running:
        yield running


@pytest.fixture
def tpm(chip: SoftTpm) -> Iterator[Tpm]:
    port = Tpm(chip.tcti, command_seconds_max=10.0)
    yield port
    port.close()
