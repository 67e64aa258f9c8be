"""DMI serial numbers that root has read for an agent that is not root."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.hwbind import dmi
from node.hwbind.fingerprint import fingerprint, read_components
from protocol.fingerprint import enroll, judge
from tests.node.hwbind.test_fingerprint import MACHINE, SALT, build, no_udev

SERIALS = {kind: MACHINE[f"sys/class/dmi/id/{kind}"] for kind in dmi.KINDS}


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    dmi.forget()
    yield
    dmi.forget()


def refusing(root: Path) -> Path:
    """The same machine for a user whom /sys refuses: a directory in place of a file fails for root too."""
    build(root, {f"sys/class/dmi/id/{kind}": None for kind in dmi.KINDS})
    for kind in dmi.KINDS:
        (root / "sys/class/dmi/id" / kind).mkdir(parents=True)
    return root


def credentials(folder: Path, values: dict[str, str]) -> dict[str, str]:
    folder.mkdir()
    for kind, value in values.items():
        (folder / f"dmi-{kind.replace('_', '-')}").write_text(value)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


def test_the_names_are_those_of_the_unit(tmp_path: Path) -> None:
    environment = credentials(tmp_path / "c", SERIALS)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "dmi-board-serial",
        "dmi-chassis-serial",
        "dmi-product-uuid",
    ]
    assert {kind: dmi.provided(kind, environment).decode() for kind in dmi.KINDS} == SERIALS


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": "/no/such"}, {"CREDENTIALS_DIRECTORY": "a\0b"}])
def test_without_a_credential_nothing_is_provided(environment: dict[str, str]) -> None:
    assert dmi.provided("board_serial", environment) == b""


def test_what_root_read_counts_after_it_has_dropped_its_rights(tmp_path: Path) -> None:
    root = build(tmp_path / "root")
    whole = read_components(root, no_udev)
    dmi.keep(root)
    after = read_components(refusing(tmp_path / "other"), no_udev, provided=dmi.provided)
    assert (after.values, after.unreadable) == (whole.values, frozenset())


def test_credentials_count_where_sys_refuses(tmp_path: Path) -> None:
    whole = read_components(build(tmp_path / "root"), no_udev)
    environment = credentials(tmp_path / "c", SERIALS)
    other = read_components(
        refusing(tmp_path / "other"), no_udev, provided=lambda kind: dmi.provided(kind, environment)
    )
    assert (other.values, other.unreadable) == (whole.values, frozenset())


def test_without_either_the_machine_is_not_taken_for_another_one(tmp_path: Path) -> None:
    policy = enroll(fingerprint(SALT, read_components(build(tmp_path / "root"), no_udev)))
    found = read_components(refusing(tmp_path / "other"), no_udev)
    assert found.unreadable == set(dmi.KINDS)
    assert judge(policy, fingerprint(SALT, found), found.unreadable).result == "inconclusive"


def test_an_empty_credential_leaves_the_answer_to_sys(tmp_path: Path) -> None:
    environment = credentials(tmp_path / "c", dict.fromkeys(dmi.KINDS, ""))

    def provided(kind: str) -> bytes:
        return dmi.provided(kind, environment)

    missing = build(tmp_path / "missing", {f"sys/class/dmi/id/{kind}": None for kind in dmi.KINDS})
    found = read_components(missing, no_udev, provided=provided)
    assert (found.absent["board_serial"], found.unreadable) == ("the kernel does not report it", frozenset())
    assert read_components(refusing(tmp_path / "other"), no_udev, provided=provided).unreadable == set(dmi.KINDS)
