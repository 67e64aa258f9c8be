"""Helpers of the tests of the trust: publish it, read its files, and expect a refused update."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from node.exits import Exit
from node.trust import published
from node.trust.published import TrustError, TrustSet, TrustUnreachable, load, refresh
from tests.simulators.repository import START, Repository

DAY = timedelta(days=1)


def at(when: datetime) -> Callable[[], datetime]:
    return lambda: when


async def bootstrap(repository: Repository, state: Path, when: datetime = START) -> TrustSet:
    """Store the trust of a repository, from its pin on."""
    await (await published.stage(repository.url, repository.pin, state, clock=at(when))).keep()
    return published.load(state)


def tree(state: Path) -> dict[str, bytes]:
    """Every file of the state directory."""
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}


async def refused(
    repository: Repository, state: Path, error: type[TrustError | TrustUnreachable], match: str, when: datetime = START
) -> None:
    before, loaded = tree(state), load(state)
    with pytest.raises(error, match=match) as caught:
        await refresh(state, clock=at(when), seconds_max=1)
    assert caught.value.exit == (Exit.VERIFICATION if error is TrustError else Exit.UNREACHABLE)
    assert tree(state) == before
    assert load(state).generation == loaded.generation
