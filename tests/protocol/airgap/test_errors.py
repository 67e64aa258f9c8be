"""The errors of an exchange without a network: each has a stable code."""

from protocol.airgap import errors
from protocol.airgap.errors import AirgapError, DocumentDamaged

CODES = {
    "AirgapError": "airgap_refused",
    "DocumentDamaged": "airgap_damaged",
    "DocumentTooLarge": "airgap_too_large",
    "WrongDocument": "airgap_wrong_document",
    "UnknownFormat": "airgap_unknown_format",
    "RequestInvalid": "airgap_request_invalid",
    "RequestExpired": "airgap_request_expired",
    "AnswerUnverified": "airgap_answer_unverified",
    "AnswerExpired": "airgap_answer_expired",
    "AnswerUsed": "airgap_answer_used",
    "AnswerOutdated": "airgap_answer_outdated",
    "AnswerForOther": "airgap_answer_for_other",
    "NothingRequested": "airgap_nothing_requested",
    "SealUnopened": "airgap_seal_unopened",
}
"""The codes of the published errors. A code is never renamed."""


def test_the_codes_are_those_that_are_published() -> None:
    found = {
        name: kind.code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, AirgapError)
    }
    assert found == CODES
    assert len(set(found.values())) == len(found)


def test_a_damaged_text_names_its_lines() -> None:
    error = DocumentDamaged("line 3 is mistyped", (3,))
    assert (str(error), error.text, error.lines) == ("line 3 is mistyped", "line 3 is mistyped", (3,))
