"""The tests' clients refuse a refusal that the API document does not have."""

import pytest

from protocol.problems import KINDS, Code, document
from tests.documented import Undocumented, check_documented, check_problem

NODE = "/v1/nodes/node_01k00000000000000000000000"


def test_a_documented_refusal_passes() -> None:
    check_problem("fabric", "GET", NODE, document(KINDS["not_found"]))
    check_problem("fabric", "DELETE", NODE, document(KINDS["method_not_allowed"]))
    check_problem("fabric", "GET", "/elsewhere", document(KINDS["not_found"]))
    check_documented("fabric", "GET", NODE, 200, {"content-type": "application/json"}, b"{}")


@pytest.mark.parametrize("code", ["conflict", "malformed", "peer_refused"])
def test_another_refusal_is_an_error(code: Code) -> None:
    with pytest.raises(Undocumented, match=code):
        check_problem("fabric", "GET", f"{NODE}?query=1", document(KINDS[code]))
