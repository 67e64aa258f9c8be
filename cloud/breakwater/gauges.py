"""Metrics that are read at each scrape: records by state, ages of CRLs, ends of CA certificates, uses of CA keys."""

from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.metrics import IssuerMetrics
from cloud.breakwater.revocation.root_crl_watch import RootCrlWatch
from cloud.breakwater.revocation.root_crls import RootCrls
from cloud.breakwater.store.metrics_reads import MetricsStore
from cloud.storage import StorageError


class Gauges:
    """The gauges of one issuer process. After `attach`, the registry reads them at each scrape."""

    def __init__(
        self,
        metrics: IssuerMetrics,
        reads: MetricsStore,
        authorities: Authorities,
        signer: Signer,
        now: Callable[[], datetime],
        crl_period: timedelta,
        root_crls: RootCrls,
        root_crl_watch: RootCrlWatch,
    ) -> None:
        self._metrics = metrics
        self._reads = reads
        self._authorities = authorities
        self._signer = signer
        self._now = now
        self._crl_period = crl_period
        self._root_crls = root_crls
        self._root_crl_watch = root_crl_watch
        self._crl_ages: dict[str, float] = {}
        self._root_crls_left: dict[str, float] = {}

    def attach(self) -> None:
        """Register the gauges in the registry. Call it once."""
        self._metrics.watch(
            self._signer.usage, self._seconds_left, lambda: self._crl_ages, lambda: self._root_crls_left
        )
        self._metrics.registry.before_reading(self._read)

    def _seconds_left(self) -> dict[str, float]:
        now = self._now()
        active = [row.id for row in self._authorities.rows() if row.state == "active"]
        issuers = [(authority, self._authorities.find(authority)) for authority in active]
        return {
            authority: (issuer.not_after - now).total_seconds() for authority, issuer in issuers if issuer is not None
        }

    async def _read(self) -> None:
        now = self._now()
        try:
            for state, count in (await self._reads.states()).items():
                self._metrics.records.set(count, state)
            for row in self._authorities.rows():
                due = await self._reads.next_publication(row.id)
                if due is not None:
                    self._crl_ages[row.id] = (now - due + self._crl_period).total_seconds()
            current = await self._root_crls.current()
            self._root_crls_left = {
                **dict.fromkeys(self._root_crl_watch.missing, 0.0),
                **{root: (crl.next_update - now).total_seconds() for root, crl in current.items()},
            }
        except StorageError:
            self._metrics.database_up.set(0)
            return
        self._metrics.database_up.set(1)
