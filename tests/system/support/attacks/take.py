"""Takes rows of the table: hands the rows of each kind to the module of the kind, and reports one result for each row."""

from collections.abc import Iterator, Sequence
from functools import partial

from lab.processes import StepFailed
from lab.tpm import SoftTpmError
from tests.system.support.attacks import bounds, clocks, clones, floors, foreign, forged, kills, life, restored
from tests.system.support.attacks.life import Step
from tests.system.support.attacks.site import Result, Site, Take
from tests.system.support.attacks.table import Attack, Kind

_STEPS: dict[Kind, dict[str, Step]] = {
    "copied-state": foreign.COPIED_STATE,
    "swapped": foreign.SWAPPED,
    "rollback": restored.ROLLBACK,
    "floor": floors.FLOOR,
    "counter": floors.COUNTER,
    "clear": restored.CLEAR,
}
"""The kinds that share one machine's life, in the order of the rows of one stage."""
LIFE: dict[tuple[str, str], Step] = {
    (kind, name): step for kind, steps in _STEPS.items() for name, step in steps.items()
}

GROUPS: tuple[tuple[tuple[Kind, ...], Take], ...] = (
    (tuple(_STEPS), partial(life.take, steps=LIFE)),
    (("clocks",), clocks.take),
    (("clones",), clones.take),
    (("forged-cloud", "replay"), forged.take),
    (("kills",), kills.take),
    (("bounds",), bounds.take),
)
"""The kinds that share machines, and the function that takes their rows."""
QUICK_GROUPS: tuple[tuple[tuple[Kind, ...], Take], ...] = (
    (
        (*_STEPS, "clocks"),
        partial(life.take, steps=LIFE | {("clocks", name): step for name, step in clocks.STEPS.items()}),
    ),
    *(group for group in GROUPS[1:] if group[0] != ("clocks",)),
)
"""The same for the rows that `make test` takes."""


def implemented() -> dict[Kind, set[str]]:
    """The names of the rows that each kind's module has."""
    return {
        **{kind: set(steps) for kind, steps in _STEPS.items()},
        "clocks": set(clocks.rows()),
        "clones": set(clones.ROWS),
        "forged-cloud": set(forged.FORGED),
        "replay": set(forged.ROWS) - forged.FORGED,
        "kills": {kills.NAME},
        "bounds": set(bounds.ROWS),
    }


def taken(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take rows. Each row has one result, also if its kind stops before it."""
    for kinds, take in GROUPS if site.whole else QUICK_GROUPS:
        waiting = [attack for attack in attacks if attack.kind in kinds]
        if not waiting:
            continue
        stopped = "the module of its kind has left it out"
        try:
            for attack, found in take(tuple(waiting), site):
                waiting.remove(attack)
                yield attack, found
        except (AssertionError, StepFailed, SoftTpmError) as error:
            stopped = f"its kind stopped before: {error}"
        for attack in waiting:
            yield attack, f"the row was not taken: {stopped}"
