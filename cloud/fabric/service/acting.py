"""Use case: the transaction of an operator's change. It checks that the operator's token still is valid.

The guard checks the token when the request arrives. The body may arrive much later, and other checks take time. A
change that is committed after the token was revoked or has expired would be a change without an operator.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from cloud.fabric.errors import TokenRefused
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.keys import token_key
from cloud.fabric.store.rows import TokenRow
from cloud.fabric.store.tokens import TokenStore
from cloud.http.guard import Operator
from protocol.ids import TokenId


def is_valid(row: TokenRow, now: datetime) -> bool:
    """Whether a token is neither revoked nor expired."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


@dataclass(frozen=True, kw_only=True)
class Acting:
    """Begins transactions of operators."""

    now: Now
    begin: Transaction
    tokens: TokenStore

    @asynccontextmanager
    async def transaction(
        self, operator: Operator, *keys: str, reads: tuple[str, ...] = (), dry_run: bool = False
    ) -> AsyncIterator[TokenRow]:
        """Begin a transaction with these keys, and yield the row of the operator's token.

        No token can be revoked between this check and the commit. With `dry_run`, everything that the block writes is
        rolled back, the audit included. The block makes its answer before its end. Raises TokenRefused.
        """
        try:
            async with self.begin(*keys, reads=(*reads, token_key(operator.id))):
                row = await self.tokens.find(TokenId(operator.id))
                if row is None or not is_valid(row, self.now()):
                    raise TokenRefused("the token was revoked or has expired in the meantime")
                yield row
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass


class _DryRun(Exception):
    """Rolls a transaction back."""
