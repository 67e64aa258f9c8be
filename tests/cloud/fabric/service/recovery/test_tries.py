"""`cloud.fabric.service.recovery.tries`: limits of wrong codes, and an audit that no caller can fill."""

from datetime import timedelta

import pytest

from cloud.fabric.errors import RecoveryCodeRefused, TooOften
from cloud.fabric.service.recovery.tries import (
    AUDITED_MAX,
    AUDITED_PER_SOURCE_MAX,
    WRONG_PER_SOURCE,
    Caller,
    RecoveryTries,
)
from tests.cloud.fabric.support import World

WRONG = RecoveryCodeRefused("no such recovery code")


async def entries(world: World) -> int:
    return len(await world.stores.audit.page("", "unknown", "recovery.code_refused", "aud_8", 1000))


async def note(world: World, tries: RecoveryTries, callers: list[Caller]) -> None:
    for caller in callers:
        await tries.note(caller, WRONG)


async def test_the_audit_has_a_limited_number_of_wrong_codes_in_an_hour(world: World) -> None:
    tries = world.parts.shared.recovery_codes.tries
    await note(world, tries, [Caller("one", f"chip {number}") for number in range(3 * AUDITED_PER_SOURCE_MAX)])
    assert await entries(world) == AUDITED_PER_SOURCE_MAX
    await note(world, tries, [Caller(f"source {number}", "chip") for number in range(2 * AUDITED_MAX)])
    assert await entries(world) == AUDITED_MAX
    world.clock.forward(timedelta(hours=1))
    await note(world, tries, [Caller("one", "chip")])
    assert await entries(world) == AUDITED_MAX + 1


async def test_a_source_with_many_chips_is_limited_and_another_source_is_not(world: World) -> None:
    tries = world.parts.shared.recovery_codes.tries
    await note(world, tries, [Caller("one", f"chip {number}") for number in range(WRONG_PER_SOURCE.burst)])
    with pytest.raises(TooOften) as refused:
        tries.check(Caller("one", "fresh"))
    assert refused.value.wait == pytest.approx(WRONG_PER_SOURCE.seconds)
    tries.check(Caller("other", "fresh"))
    world.clock.forward(timedelta(seconds=WRONG_PER_SOURCE.seconds))
    tries.check(Caller("one", "fresh"))
