"""`cloud.breakwater.gauges`: the values are read at each scrape."""

from datetime import timedelta

from cloud.breakwater.gauges import Gauges
from cloud.storage import Statement
from tests.cloud.breakwater.support import FABRIC, Issuer, ask, new_key, opening


def attached(issuer: Issuer) -> None:
    parts = issuer.parts
    reads, period = parts.stores.metrics_reads, timedelta(hours=24)
    Gauges(
        parts.metrics,
        reads,
        parts.authorities,
        parts.signer,
        issuer.clock,
        period,
        parts.root_crls,
        parts.root_crl_watch,
    ).attach()


async def test_the_numbers_that_a_query_knows(issuer: Issuer) -> None:
    attached(issuer)
    await issuer.generations.open(FABRIC, opening())
    await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    text = (await issuer.parts.metrics.registry.render()).decode()
    assert 'cascade_breakwater_records{state="issued"} 3.0' in text
    assert "cascade_breakwater_database_up 1.0" in text
    assert 'cascade_breakwater_authority_expires_seconds{authority="nodes-1"}' in text


async def test_the_metric_shows_a_missing_database(issuer: Issuer) -> None:
    attached(issuer)
    await issuer.engine.close()
    text = (await issuer.parts.metrics.registry.render()).decode()
    assert "cascade_breakwater_database_up 0.0" in text


async def test_a_root_whose_crl_is_missing_has_no_seconds_left(issuer: Issuer) -> None:
    attached(issuer)
    await issuer.engine.fetch(Statement("DELETE FROM root_crl"))
    await issuer.parts.root_crl_watch.check()
    text = (await issuer.parts.metrics.registry.render()).decode()
    assert issuer.parts.root_crl_watch.missing == ("root-1",)
    assert 'cascade_breakwater_root_crl_expires_seconds{authority="root-1"} 0.0' in text
