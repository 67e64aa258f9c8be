"""`tools.words`: the texts that the check reads, the words that it finds, and the names that it skips."""

from pathlib import Path

import pytest

from tools import words

MODULE = '''"""Docs are made anew."""

# Nobody reads this.
anew = "anew"
code = f"cannot start {anew}: nobody\\n  is at  hand"
'''


def found(texts: list[words.Text]) -> list[tuple[int, str]]:
    return [(line, written) for line, _, written in words.found_words(iter(texts), list(words.TABLE))]


def test_comments_docstrings_and_messages_are_read_and_names_and_codes_are_not() -> None:
    assert sorted(found(list(words.source_texts(MODULE)))) == [
        (1, "anew"),
        (3, "Nobody"),
        (5, "nobody"),
        (6, "at  hand"),
    ]


def test_pages_are_read_without_code_and_targets_of_links() -> None:
    page = "Nobody.\n\nUse `--anew` or [a page](what-nobody-reads.md), told.\n"
    assert found(list(words.page_texts(page))) == [(1, "Nobody"), (3, "told")]


@pytest.mark.parametrize("text", ["retold", "untold_count", "at handover", "Whoevers", "disbelieved"])
def test_a_part_of_a_longer_word_is_not_found(text: str) -> None:
    assert not found([words.Text(1, text)])


def test_every_word_has_a_replacement_that_passes() -> None:
    assert all(better.strip() for better in words.TABLE.values())
    for word in words.TABLE:
        assert not found([words.Text(1, words.TABLE[word])]), f"the better words for {word!r} are refused themselves"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "node").mkdir()
    (tmp_path / "node/agent.py").write_text('"""Asks again."""\n')
    (tmp_path / "README.md").write_text("A page.\n")
    return tmp_path


def test_the_exit_code_depends_on_the_words_found(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words.main([], repository) == 0
    assert capsys.readouterr() == ("0 words against the rules\n", "")
    (repository / "node/agent.py").write_text('"""Asks anew."""\n')
    assert words.main([], repository) == 1
    said = capsys.readouterr()
    assert said.err == 'node/agent.py:1: "anew": write again\n'
    assert words.main(["--count"], repository) == 0
    assert "    1 anew\n" in capsys.readouterr().out


def test_a_word_over_two_lines_has_the_line_of_its_beginning() -> None:
    assert found([words.Text(7, "one\nkept\naway")]) == [(8, "kept\naway")]
