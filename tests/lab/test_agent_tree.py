"""The files of the agent from this checkout: which libraries they have."""

from pathlib import Path

from lab import agent_tree


def test_the_agent_brings_its_libraries_and_theirs() -> None:
    names = {library.name.lower().replace("_", "-") for library in agent_tree.agent_libraries()}
    assert {"trio", "tpm2-pytss", "cffi", "cryptography", "msgspec", "outcome"} <= names
    assert not {"litestar", "piccolo", "pytest", "mypy"} & names


def test_a_requirement_of_another_python_or_of_an_extra_is_left_out() -> None:
    lines = ["A_b.c>=1", "old; python_version < '3.0'", "more; extra == 'x'", "here; sys_platform == 'linux'"]
    assert agent_tree.required(lines) == ["a-b-c", "here"]


def test_the_tree_has_the_code_and_the_compiled_modules(tmp_path: Path) -> None:
    agent_tree.copy_agent(tmp_path, tmp_path)
    assert (tmp_path / "node/cli/main.py").is_file()
    assert (tmp_path / "protocol/ids.py").is_file()
    assert list(tmp_path.glob("msgspec/_core*.so"))
    assert not (tmp_path / "cloud").exists()
    assert not list(tmp_path.rglob("__pycache__"))
