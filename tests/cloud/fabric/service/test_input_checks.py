"""`cloud.fabric.service.input_checks`: texts and times from outside have limits."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cloud.fabric import errors
from cloud.fabric.service.input_checks import check_time
from protocol.messages.sessions import Ask
from tests.cloud.fabric.support import Machine, World


@pytest.mark.parametrize("fingerprint", [{"a" * 65: "b"}, {"a": "b" * 65}, {str(n): "b" for n in range(33)}])
async def test_a_fingerprint_is_bounded(world: World, machine: Machine, fingerprint: dict[str, str]) -> None:
    with pytest.raises(errors.Invalid, match="fingerprint"):
        await world.parts.nodes.sessions.open_session(machine.ask_for_session(None, fingerprint=fingerprint))


@pytest.mark.parametrize("nonce", ["", "n" * 15, "n" * 129])
async def test_nonces_of_nodes_are_bounded(world: World, nonce: str) -> None:
    machine = Machine(world)
    await machine.join((await world.code()).secret)
    with pytest.raises(errors.Invalid):
        await world.parts.nodes.statements.statement(await machine.peer(), Ask(nonce))


def test_a_time_comes_in_utc() -> None:
    zone = timezone(timedelta(hours=-12))
    assert check_time("at", datetime(2030, 1, 1, tzinfo=zone)) == datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert check_time("at", datetime(2030, 1, 1, tzinfo=zone)).tzinfo is UTC


@pytest.mark.parametrize(
    "at",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001  (a time without a zone is the point)
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, tzinfo=UTC),
    ],
)
def test_a_time_is_bounded(at: datetime) -> None:
    with pytest.raises(errors.Invalid, match="at: must be a time with its zone"):
        check_time("at", at)
