"""The catalogue of problems has a text for each code."""

import re
from typing import get_args

from cloud.http.catalogue import TEXTS
from protocol.problems import KINDS, Code


def test_every_code_has_a_text_of_its_own() -> None:
    assert list(TEXTS) == list(KINDS)
    assert set(TEXTS) == set(get_args(Code))
    assert len({text.meaning for text in TEXTS.values()}) == len(TEXTS)


def test_a_text_is_one_to_three_sentences_that_do_not_repeat_the_title_or_the_next_step() -> None:
    for code, text in TEXTS.items():
        assert text.meaning.endswith("."), code
        assert 1 <= len(re.findall(r"\.(?: |$)", text.meaning)) <= 3, code
        assert not text.elsewhere or text.elsewhere.endswith("."), code
        for said in (KINDS[code].title, KINDS[code].next):
            assert said.removesuffix(".") not in text.meaning, code
