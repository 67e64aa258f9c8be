"""Fixtures: an activated state directory, and the contacts of its agent."""

from collections.abc import AsyncIterator

import pytest

from node.exchanges.contact import Contact
from node.hwbind.tpm import Tpm
from node.state import State
from tests.node.shells import contact_of


@pytest.fixture
async def contact(state: State, tpm: Tpm) -> AsyncIterator[Contact]:
    made = contact_of(state, tpm)
    made._hardware.report_ours()
    yield made
    await made.connection.close()
