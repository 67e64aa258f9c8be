"""`cloud.breakwater.revocation.notifier`: a revocation is counted and wakes the CRL publisher and the feed."""

from tests.cloud.breakwater.support import FABRIC, Issuer, closing


async def test_it_counts_and_wakes(issuer: Issuer) -> None:
    parts = issuer.parts
    for woken in (parts.crl_publisher._woken, parts.feed._woken):
        assert not woken.is_set()
    await issuer.generations.close_up_to(FABRIC, closing())
    for woken in (parts.crl_publisher._woken, parts.feed._woken):
        assert woken.is_set()
    text = (await parts.metrics.registry.render()).decode()
    assert 'cascade_breakwater_revoked_total{kind="generation",reason="superseded"} 1.0' in text


async def test_without_a_new_revocation_nothing_is_woken(issuer: Issuer) -> None:
    assert await issuer.service_certificates.revoke_all(FABRIC, "ledger", "superseded") == ()
    assert not issuer.parts.feed._woken.is_set()
