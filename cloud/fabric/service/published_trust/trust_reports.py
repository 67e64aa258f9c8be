"""Use case: writes down which trust each node works by, many nodes in one transaction.

Nodes report the version of the targets they work by in every session proof and with every question for a statement;
sessions show a device certificate and so its issuer. Both are kept in memory for a second, and stored only where they
are news. What a crash takes, the node reports again.
"""

import msgspec

from cloud.fabric.service.ports import Transaction
from cloud.fabric.store.adoption import AdoptionStore, TrustReport
from cloud.fabric.store.rows import GenerationRow
from cloud.fabric.tuf.current_trust import CurrentTrust
from protocol.limits import SEQ_MAX

_NOTHING = TrustReport()


class TrustReports:
    """What each generation reported, until it is stored."""

    def __init__(self, *, transaction: Transaction, adoption: AdoptionStore, current_trust: CurrentTrust) -> None:
        self._transaction = transaction
        self._adoption = adoption
        self._current_trust = current_trust
        self._reported: dict[str, TrustReport] = {}

    def __len__(self) -> int:
        return len(self._reported)

    def note(self, generation: GenerationRow, version: int | msgspec.UnsetType, issuer: str = "") -> None:
        """Remember what a node reported and showed, if it is news."""
        reported = version if isinstance(version, int) and 0 < version <= SEQ_MAX else 0
        known = self._reported.get(generation.id, _NOTHING)
        if reported <= max(generation.trust_version, known.trust_version) and issuer in (
            "",
            known.device_issuer or generation.device_issuer,
        ):
            return
        self._reported[generation.id] = TrustReport(max(reported, known.trust_version), issuer or known.device_issuer)

    async def store(self) -> None:
        """Store all of it. A version that is not published here is ignored."""
        reported = dict(self._reported)
        if not reported:
            return
        async with self._transaction():
            await self._adoption.write(reported, self._current_trust.version)
        for key, entry in reported.items():
            if self._reported.get(key) is entry:
                del self._reported[key]
