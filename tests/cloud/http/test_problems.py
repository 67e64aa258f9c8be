"""Refusals and faults over a real listener: each answer is a problem document with a stable code."""

import pytest

from tests.cloud.world import ask


def test_unknown_paths_methods_and_parameters() -> None:
    assert ask("/absent").problem.code == "not_found"
    answer = ask("/open", "DELETE")
    assert (answer.status, answer.problem.code) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    assert ask("/things/1?limit=2").body == b"3"
    assert ask("/things/1?limit=x").problem.code == "invalid"
    assert ask("/things/x").problem.code == "not_found"


@pytest.mark.parametrize("path", ["/absent", "/refuse", "/fault", "/away", "/operator", "/things/1?x=1"])
def test_every_problem_names_its_request(path: str) -> None:
    answer = ask(path)
    assert answer.problem.instance == f"urn:uuid:{answer.headers['x-request-id']}"


def test_a_refusal_carries_its_detail_and_a_fault_nothing(caplog: pytest.LogCaptureFixture) -> None:
    refusal = ask("/refuse").problem
    assert (refusal.code, refusal.detail, refusal.status) == ("code_expired", "it was for last week", 403)
    answer = ask("/fault")
    assert (answer.status, answer.problem.code, answer.problem.detail) == (500, "internal", "")
    assert b"swordfish" not in answer.body
    assert any("RuntimeError" in (record.exc_text or str(record.exc_info)) for record in caplog.records)
