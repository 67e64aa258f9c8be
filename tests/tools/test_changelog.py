"""`tools.changelog`: the check of fragments on git repositories of a few commits, and collecting the fragments."""

import subprocess
from datetime import date
from pathlib import Path

import pytest

from node.clock import utc_now
from node.config import BUILT_AT
from tools import changelog

pytestmark = pytest.mark.slow

MAKEFILE = f"check:\n\tpython -m {changelog.CHECK_COMMAND}\n"
PAGE = """# Changelog

## [Unreleased]

### Changed

- An entry of two
  lines.

## [0.1.0] - 2026-11-22

### Added

- The first one.
"""


class Clone:
    """A working tree of git with an `origin` beside it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "work"
        self.origin = directory / "origin"
        git(directory, "init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        git(directory, "init", "--quiet", "--initial-branch=main", str(self.path))
        self.git("remote", "add", "origin", str(self.origin))
        self.commit("Begin", {"Makefile": MAKEFILE, "changelog.d/README.md": "Fragments.\n"})
        self.land()

    def git(self, *arguments: str) -> str:
        return git(self.path, *arguments)

    def write(self, path: str, text: str) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_text(text)

    def commit(self, message: str, files: dict[str, str]) -> None:
        for path, text in files.items():
            self.write(path, text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def land(self) -> None:
        self.git("push", "--quiet", "origin", "HEAD:main")

    def check(self) -> changelog.Findings:
        return changelog.check(self.path)


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A Tester", "-c", "user.email=tester@cascade.example", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_product_change_without_a_fragment_is_refused_and_named(clone: Clone) -> None:
    clone.commit("Change the agent", {"node/agent.py": "new = 1\n"})
    (problem,) = clone.check().problems
    assert "Change the agent: changes node/agent.py without a fragment." in problem
    assert "`Changelog: none`" in problem


def test_a_fragment_in_the_same_commit_passes(clone: Clone) -> None:
    files = {"node/agent.py": "new = 1\n", "changelog.d/new-agent.changed.md": "The agent is new.\n"}
    clone.commit("Change the agent", files)
    assert clone.check() == changelog.Findings()


def test_a_fragment_of_another_commit_does_not_count(clone: Clone) -> None:
    clone.commit("Write a fragment", {"changelog.d/new-agent.changed.md": "The agent is new.\n"})
    clone.commit("Change the agent", {"node/agent.py": "new = 1\n"})
    assert len(clone.check().problems) == 1


def test_a_removed_fragment_does_not_count(clone: Clone) -> None:
    clone.commit("Write a fragment", {"changelog.d/new-agent.changed.md": "The agent is new.\n"})
    (clone.path / "changelog.d/new-agent.changed.md").unlink()
    clone.commit("Change the agent", {"node/agent.py": "new = 1\n"})
    assert len(clone.check().problems) == 1


@pytest.mark.parametrize("line", ["Changelog: none", "changelog: None"])
def test_a_commit_without_effect_for_users_says_so(clone: Clone, line: str) -> None:
    clone.commit(f"Reword a docstring\n\nIt was hard to read.\n\n{line}", {"cloud/audit.py": "new = 1\n"})
    assert clone.check() == changelog.Findings()


def test_the_line_counts_only_when_it_is_the_whole_line(clone: Clone) -> None:
    clone.commit("Reword\n\nThis has no Changelog: none line.", {"cloud/audit.py": "new = 1\n"})
    assert len(clone.check().problems) == 1


@pytest.mark.parametrize("path", ["tests/node/test_agent.py", "tools/tree.py", "docs/pki.md", "packaging/README.md"])
def test_files_that_users_do_not_notice_need_no_fragment(clone: Clone, path: str) -> None:
    clone.commit("Change something", {path: "new\n"})
    assert clone.check() == changelog.Findings()


def test_every_commit_of_a_branch_is_judged_and_no_commit_before_it(clone: Clone) -> None:
    clone.commit("Change one", {"node/one.py": "new = 1\n"})
    clone.land()
    clone.commit("Change two", {"node/two.py": "new = 1\n"})
    clone.commit("Change three", {"protocol/three.py": "new = 1\n"})
    assert ["two" in problem or "three" in problem for problem in clone.check().problems] == [True, True]


def test_when_all_has_landed_head_alone_is_judged(clone: Clone) -> None:
    clone.commit("Change one", {"node/one.py": "new = 1\n"})
    clone.commit("Change two", {"node/two.py": "new = 1\n"})
    clone.land()
    (problem,) = clone.check().problems
    assert "Change two" in problem


def test_a_branch_that_passes_still_passes_when_it_has_landed(clone: Clone) -> None:
    clone.commit("Change one", {"node/one.py": "new = 1\n", "changelog.d/one.added.md": "One.\n"})
    clone.commit("Change two\n\nChangelog: none", {"node/two.py": "new = 1\n"})
    assert not clone.check().problems
    clone.land()
    assert not clone.check().problems


def test_a_merge_is_judged_by_its_commits(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "-b", "side")
    clone.commit("Change one", {"node/one.py": "new = 1\n"})
    clone.git("checkout", "--quiet", "main")
    clone.commit("Change a page", {"docs/page.md": "new\n"})
    clone.git("merge", "--quiet", "--no-ff", "--no-edit", "side")
    (problem,) = clone.check().problems
    assert "Change one" in problem


def test_commits_older_than_the_check_pass(clone: Clone) -> None:
    clone.commit("Take the check out", {"Makefile": "check:\n"})
    clone.commit("Change the agent", {"node/agent.py": "new = 1\n"})
    clone.commit("Bring the check back", {"Makefile": MAKEFILE, "node/agent.py": "new = 2\n"})
    assert clone.check() == changelog.Findings()


def test_without_a_remote_head_alone_is_checked_and_the_check_says_so(clone: Clone) -> None:
    clone.git("remote", "remove", "origin")
    clone.commit("Change one", {"node/one.py": "new = 1\n"})
    clone.commit("Change two", {"node/two.py": "new = 1\n"})
    found = clone.check()
    assert len(found.problems) == 1
    assert "Change two" in found.problems[0]
    assert found.notes == ["There is no origin/main to compare with. Only HEAD is checked."]


def test_a_shallow_clone_says_what_it_cannot_check(clone: Clone, tmp_path: Path) -> None:
    clone.commit("Change one", {"node/one.py": "new = 1\n"})
    clone.land()
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{clone.origin}", str(shallow))
    found = changelog.check(shallow)
    assert not found.problems
    (note,) = found.notes
    assert note.endswith("Change one: the parent is not in this clone. The commit is not checked.")


def test_files_that_are_not_in_git_are_checked_as_far_as_they_go(tmp_path: Path) -> None:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d/wrong.md").write_text("Text.\n")
    found = changelog.check(tmp_path)
    assert len(found.problems) == 1
    assert found.notes == ["This is no git repository with a commit. Only the fragments are checked."]


def test_uncommitted_product_changes_are_a_reminder(clone: Clone) -> None:
    clone.write("node/agent.py", "new = 1\n")
    found = clone.check()
    assert not found.problems
    assert found.notes[0].startswith("Product files are changed and not committed.")
    clone.write("changelog.d/new-agent.changed.md", "The agent is new.\n")
    assert clone.check() == changelog.Findings()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("agent.improved.md", "Text.", "the name is not"),
        ("agent.md", "Text.", "the name is not"),
        ("Agent.added.md", "Text.", "the name is not"),
        ("agent.added.txt", "Text.", "the name is not"),
        ("agent.added.md", " \n", "the fragment is empty"),
        ("agent.added.md", "- Text.", "one paragraph"),
        ("agent.added.md", "One.\n\nTwo.", "one paragraph"),
        ("agent.added.md", f"Fine.\n{'x' * 119}", "agent.added.md:2: 119 characters"),
    ],
)
def test_a_fragment_of_a_wrong_form_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / name).write_text(text)
    (problem,) = changelog.fragment_problems(tmp_path)
    assert said in problem


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    (tmp_path / "CHANGELOG.md").write_text(PAGE)
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "node").mkdir()
    (tmp_path / "node/config.py").write_text("A = 1\nBUILT_AT = datetime(2026, 11, 30, tzinfo=UTC)\n")
    (tmp_path / "changelog.d/README.md").write_text("Fragments.\n")
    (tmp_path / "changelog.d/b.changed.md").write_text("A change\nof two lines.\n")
    (tmp_path / "changelog.d/a.security.md").write_text("A hole is closed.\n")
    (tmp_path / "changelog.d/c.added.md").write_text("A thing is new.\n")
    return tmp_path


def test_collect_moves_fragments_and_unreleased_entries_under_a_version(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert changelog.main(["collect", "0.2.0", "--date", "2026-12-24"], filled) == 0
    assert capsys.readouterr().out == "CHANGELOG.md: 4 entries under 0.2.0\n"
    assert [path.name for path in (filled / "changelog.d").iterdir()] == ["README.md"]
    assert (filled / "node/config.py").read_text() == "A = 1\nBUILT_AT = datetime(2026, 12, 23, tzinfo=UTC)\n"
    assert (
        (filled / "CHANGELOG.md").read_text()
        == """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-24

