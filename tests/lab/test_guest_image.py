"""The images of a machine in QEMU: which libraries the agent's image has, and which change makes another Debian."""

import pytest

from lab import guest_image


def test_another_package_or_file_makes_another_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    before = guest_image._digest("")
    assert before == guest_image._digest("") != guest_image._digest("http://mirror.example/debian")
    monkeypatch.setattr(guest_image, "PACKAGES", (*guest_image.PACKAGES, "curl"))
    assert guest_image._digest("") != before


def test_the_program_that_runs_commands_in_the_guest_is_python() -> None:
    names = compile(guest_image.SHELL, "lab-shell", "exec").co_names
    assert {"ask_agent", "subprocess"} <= set(names)


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_image, "NEEDED", {"no-such-program": "its-package", "sh": "dash"})
    assert guest_image.missing_packages() == ["its-package"]
