"""Copied machines with the real commands: one row of each kind. The drill `clones` has every row."""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.shared_chips import shared_chip
from tests.system.support.copies import activated
from tests.system.support.lost_answers import Loss, Subject

pytestmark = pytest.mark.long(9, "clones")


def test_the_second_refresh_of_a_copy_is_caught_and_an_operator_settles_it(
    tmp_path: Path, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with activated(tmp_path, cloud, shared_chip(tmp_path_factory, tmp_path / "chip")) as copies:
        machine = copies.machine
        with copies.copy(copies.snapshot("at the copy"), "twin") as twin:
            for each in (machine, twin, machine):
                assert copies.session(each) == "active"
            assert copies.case() is None
            assert copies.session(twin, "grace") == "grace"
            assert twin.run("status", expect=89)["license"]["flags"] == ["clone-suspected"]
            machine.wait_state("grace")
            assert machine.granted()
            case = copies.case()
            assert case is not None
            assert (case["node"], case["cause"]) == (copies.node, "renewal-token")
            current, older = case["evidence"]
            assert (current["state"], older["state"]) == ("current", "older")
            copies.cloud.run("node", "settle", copies.node, "--keep", current["id"])
            machine.wait_state("active")
            twin.wait_state("suspended")
            assert copies.session(machine) == "active"
            assert copies.session(twin, "suspended") == "suspended"
            assert copies.case() is None


def test_a_machine_put_back_to_a_snapshot_is_no_clone(
    tmp_path: Path, cloud: Cloud, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with activated(tmp_path, cloud, shared_chip(tmp_path_factory, tmp_path / "chip")) as copies:
        snapshot = copies.snapshot("before")
        copies.session(copies.machine)
        copies.session(copies.machine)
        copies.put_back(snapshot)
        for _ in range(2):
            assert copies.session(copies.machine) == "active"
        assert copies.case() is None
        assert copies.actions().count("node.restored") == 1


def test_lost_answers_are_no_clone(tmp_path: Path, cloud: Cloud, chips: tuple[SoftTpm, SoftTpm]) -> None:
    """One loss of each procedure. The drill `lost-answers` loses every answer, alone and in pairs."""
    subject = Subject(tmp_path, cloud, chips[0], "subject")
    with ended(subject.machine):
        for loss in (
            Loss("activate", ("node.activation.prove", "node.confirm.send")),
            Loss("run", ("node.session.send", "node.nonce.send", "node.statement.send", "node.events.send")),
        ):
            assert subject.take(loss) == []
