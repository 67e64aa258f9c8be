"""Values: why a file of an exchange without a network is refused. Each error has a stable `code` and a text.

AirgapError
|-- DocumentDamaged     the file or the text is damaged, cut short or mistyped; it names the lines of the text
|-- DocumentTooLarge    the file is larger than allowed, or too large for the wanted form
|-- WrongDocument       the file is a request where an answer is expected, or the reverse
|-- UnknownFormat       a newer version has written the file
|-- RequestInvalid      the request's signature does not verify, or its parts contradict each other
|-- RequestExpired      the request is too old
|-- AnswerUnverified    the answer's signature does not verify, or its parts contradict each other
|-- AnswerExpired       the answer is too old
|-- AnswerUsed          the answer was imported before
|-- AnswerOutdated      the answer is for an earlier request of this machine
|-- AnswerForOther      the answer is for another machine
|-- NothingRequested    there is no outstanding request
`-- SealUnopened        the answer is sealed to another chip, or the seal is damaged
"""

LINES_SHOWN_MAX = 8
"""Damaged lines that a text of an error names."""


class AirgapError(ValueError):
    """A file is refused. Nothing was changed. The text says why, as the end of a sentence: "cannot DO THING: TEXT"."""

    code = "airgap_refused"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class DocumentDamaged(AirgapError):
    """The file is damaged. `lines` are the numbers of the damaged lines of a text, empty for a file in JSON."""

    code = "airgap_damaged"

    def __init__(self, text: str, lines: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.lines = lines


class DocumentTooLarge(AirgapError):
    """The file is too large. The text has the limit in bytes."""

    code = "airgap_too_large"


class WrongDocument(AirgapError):
    """The file is a document of the exchange, of the other kind."""

    code = "airgap_wrong_document"


class UnknownFormat(AirgapError):
    """The file's format is later than this version knows."""

    code = "airgap_unknown_format"


class RequestInvalid(AirgapError):
    """The request does not verify."""

    code = "airgap_request_invalid"


class RequestExpired(AirgapError):
    """The request is too old."""

    code = "airgap_request_expired"


class AnswerUnverified(AirgapError):
    """The answer does not verify."""

    code = "airgap_answer_unverified"


class AnswerExpired(AirgapError):
    """The answer is too old."""

    code = "airgap_answer_expired"


class AnswerUsed(AirgapError):
    """The answer was imported before."""

    code = "airgap_answer_used"


class AnswerOutdated(AirgapError):
    """The answer is for an earlier request of this machine."""

    code = "airgap_answer_outdated"


class AnswerForOther(AirgapError):
    """The answer is for another machine."""

    code = "airgap_answer_for_other"


class NothingRequested(AirgapError):
    """There is no outstanding request to which an answer could belong."""

    code = "airgap_nothing_requested"


class SealUnopened(AirgapError):
    """The seal cannot be opened with this secret."""

    code = "airgap_seal_unopened"
