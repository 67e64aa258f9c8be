"""`cloud.fabric.service.nodes.device_issuance`: which refusal of the exchange a refusal by the issuer becomes."""

import pytest

from cloud.fabric.errors import ActivationClosed, CsrRefused, IssuerRefused, IssuerUnavailable, Refused
from cloud.fabric.service.nodes.device_issuance import issuer_refusals_of


@pytest.mark.parametrize(
    ("code", "kind", "detail"),
    [
        ("csr_refused", CsrRefused, "why"),
        ("conflict", ActivationClosed, "the generation of this renewal was closed meanwhile"),
        ("generation_closed", ActivationClosed, "the generation of this renewal was closed meanwhile"),
    ],
)
def test_expected_refusals_become_the_exchanges_own(code: str, kind: type[Refused], detail: str) -> None:
    with pytest.raises(kind) as caught, issuer_refusals_of("renewal"):
        raise IssuerRefused(code, "why")
    assert caught.value.detail == detail
    assert isinstance(caught.value.__cause__, IssuerRefused)


@pytest.mark.parametrize("error", [IssuerRefused("peer_refused", "who are you"), IssuerUnavailable("away")])
def test_an_unexpected_refusal_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, issuer_refusals_of("activation"):
        raise error
    assert caught.value is error
