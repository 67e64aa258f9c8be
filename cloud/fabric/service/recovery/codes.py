"""Use case: check and use the recovery codes that machines present.

A code is checked twice. The start of a recovery finds the code, and refuses a code that can never be accepted. The
transaction that decides after the proof uses the code, for the node that the proof and the fingerprint show. A code is
used once, for one recovery case. A machine that repeats its recovery in the same case may present the same code again.

Every refusal names its cause, because only the holder of a code learns about that code. A refusal uses up nothing.
"""

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from cloud.fabric.errors import RecoveryCodeRefused
from cloud.fabric.service.audit_log import ANONYMOUS, AuditLog
from cloud.fabric.service.ports import Now
from cloud.fabric.service.recovery.tries import Caller, RecoveryTries
from cloud.fabric.store.recovery_codes import RecoveryCodeStore
from cloud.fabric.store.rows import NodeRow, RecoveryCodeRow
from protocol.codes import SecretFormatError, parse_recovery_code
from protocol.ids import RecoveryCodeId, RecoveryId


def recovery_code_hash(key: bytes, code: str) -> str:
    """HMAC-SHA-256 of a code in its canonical form, in hex, as Fabric stores it. `key` is the installation's."""
    return hmac.new(key, code.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RecoveryCodes:
    """Finds recovery codes by their text, and uses them up."""

    key: bytes = field(repr=False)
    now: Now
    audit: AuditLog
    codes: RecoveryCodeStore
    tries: RecoveryTries

    @asynccontextmanager
    async def attempt(self, caller: Caller) -> AsyncIterator[None]:
        """Run a block in which the caller presents or uses a code: refusals of the code are counted and recorded.

        The block includes the transaction in which `use` is called, because a refusal rolls it back. Raises TooOften
        before the block if the caller has presented too many wrong codes.
        """
        self.tries.check(caller)
        try:
            yield
        except RecoveryCodeRefused as error:
            await self.tries.note(caller, error)
            raise

    async def find(self, text: str) -> RecoveryCodeRow:
        """The code with this text, for the start of a recovery. Call it inside `attempt`. Raises RecoveryCodeRefused.

        The check in the text comes first, so a mistyped code costs no query. A used code is returned: `use` knows
        whether it was used for the same case.
        """
        try:
            code = parse_recovery_code(text)
        except SecretFormatError as error:
            raise RecoveryCodeRefused(str(error)) from error
        return self._usable(await self.codes.find_by_hash(recovery_code_hash(self.key, code)), "no such recovery code")

    async def find_proved(self, proof_key: str) -> RecoveryCodeRow:
        """As `find`, by the public key with which a request proves the code. Raises RecoveryCodeRefused."""
        detail = "no such recovery code, or an earlier release issued it; such a code is not accepted in a file"
        return self._usable(await self.codes.find_by_proof_key(proof_key), detail)

    def _usable(self, row: RecoveryCodeRow | None, unknown: str) -> RecoveryCodeRow:
        """The code, if it may be accepted. A used one is returned. Raises RecoveryCodeRefused."""
        if row is None:
            raise RecoveryCodeRefused(unknown)
        if row.used_at is None:
            _check_in_force(row, self.now())
        return row

    async def use(
        self, code: RecoveryCodeId, node: NodeRow, case: RecoveryId, *, fingerprint_matches: bool
    ) -> RecoveryCodeRow:
        """Use up a code for a node and a case, in the caller's transaction, which has the key of the code.

        Call it inside `attempt`. A code that this case has used already is accepted again, and nothing is written.
        `fingerprint_matches` says whether the machine has the fingerprint of the node; a code without a node needs it.
        Raises RecoveryCodeRefused.
        """
        row = await self.codes.find(code)
        if row is None:
            raise RecoveryCodeRefused("no such recovery code", node=node.id)
        if row.tenant != node.tenant:
            raise _refused(row, "the code is for another tenant", node.id)
        if row.node and row.node != node.id:
            raise _refused(row, "the code is for another node", node.id)
        if row.used_at is not None and row.used_case == case:
            return row
        now = self.now()
        _check_in_force(row, now, node.id)
        if not row.node and not fingerprint_matches:
            raise _refused(
                row, "the code is for any node of the tenant whose fingerprint matches, and it does not match", node.id
            )
        if not await self.codes.use(row.id, case, now):
            raise _refused(row, "the code was used or revoked in the meantime", node.id)
        await self.audit.write(ANONYMOUS, "recovery.code_used", row.id, row.tenant, node=node.id, case=case)
        return row


def _check_in_force(row: RecoveryCodeRow, now: datetime, node: str = "") -> None:
    """Raises RecoveryCodeRefused unless the code is accepted at `now`."""
    if row.revoked_at is not None:
        raise _refused(row, f"the code was revoked at {row.revoked_at:%Y-%m-%d %H:%M} UTC", node)
    if row.used_at is not None:
        raise _refused(row, f"the code was used at {row.used_at:%Y-%m-%d %H:%M} UTC; it works once", node)
    if row.expires_at <= now:
        raise _refused(row, f"the code expired at {row.expires_at:%Y-%m-%d %H:%M} UTC", node)
    if row.usable_from > now:
        raise RecoveryCodeRefused(
            f"the code was issued again, and is accepted from {row.usable_from:%Y-%m-%d %H:%M} UTC on",
            row.usable_from,
            code=row.id,
            tenant=row.tenant,
            node=node,
        )


def _refused(row: RecoveryCodeRow, detail: str, node: str) -> RecoveryCodeRefused:
    return RecoveryCodeRefused(detail, code=row.id, tenant=row.tenant, node=node)
