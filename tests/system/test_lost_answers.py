"""Answers of the cloud are lost: one loss of two procedures. The drill `lost-answers` loses every answer."""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from lab.tpm import SoftTpm
from tests.system.support.lost_answers import Loss, Subject


@pytest.mark.long(9, "lost answers")
def test_lost_answers_are_no_clone(tmp_path: Path, cloud: Cloud, chips: tuple[SoftTpm, SoftTpm]) -> None:
    subject = Subject(tmp_path, cloud, chips[0], "subject")
    with ended(subject.machine):
        for loss in (
            Loss("activate", ("node.activation.prove", "node.confirm.send")),
            Loss("run", ("node.session.send", "node.nonce.send", "node.statement.send", "node.events.send")),
        ):
            assert subject.take(loss) == []
