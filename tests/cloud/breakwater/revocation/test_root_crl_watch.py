"""`cloud.breakwater.revocation.root_crl_watch`: an operator reads of a root's CRL in time, in the log and readiness."""

import logging
import os
from datetime import timedelta

import pytest

from cloud.audit import AuditEntries
from cloud.breakwater.revocation.root_crl_watch import LOG_EVERY, NEXT, RootCrlWatch
from cloud.breakwater.revocation.root_crls import ROOT_CRL_SOON, RootCrls
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.root_crls import RootCrlStore
from cloud.http.readiness import Readiness
from tests.cloud.breakwater.chains import NOW
from tests.cloud.breakwater.revocation.test_root_crls import LIFE, some_rows
from tests.cloud.breakwater.support import Clock, Issuer


async def test_a_missing_and_an_ending_crl_are_named(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    clock, rows = Clock(NOW), await some_rows()
    crls = RootCrls(RootCrlStore(issuer.engine), rows, AuditEntries(AuditRow, clock, os.urandom), clock)
    watch = RootCrlWatch(crls, clock)
    readiness = Readiness(watch.probe)

    async def state() -> tuple[str, list[str], list[str]]:
        await watch.check()
        report = await readiness.report()
        assert all(fault.next == NEXT for fault in (*report.faults, *report.warnings))
        return report.status, [each.code for each in report.faults], [each.code for each in report.warnings]

    assert await state() == ("degraded", ["crl_root_missing"], [])
    assert list(watch.missing) == ["root-9"]
    await crls.import_crl("operator", await rows.crl(1))
    assert await state() == ("ready", [], [])
    assert list(watch.missing) == []
    clock.at = NOW + LIFE - ROOT_CRL_SOON + timedelta(seconds=1)
    assert await state() == ("ready", [], ["crl_root_expiring"])
    rows.state = "tainted"
    assert await state() == ("ready", [], ["crl_root_expiring", "crl_root_omits"])
    rows.state = "active"
    clock.at = NOW + LIFE
    assert await state() == ("degraded", ["crl_stale"], [])


async def test_a_finding_is_logged_when_it_is_new_and_once_a_day(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    clock, rows = Clock(NOW), await some_rows()
    crls = RootCrls(RootCrlStore(issuer.engine), rows, AuditEntries(AuditRow, clock, os.urandom), clock)
    watch = RootCrlWatch(crls, clock)

    async def lines() -> int:
        caplog.clear()
        await watch.check()
        return len([record for record in caplog.records if record.name == "cascade.breakwater"])

    with caplog.at_level(logging.WARNING):
        assert await lines() == 1
        clock.forward(LOG_EVERY - timedelta(seconds=1))
        assert await lines() == 0
        clock.forward(timedelta(seconds=1))
        assert await lines() == 1
        await crls.import_crl("operator", await rows.crl(1, now=clock.at))
        assert await lines() == 0
        # The same finding is new again after it was gone.
        rows.state = "revoked"
        assert await lines() == 1
        rows.state = "active"
        assert await lines() == 0
        rows.state = "revoked"
        assert await lines() == 1
