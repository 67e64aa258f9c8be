"""`cascade schema`: the document of a listener, without a server."""

import pytest

from cloud.breakwater.routes.documents import documents
from cloud.cli.main import main


def test_a_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "breakwater-public"]) == 0
    assert capsys.readouterr().out.encode() == documents()["breakwater-public"].encoded


def test_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["schema", "ledger"])
    assert refused.value.code == 2
    assert "breakwater-public, fabric, fabric-repository" in capsys.readouterr().err.replace("'", "")
