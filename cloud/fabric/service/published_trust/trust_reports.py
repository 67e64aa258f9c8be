"""Use case: store which trust each node uses, the reports of up to a hundred nodes in one transaction.

A node reports the version of the targets that it uses in every session proof and every request for its statement. A
session also shows the node's device certificate, and so its issuer. Reports that differ from the stored values are
kept in memory for a second and then stored. A crash loses reports of that second; the nodes report again.
"""

import msgspec

from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.adoption import AdoptionStore, TrustReport
from cloud.fabric.store.keys import REPORTS, REPORTS_PATIENCE_SECONDS, REPORTS_ROWS_MAX, parts_of
from cloud.fabric.store.rows import GenerationRow
from cloud.fabric.tuf.current_trust import CurrentTrust
from protocol.limits import SEQ_MAX

_NOTHING = TrustReport()


class TrustReports:
    """The reports that are not stored yet, by generation."""

    def __init__(self, *, transaction: Transaction, adoption: AdoptionStore, current_trust: CurrentTrust) -> None:
        self._transaction = transaction
        self._adoption = adoption
        self._current_trust = current_trust
        self._reported: dict[str, TrustReport] = {}

    def __len__(self) -> int:
        return len(self._reported)

    def note(self, generation: GenerationRow, version: int | msgspec.UnsetType, issuer: str = "") -> None:
        """Keep a report for the next `store`, if it differs from the stored values.

        `version` is the reported trust version; UNSET if the node reported none. `issuer` is the key id of the CA of
        the device certificate; empty if the request showed none.
        """
        reported = version if isinstance(version, int) and 0 < version <= SEQ_MAX else 0
        known = self._reported.get(generation.id, _NOTHING)
        if reported <= max(generation.trust_version, known.trust_version) and issuer in (
            "",
            known.device_issuer or generation.device_issuer,
        ):
            return
        self._reported[generation.id] = TrustReport(max(reported, known.trust_version), issuer or known.device_issuer)

    async def store(self) -> None:
        """Store all reports. A version higher than the current one is ignored."""
        reported = dict(self._reported)
        for part in parts_of(reported, REPORTS_ROWS_MAX):
            async with self._transaction(REPORTS, patience=REPORTS_PATIENCE_SECONDS):
                await self._adoption.write(part, self._current_trust.version)
            for key, entry in part.items():
                if self._reported.get(key) is entry:
                    del self._reported[key]
