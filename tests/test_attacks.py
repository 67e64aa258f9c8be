"""The table of attacks is complete: it has every kind, its rows have steps, and docs/threat-model.md names what exists."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.system.support.attacks import kills
from tests.system.support.attacks.table import ATTACKS, IN_OTHER_TESTS, KINDS, Kind
from tests.system.support.attacks.take import GROUPS, QUICK_GROUPS, implemented

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
DRILL = "make drills PART=attacks"
_ROW = re.compile(r"^\| (T-[0-9]+) \|(.*)\|$", re.MULTILINE)
LISTED = {threat: cells.rpartition("|")[2].strip().strip("`") for threat, cells in _ROW.findall(PAGE)}
"""The test of each attack that the page lists. A second table of the page has the tests of bounds."""
WANTED: dict[Kind, tuple[str, ...]] = {
    "copied-state": ("beside another TPM",),
    "rollback": (
        *("directory from before a suspension", "lease from before a suspension"),
        *("directory from before a revocation", "lease from before a revocation"),
        *("directory from before an activation", "lease from before an activation"),
    ),
    "clear": (
        *("directory from before a suspension", "lease from before a suspension"),
        *("directory from before a revocation", "lease from before a revocation"),
        *("directory from before an activation", "generation from before an activation"),
    ),
    "floor": ("deleted", "edited", "of another node"),
    "counter": ("deleted", "created again", "ordinary index"),
    "swapped": ("the lease of another node", "the tombstone of another node"),
    "clocks": (
        *("back 30 days", "forward 400 days", "1970"),
        *("refresh_after", "expires_at", "grace_until", "terminate_at"),
    ),
    "clones": ("copy and the original", "copy from before a rekey", "put back every night"),
    "forged-cloud": ("public CA",),
    "replay": ("lease and its freshness", "session"),
    "kills": ("each write",),
    "bounds": ("disk and TPM copied together", "without a TPM", "without a counter"),
}
"""Attacks that the table must have, by kind."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_the_attacks_of_each_kind(kind: Kind) -> None:
    names = [attack.name for attack in ATTACKS if attack.kind == kind]
    missing = [text for text in WANTED[kind] if not any(text in name for name in names)]
    assert not missing


def test_each_row_has_its_step_and_each_step_its_row() -> None:
    rows = Counter((attack.kind, attack.name) for attack in ATTACKS)
    assert [row for row, count in rows.items() if count > 1] == []
    assert {kind: {name for of, name in rows if of == kind} for kind in KINDS} == implemented()
    for groups in (GROUPS, QUICK_GROUPS):
        assert sorted(kind for kinds, _ in groups for kind in kinds) == sorted(KINDS)


def test_make_test_takes_a_row_of_each_kind_or_has_the_same_attack_elsewhere() -> None:
    quick = {attack.kind for attack in ATTACKS if attack.quick}
    assert quick | set(IN_OTHER_TESTS) == set(KINDS)
    assert quick & set(IN_OTHER_TESTS) == set()
    assert [file for file in IN_OTHER_TESTS.values() if not (ROOT / file).exists()] == []


def test_the_page_names_a_test_or_a_row_for_each_attack() -> None:
    drilled = {attack.threat for attack in ATTACKS}
    wrong = [
        f"{threat}: {named}"
        for threat, named in LISTED.items()
        if not (threat in drilled if named == DRILL else (ROOT / named).is_file() and named.startswith("tests/"))
    ]
    assert not wrong


def test_each_row_names_an_attack_of_the_page() -> None:
    assert {attack.threat for attack in ATTACKS} <= set(LISTED)


def test_the_kills_are_before_and_after_each_write_of_a_node() -> None:
    cases = kills.cases()
    assert {case.stage for case in cases} == {"before", "after"}
    points = {case.point for case in cases}
    assert {"node.statement.write", "node.floor.write", "node.floor.count", "node.tombstone.write"} <= points
    assert len(cases) == 2 * len(points)
