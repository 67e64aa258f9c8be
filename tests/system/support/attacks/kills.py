"""Row: the agent or a command is killed before and after each write of the state directory. The fault walk has the cases.

`make drills PART=fault-walk` kills at the sends and in the cloud as well.
"""

from collections.abc import Iterator, Sequence

from tests.system.support.attacks.site import Result, Seen, Site, judged, look
from tests.system.support.attacks.table import Attack
from tests.system.support.fault_walk.scenarios import PREPARE, RETURN_SECONDS_MAX, Case, all_cases, walk
from tests.system.support.fault_walk.site import RUNNING, Lane, Prepared
from tests.system.support.fault_walk.site import Site as WalkedSite

NAME = "killed at each write of the state directory"
WRITES = frozenset({"write", "copy", "save", "switch", "publish", "replace", "clear", "prune", "count"})
"""The verbs of the fault points at which a node writes. `count` is the increment of the TPM's counter."""


def cases() -> list[Case]:
    """One kill before and one after each write of a node, in the first scenario that passes it."""
    found: dict[tuple[str, str], Case] = {}
    for case in all_cases():
        if case.point.startswith("node.") and case.point.rpartition(".")[2] in WRITES:
            found.setdefault((case.point, case.stage), case)
    return list(found.values())


class _Watched(Lane):
    """A lane that remembers the last site, whose state directory is there after the walk."""

    last: WalkedSite | None = None

    def copy(self, prepared: Prepared) -> WalkedSite:
        self.last = super().copy(prepared)
        return self.last


def take(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take the cases. Each of them ends with one active node in one seat, which the walk asserts."""
    site.cloud.down()
    try:
        with site.new_chip(site.folder("kills") / "chip", 0) as chip:
            lane = _Watched(site.directory / "kills" / "lane", chip, PREPARE)
            for attack in attacks:
                yield judged(attack, lambda: _taken(lane, site))
    finally:
        site.cloud.up()


def _taken(lane: _Watched, site: Site) -> Seen:
    """Take the cases. After each, `cascadia status` judges the directory as a start without the cloud does."""
    codes = set()
    for case in cases():
        try:
            seconds = walk(lane, case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
        assert seconds <= RETURN_SECONDS_MAX, f"{case}: the return took {seconds:.0f} s"
        assert lane.last is not None
        seen = look(lane.last.machine)
        # The leases of the walk are due for a refresh after seconds.
        assert seen.state in RUNNING, f"{case}: {seen}"
        codes.add(seen.code)
    site.say(f"kills: {len(cases())}")
    return Seen(RUNNING[0], max(codes))
