"""Use case: Fabric's part of a restore. It marks the database, and ends what may have been revoked after the backup.

The new epoch orders all later statements above those of the time before the restore. Events get an epoch of their own.
Tokens that were revoked after the backup would be valid again, so every token is revoked and the operator gets a new
one.
"""

from datetime import datetime

from cloud.audit import SYSTEM, AuditEntries
from cloud.events.epoch import raise_epoch
from cloud.fabric.entropy import system_entropy
from cloud.fabric.service.operators.tokens import new_token
from cloud.fabric.store import stores_over
from cloud.fabric.store.rows import AuditRow
from cloud.storage import ServiceEngine

RESTORED_AT = "restored_at"
"""Value of the installation: the time of the restore, RFC 3339."""
RESTORED_FROM = "restored_from"
"""Value of the installation: the time of the backup, RFC 3339. What happened between the two times is lost."""
RESTORED_PARTS = "restored_parts"
"""Value of the installation: `whole` or `keys`, the parts of the backup. `keys` brings no nodes back."""
TOKEN_NAME = "restore"  # noqa: S105  (the name of a token, not its text)


async def mark_restored(engine: ServiceEngine, now: datetime, made_at: datetime, parts: str) -> str:
    """Raise the epoch, store the marks, revoke all tokens and make one. Returns the token's text, a secret.

    It is one transaction. Raises StorageError.
    """
    stores = stores_over(engine)
    async with stores.transaction():
        values = await stores.installation.read_all()
        epoch = int(values["epoch"]) + 1
        await stores.installation.set("epoch", str(epoch).encode())
        await stores.installation.set(RESTORED_AT, now.isoformat().encode())
        await stores.installation.set(RESTORED_FROM, made_at.isoformat().encode())
        await stores.installation.set(RESTORED_PARTS, parts.encode())
        await raise_epoch(engine, now)
        await stores.tokens.revoke_all(now)
        row, secret = new_token(system_entropy, now, TOKEN_NAME, None)
        await stores.tokens.insert(row)
        entries = AuditEntries(AuditRow, lambda: now, system_entropy)
        detail = {"epoch": epoch, "backup": made_at.isoformat(), "parts": parts, "token": row.id}
        await stores.audit.insert(entries.make(SYSTEM, "installation.restored", "", detail=detail))
    return secret
