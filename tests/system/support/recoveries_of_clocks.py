"""Table of recoveries: a machine whose clock is wrong. Its status says so, and no empty battery locks it out.

The clock is corrected, or the cloud signs a time, over the network or in a carried file. `cascadia recover` opens no
recovery for a clock. `tests.system.support.recoveries` describes a row. The kind "clocks" of `make drills PART=attacks`
has every step of the clock on both sides of every date.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lab.processes import wait_until
from node.exits import Exit
from tests.system.support.attacks.shifted import ShiftedMachine, library
from tests.system.support.recoveries import Place

DAY = 86_400
AHEAD, BACK = 400 * DAY, -30 * DAY
SHORT = (2, 4, 6, 8)
"""Dates of a lease in seconds, so that the lease ends while the row waits."""


def _activated(place: Place, *options: str) -> tuple[ShiftedMachine, str]:
    """A machine that was activated with a right clock and has run. Returns it with its node."""
    place.directory.mkdir(parents=True, exist_ok=True)
    machine = ShiftedMachine(place.directory, place.chips[0], library(place.directory))
    machine.env["CASCADIA_SETTLE_SECONDS"] = "1"
    place.machines.append(machine)
    file = place.cloud.code(place.tenant, *options) if options else place.file
    node = str(machine.run("activate", str(file))["node"])
    machine.up()
    assert machine.granted()
    machine.down()
    return machine, node


@contextmanager
def _cloud_away(place: Place) -> Iterator[None]:
    place.cloud.down()
    try:
        yield
    finally:
        place.cloud.up()


def _status(machine: ShiftedMachine, expect: Exit = Exit.OK) -> Any:
    """The licence as the person sees it."""
    return machine.run("status", expect=int(expect))["license"]


def _locked_by_the_clock(machine: ShiftedMachine) -> None:
    """The machine has booted 400 days ahead, and no signed time says otherwise. The status names the clock."""
    machine.set(AHEAD)
    machine.boot()
    found = _status(machine, Exit.CLOCK)
    assert (found["gate"], found["state"], "clock-suspect" in found["flags"]) == ("closed", "terminated", True), found
    assert "by this machine's clock, which no signed time confirms" in found["reason"], found
    assert found["next"], "the status names no next step"
    assert not machine.granted()


def _no_recovery(place: Place) -> None:
    """A clock is no recovery: the cloud has no case, and one generation."""
    assert place.recovery("list")["cases"] == []
    assert not place.audited("recovery.opened")


def clock_ahead_is_corrected(place: Place) -> None:
    """The clock is 400 days ahead at a boot without the cloud. The person corrects the clock, and the gate opens."""
    machine, node = _activated(place)
    with _cloud_away(place):
        _locked_by_the_clock(machine)
        failed = machine.run("recover", expect=None)
        assert failed["sentence"].startswith(f"The renewal of node {node} did not succeed"), failed
        machine.set(0)
        assert _status(machine)["gate"] == "open"
        assert machine.granted()
    machine.down()
    place.check(machine, node, 1)
    _no_recovery(place)


def clock_ahead_until_the_cloud_signs_a_time(place: Place) -> None:
    """The clock stays 400 days ahead. The cloud is back and signs a time, and the wrong clock counts no more."""
    machine, node = _activated(place)
    with _cloud_away(place):
        _locked_by_the_clock(machine)
    shown = machine.run("recover")
    assert shown["outcome"] == "renewed", shown
    assert shown["sentence"].startswith(f"This machine is node {node}, licensed until "), shown
    found = _status(machine)
    assert (found["gate"], "clock-suspect" in found["flags"]) == ("open", True), found
    machine.down()
    place.check(machine, node, 1)
    _no_recovery(place)


def clock_of_an_empty_battery(place: Place) -> None:
    """The machine boots in 1970, without the cloud. It runs, and says that its clock is wrong."""
    machine, node = _activated(place)
    with _cloud_away(place):
        machine.set(-time.time() + 1)
        machine.boot()
        found = _status(machine)
        assert (found["gate"], "clock-suspect" in found["flags"]) == ("open", True), found
        assert machine.granted()
    assert machine.run("recover")["outcome"] == "renewed"
    machine.down()
    place.check(machine, node, 1)
    _no_recovery(place)


def clock_ahead_and_a_carried_answer(place: Place) -> None:
    """A machine without a network, 400 days ahead. The answer to its request carries a signed time, and opens the gate."""
    machine, node = _activated(place)
    request, answer = place.directory / "request", place.directory / "answer"
    with _cloud_away(place):
        _locked_by_the_clock(machine)
        machine.down()
        machine.run("request", "--out", str(request))
    place.cloud.run("airgap", "answer", str(request), "--out", str(answer))
    with _cloud_away(place):
        assert machine.run("license", "import", str(answer))["gate"] == "open"
        machine.up()
        assert machine.granted()
        machine.down()
    place.check(machine, node, 1)
    _no_recovery(place)


def clock_held_back_after_the_end(place: Place) -> None:
    """The lease has ended. A clock that is set back, at a boot as well, does not open the gate again."""
    machine, node = _activated(place, "--lease-seconds", ",".join(map(str, SHORT)))
    with _cloud_away(place):
        machine.up()
        wait_until("the end of the lease", lambda: not machine.granted())
        for seconds in (BACK, -time.time() + 1):
            machine.set(seconds)
            assert _status(machine, Exit.TERMINATED)["state"] == "terminated"
            machine.boot()
            found = _status(machine, Exit.TERMINATED)
            assert (found["gate"], found["state"]) == ("closed", "terminated"), found
            assert not machine.granted()
        failed = machine.run("recover", expect=None)
        assert failed["sentence"].startswith(f"The renewal of node {node} did not succeed"), failed
    assert machine.run("recover")["license"]["gate"] == "open"
    _no_recovery(place)


ROWS: dict[str, Callable[[Place], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        clock_ahead_is_corrected,
        clock_ahead_until_the_cloud_signs_a_time,
        clock_of_an_empty_battery,
        clock_ahead_and_a_carried_answer,
        clock_held_back_after_the_end,
    )
}
