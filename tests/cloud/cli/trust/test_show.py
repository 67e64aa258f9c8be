"""`cascade trust show` prints the published trust and exports it to files."""

import pytest

from cloud.cli.main import main
from protocol.signed.trust import TARGETS
from tests.cloud.cli.trust.support import DAY, FIRST, Installation, shown

pytestmark = pytest.mark.slow


def test_what_is_published_is_shown_and_exported(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trust", "show", "--json", "--export", installation.path("now")]) == 0
    document = shown(capsys)
    assert (document["targets_version"], document["root_version"], document["warnings"]) == (1, 1, [])
    assert [(ca["place"], ca["key_id"]) for ca in document["authorities"]] == [
        ("root", FIRST.root.key_id),
        ("nodes", FIRST.nodes.key_id),
        ("services", FIRST.services.key_id),
    ]
    assert {path.name for path in (installation.directory / "now").iterdir()} == {
        "1.root.json",
        "targets.json",
        *TARGETS,
    }
    assert main(["trust", "show"]) == 0
    text = capsys.readouterr().out
    assert FIRST.root.key_id in text
    assert "Warning" not in text
    installation.now += 306 * DAY
    installation.repository.refresh(installation.now)
    assert main(["trust", "show"]) == 0
    assert "Warning: the targets ends" in capsys.readouterr().out
    assert main(["trust", "show", "--export", installation.path("now"), "--json"]) == 2
