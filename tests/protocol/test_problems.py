"""Problem codes: each is listed, has a status and says what to do."""

import re
from typing import get_args

from protocol.problems import KINDS, Code, document


def test_every_problem_code_is_listed_and_says_what_to_do() -> None:
    assert set(KINDS) == set(get_args(Code))
    for kind in KINDS.values():
        assert re.fullmatch(r"[a-z_]+", kind.code)
        assert kind.next.endswith((".", "`"))
        assert kind.title
        assert 400 <= kind.status < 600
        assert kind.conclusive == (kind.status < 500 and kind.status != 429)
        assert document(kind, "d").detail == "d"
