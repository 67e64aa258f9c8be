"""Fixtures of a service's identity: a Breakwater whose certificates are due for renewal."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.crypto.keyfile import write_secret
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, plan_for

DAYS_BEFORE = timedelta(days=4)
"""More than half of seven days, whatever the jitter."""


@pytest.fixture(scope="module")
def due(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an installation that is some days old."""
    home = tmp_path_factory.mktemp("due")
    write_secret(home / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(home), lambda: utc_now() - DAYS_BEFORE))
    return home


@pytest.fixture
async def live(due: Path, tmp_path: Path) -> AsyncIterator[Live]:
    """A Breakwater that was initialised some days ago, so that certificates are due for renewal."""
    home = shutil.copytree(due, tmp_path / "cloud")
    async with live_at(home) as running_service:
        yield running_service
