"""docs/transitions.md has a block for each change of state in the code, and each block says all six things."""

import re
from pathlib import Path
from typing import get_args

import pytest

from cloud.breakwater.store.authorities import ALLOWED
from cloud.fabric.store.rows import GenerationState

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/transitions.md").read_text("utf-8")
LABELS = ("Before", "During", "After", "How long", "Who notices", "Tests")
_BLOCK = re.compile(r"^### (?P<change>.+)\n(?P<body>(?:(?!^##).*\n)*)", re.MULTILINE)
_SECTION = re.compile(r"^## (?P<name>.+)\n(?P<body>(?:(?!^## ).*\n)*)", re.MULTILINE)
_TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)`(?:\s+\((?P<names>[^)]*)\))?")

SECTIONS = {each["name"]: each["body"] for each in _SECTION.finditer(PAGE)}
BLOCKS = {
    (name, each["change"]): each["body"] for name, section in SECTIONS.items() for each in _BLOCK.finditer(section)
}


def changes(section: str) -> set[str]:
    return {change for name, change in BLOCKS if name == section}


@pytest.mark.parametrize(("section", "change"), BLOCKS)
def test_a_block_says_all_six_things_and_names_tests(section: str, change: str) -> None:
    body = BLOCKS[section, change]
    assert re.findall(r"^- \*\*([^*]+)\.\*\*", body, re.MULTILINE) == list(LABELS)
    named = [*_TEST.finditer(body)]
    assert named
    for each in named:
        text = (ROOT / each["file"]).read_text("utf-8")
        for name in re.findall(r"`(\w+)`", each["names"] or ""):
            assert re.search(rf"def {name}\(", text), f"{each['file']} has no {name}"


def test_each_change_of_an_authority_has_a_block() -> None:
    """The active authority becomes old by the activation of another. To `revoked`, one block is for all states."""
    moves = {(before, after) for before, states in ALLOWED.items() for after in states} | {("active", "old")}
    ends = {move for move in moves if move[1] == "revoked"} - {("tainted", "revoked")}
    assert changes("Authority") == {f"{before} → {after}" for before, after in moves - ends}
    one = BLOCKS["Authority", "tainted → revoked"]
    assert all(f"`{before}`" in one for before, _ in ends)


def test_each_state_of_a_generation_has_a_block_that_leads_to_it() -> None:
    ends = {change.rpartition(" → ")[2] for change in changes("Generation of a node")}
    assert ends == set(get_args(GenerationState)) - {"offered"}
