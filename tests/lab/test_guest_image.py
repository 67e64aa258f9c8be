"""The images of a machine in QEMU: which libraries the agent's image has, and which change makes another Debian."""

import pytest

from lab import guest_image


def test_the_agent_brings_its_libraries_and_theirs() -> None:
    names = {library.name.lower().replace("_", "-") for library in guest_image._libraries()}
    assert {"trio", "tpm2-pytss", "cffi", "cryptography", "msgspec", "outcome"} <= names
    assert not {"litestar", "piccolo", "pytest", "mypy"} & names


def test_a_requirement_of_another_python_or_of_an_extra_is_left_out() -> None:
    lines = ["A_b.c>=1", "old; python_version < '3.0'", "more; extra == 'x'", "here; sys_platform == 'linux'"]
    assert guest_image._required(lines) == ["a-b-c", "here"]


def test_another_package_or_file_makes_another_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    before = guest_image._digest("")
    assert before == guest_image._digest("") != guest_image._digest("http://mirror.example/debian")
    monkeypatch.setattr(guest_image, "PACKAGES", (*guest_image.PACKAGES, "curl"))
    assert guest_image._digest("") != before


def test_the_program_that_runs_commands_in_the_guest_is_python() -> None:
    names = compile(guest_image._SHELL, "lab-shell", "exec").co_names
    assert {"ask_agent", "subprocess"} <= set(names)


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_image, "NEEDED", {"no-such-program": "its-package", "sh": "dash"})
    assert guest_image.missing_packages() == ["its-package"]