### Added

- A thing is new.

### Changed

- An entry of two
  lines.
- A change
  of two lines.

### Security

- A hole is closed.

## [0.1.0] - 2026-11-22

### Added

- The first one.
"""
    )


@pytest.mark.parametrize(
    ("version", "page", "said"),
    [
        ("next", PAGE, "is no version like 0.2.0"),
        ("0.1.0", PAGE, "has the version 0.1.0 already"),
        ("0.2.0", "# Changelog\n", "has no line '## [Unreleased]'"),
        ("0.2.0", "## [Unreleased]\n\nLoose text.\n", "is in no entry: Loose text."),
    ],
)
def test_collect_refuses_and_changes_nothing(filled: Path, version: str, page: str, said: str) -> None:
    (filled / "CHANGELOG.md").write_text(page)
    with pytest.raises(changelog.ChangelogError) as caught:
        changelog.collect(filled, version, date(2026, 12, 24))
    assert said in str(caught.value)
    assert (filled / "CHANGELOG.md").read_text() == page
    assert len(changelog.fragments(filled)) == 3


def test_the_exit_code_depends_on_the_findings(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert changelog.main(["check"], clone.path) == 0
    assert capsys.readouterr() == ("0 fragments, 0 against the rules\n", "")
    clone.commit("Change the agent", {"node/agent.py": "new = 1\n"})
    assert changelog.main(["check"], clone.path) == 1
    said = capsys.readouterr()
    assert "Change the agent" in said.err
    assert said.out == "0 fragments, 1 against the rules\n"


def test_collect_refuses_an_agent_without_its_build_time(filled: Path) -> None:
    (filled / "node/config.py").write_text("A = 1\n")
    with pytest.raises(changelog.ChangelogError, match="has no line `BUILT_AT"):
        changelog.collect(filled, "0.2.0", date(2026, 12, 24))
    assert (filled / "CHANGELOG.md").read_text() == PAGE
    assert (filled / "changelog.d/c.added.md").exists()


def test_the_agent_has_its_build_time() -> None:
    path, text = changelog._with_built_at(changelog.REPOSITORY, date(2026, 12, 23))
    assert path.name == "config.py"
    assert text != path.read_text("utf-8")
    assert utc_now() >= BUILT_AT
