"""`cloud.events.nats.parts`: what the settings turn on."""

import os
from pathlib import Path

import msgspec
import pytest

from cloud.clock import utc_now
from cloud.events.nats.parts import NatsParts, make_nats_parts
from cloud.events.nats.settings import NatsSettings
from tests.cloud.events.nats.support import SETTINGS
from tests.cloud.events.support import SERVICE, Producer


def _made(producer: Producer, settings: NatsSettings | None) -> NatsParts:
    sequencer = producer.parts.sequencer
    return make_nats_parts(settings, Path, producer.engine, sequencer, SERVICE, utc_now, os.urandom)


@pytest.mark.parametrize(("rings", "copies"), [(True, True), (False, True), (True, False)])
async def test_settings_turn_rings_and_the_copy_on(producer: Producer, rings: bool, copies: bool) -> None:
    made = _made(producer, msgspec.structs.replace(SETTINGS, rings=rings, copies=copies, ca_file="ca.pem"))
    assert (len(made.rings), len(made.tasks())) == (int(rings), int(copies))
    made.consumers_changed()
    if made.copy is not None:
        made.copy._woken.clear()
        await producer.add("a")
        await producer.place()
        assert made.copy._woken.is_set()


async def test_without_settings_there_is_nothing(producer: Producer) -> None:
    made = _made(producer, None)
    assert made == NatsParts()
    assert made.tasks() == ()
    made.consumers_changed()
