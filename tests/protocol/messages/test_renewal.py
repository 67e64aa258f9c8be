"""Messages of a renewal with fresh evidence: the path of the proof, and requests with an unknown field."""

import msgspec
import pytest

from protocol.encoding import json_decode, json_encode
from protocol.evidence import EndorsementEvidence
from protocol.messages.renewal import PATH_RENEWALS, StartRenewal, path_proof

START = StartRenewal(b"certificate", EndorsementEvidence(b"ek", b"ak"), "1.0")


def test_the_proof_goes_below_its_renewal() -> None:
    assert path_proof("rnw_1") == f"{PATH_RENEWALS}/rnw_1/proof"


def test_a_start_round_trips() -> None:
    assert json_decode(json_encode(START), StartRenewal) == START


def test_a_request_with_an_unknown_field_is_refused() -> None:
    body = json_encode(START)[:-1] + b',"added_later":1}'
    with pytest.raises(msgspec.ValidationError, match="added_later"):
        json_decode(body, StartRenewal)
