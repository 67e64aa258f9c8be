"""`cloud.fabric.errors`: the table of problem codes."""

import inspect
from datetime import UTC, datetime

import pytest

from cloud.fabric import errors
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from protocol.problems import KINDS


def test_every_error_has_a_code() -> None:
    """Base classes are left out. An error of a class without a code would be answered as a fault."""
    classes = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.FabricError) and kind not in (errors.FabricError, errors.Refused)
    }
    assert classes == set(errors.CODES)
    assert all(code in KINDS for code in errors.CODES.values())
    assert errors.refusal(errors.FabricError()).code == "internal"
    told = errors.refusal(errors.GenerationClosed("signed", "fresh"))
    assert (told.code, told.statement, told.freshness) == ("generation_closed", "signed", "fresh")
    assert errors.refusal(errors.IssuerRefused("conflict", "inner words")).detail == ""
    refused = errors.refusal(errors.RecoveryRefused("the quota is used up", datetime(2026, 12, 1, tzinfo=UTC)))
    assert refused.document().allowed_at == datetime(2026, 12, 1, tzinfo=UTC)
    assert errors.refusal(errors.RecoveryRefused("another machine")).document().allowed_at is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("tier_refused", errors.TierNotAllowed),
        ("csr_refused", errors.CsrRefused),
        ("evidence_refused", errors.EvidenceNotAccepted),
    ],
)
def test_an_error_of_the_verifier_becomes_a_refusal_with_its_step(code: str, kind: type[errors.Refused]) -> None:
    refused = errors.evidence_error(EvidenceRefused(7, code, "why"))  # type: ignore[arg-type]
    assert type(refused) is kind
    assert refused.detail == "why (step 7)"
