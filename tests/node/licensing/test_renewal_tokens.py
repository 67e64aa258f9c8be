"""Renewal tokens on disk: the newer file counts, damage counts as missing, and no disk takes a token out of use."""

from pathlib import Path

import pytest

from node.errors import StateError
from node.licensing.renewal_tokens import RenewalTokens
from tests.node.licensing.samples import damaged_forms


def reopened(state: Path, generation: int = 1) -> str:
    return RenewalTokens(state).token(generation)


@pytest.fixture
def tokens(tmp_path: Path) -> RenewalTokens:
    made = RenewalTokens(tmp_path)
    made.store(1, "first")
    made.store(1, "second")
    return made


def test_the_last_token_is_read_back(tokens: RenewalTokens, tmp_path: Path) -> None:
    assert tokens.token(1) == reopened(tmp_path) == "second"
    assert reopened(tmp_path, 2) == ""
    tokens.store(1, "")
    assert tokens.token(1) == "second"


@pytest.mark.parametrize("copy", [0, 1])
def test_one_file_is_enough_and_the_newer_one_counts(tokens: RenewalTokens, tmp_path: Path, copy: int) -> None:
    path, other = (tokens.paths(1)[index] for index in (copy, 1 - copy))
    older = other.read_bytes()
    tokens.store(1, "third")
    other.write_bytes(older)
    assert reopened(tmp_path) == "third"
    for _ in damaged_forms(path):
        assert reopened(tmp_path) == "second"
    path.unlink()
    assert reopened(tmp_path) == "second"
    other.unlink()
    assert reopened(tmp_path) == ""


@pytest.mark.parametrize("copy", [0, 1])
def test_a_file_that_cannot_be_written_leaves_the_token_in_use(
    tokens: RenewalTokens, tmp_path: Path, copy: int
) -> None:
    path = tokens.paths(1)[copy]
    path.unlink()
    path.mkdir()
    with pytest.raises(StateError):
        tokens.store(1, "third")
    assert tokens.token(1) == reopened(tmp_path) == "third"


def test_a_new_generation_forgets_the_tokens_of_lower_ones(tokens: RenewalTokens, tmp_path: Path) -> None:
    tokens.store(3, "of another generation")
    assert reopened(tmp_path, 3) == "of another generation"
    assert reopened(tmp_path, 1) == ""
    assert not any(path.exists() for path in tokens.paths(1))


def test_a_file_of_another_generation_counts_as_missing(tokens: RenewalTokens, tmp_path: Path) -> None:
    for source, target in zip(tokens.paths(1), tokens.paths(2), strict=True):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    assert reopened(tmp_path, 2) == ""
