"""Use case: operators' tokens, the one way to be an operator until Headwaters takes this over, behind the same guard."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cloud.fabric import schemas
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.store.rows import TokenRow
from cloud.fabric.store.tokens import TokenStore
from cloud.http.guard import Operator
from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash
from protocol.ids import TokenId
from protocol.limits import NAME_CHARS_MAX


def new_token(entropy: Entropy, now: datetime, name: str, expires_at: datetime | None) -> tuple[TokenRow, str]:
    """A token's row and its text; nothing is stored."""
    secret = make_secret("cot", entropy(ENTROPY_BYTES))
    token = TokenId(new_id("tok", now, entropy))
    return TokenRow(token, name, secret_hash(secret), now, expires_at, None), secret


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Makes tokens, shows and revokes them, and finds the operator of a token."""

    now: Now
    entropy: Entropy
    transaction: Transaction
    audit: AuditLog
    tokens: TokenStore

    async def authenticate(self, text: str) -> Operator | None:
        """The operator of a token: checksum before the database, then hash, expiry, revocation."""
        try:
            secret = parse_secret("cot", text)
        except SecretFormatError:
            return None
        row = await self.tokens.find_by_hash(secret_hash(secret))
        if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self.now()):
            return None
        return Operator(row.id, row.name)

    async def create(self, operator: Operator, body: schemas.CreateToken) -> schemas.CreatedToken:
        """Raises Invalid."""
        now = self.now()
        expires_at = body.expires_at
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
            raise Invalid("expires_at: a time with zone, in the future")
        name = check_text("name", body.name, NAME_CHARS_MAX, empty=False)
        utc = None if expires_at is None else expires_at.astimezone(UTC)
        row, secret = new_token(self.entropy, now, name, utc)
        async with self.transaction():
            await self.tokens.insert(row)
            await self.audit.write(operator_actor(operator), "token.created", row.id, "", name=row.name)
        return schemas.CreatedToken(views.token(row), secret)

    async def page(self, cursor: str, limit: int) -> schemas.Page[schemas.Token]:
        """Raises Invalid."""
        rows = await self.tokens.page(views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([views.token(row) for row in rows], [row.id for row in rows], limit)

    async def revoke(self, operator: Operator, token: TokenId) -> schemas.Token:
        """It counts no more from the next request on. A repeat is harmless. Raises NotFound, Conflict.

        No token revokes itself, so that a valid one is left and nobody locks the installation's door from outside.
        """
        if token == operator.id:
            raise Conflict("a token cannot revoke itself; use another one for it")
        async with self.transaction():
            row = await self.tokens.find(token)
            if row is None:
                raise NotFound("no such token")
            if row.revoked_at is None:
                await self.tokens.revoke(token, self.now())
                await self.audit.write(operator_actor(operator), "token.revoked", token, "", name=row.name)
                row = await self.tokens.find(token) or row
        return views.token(row)
