"""Refusals for the user: each code has a next step, an exit code, and a line in the pages."""

import re
from pathlib import Path

import pytest

from node.airgap.errors import AirgapRefused
from node.exits import Exit
from protocol.airgap import errors as wire
from protocol.airgap.errors import AirgapError

PAGE = Path(__file__).parents[3] / "docs" / "air-gap.md"
OF_THE_CLOUD = {wire.RequestInvalid, wire.RequestExpired}


def kinds() -> list[type[AirgapError]]:
    return [each for each in AirgapError.__subclasses__() if each not in OF_THE_CLOUD]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_each_refusal_has_a_next_step_and_an_exit_code(kind: type[AirgapError]) -> None:
    refused = AirgapRefused.of_error(kind("the reason"), "import the answer")
    assert (refused.text, refused.code) == ("cannot import the answer: the reason", kind.code)
    assert refused.exit in (Exit.VERIFICATION, Exit.USAGE, Exit.HARDWARE_MISMATCH)
    assert refused.next.endswith(".")
    assert refused.next != Exit.VERIFICATION.next


def test_the_page_has_each_code_with_its_exit_code() -> None:
    rows = re.findall(r"^\| `(airgap_\w+)` \| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    expected = {(kind.code, str(int(AirgapRefused.of_error(kind("x"), "y").exit))) for kind in kinds()}
    extra = {("airgap_request_outstanding", "2"), ("airgap_agent_running", "75"), ("airgap_needs_tpm", "2")}
    assert set(rows) == expected | extra
