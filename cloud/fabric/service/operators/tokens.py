"""Use case: operator tokens. A bearer token is the only way to authenticate as an operator.

The service Headwaters will take this over. The guard (`cloud.http.guard`) stays the same then.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric import schemas
from cloud.fabric.entropy import Entropy, new_id
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting, is_valid
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text, check_time
from cloud.fabric.service.operators.token_refusals import UNKNOWN, TokenRefusals
from cloud.fabric.service.ports import Now
from cloud.fabric.store.keys import token_key
from cloud.fabric.store.rows import TokenRow
from cloud.fabric.store.tokens import TokenStore
from cloud.http.guard import Operator
from protocol.codes import ENTROPY_BYTES, SecretFormatError, make_secret, parse_secret, secret_hash
from protocol.ids import TokenId
from protocol.limits import NAME_CHARS_MAX


def new_token(entropy: Entropy, now: datetime, name: str, expires_at: datetime | None) -> tuple[TokenRow, str]:
    """Make the row and the text of a new token. Stores nothing."""
    secret = make_secret("cot", entropy(ENTROPY_BYTES))
    token = TokenId(new_id("tok", now, entropy))
    return TokenRow(token, name, secret_hash(secret), now, expires_at, None), secret


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Makes, lists and revokes tokens, and finds the operator of a token."""

    now: Now
    entropy: Entropy
    acting: Acting
    refusals: TokenRefusals
    audit: AuditLog
    tokens: TokenStore

    async def authenticate(self, text: str) -> Operator | None:
        """The operator of a token's text; None if the token is unknown, expired or revoked.

        The checksum in the text is checked first, so a mistyped token costs no query. Refusals are recorded in the
        audit, up to a limit.
        """
        try:
            secret = parse_secret("cot", text)
        except SecretFormatError:
            await self.refusals.note(UNKNOWN, "the text is no token")
            return None
        row = await self.tokens.find_by_hash(secret_hash(secret))
        if row is None:
            await self.refusals.note(UNKNOWN, "no such token")
            return None
        if not is_valid(row, self.now()):
            await self.refusals.note(row.id, "expired" if row.revoked_at is None else "revoked")
            return None
        return Operator(row.id, row.name)

    async def create(self, operator: Operator, body: schemas.CreateToken) -> schemas.CreatedToken:
        """Make a token. The answer carries its text. Raises Invalid, TokenRefused.

        A token makes none that is valid for longer than itself. Without `expires_at`, the new token expires together
        with the token of the operator.
        """
        now = self.now()
        expires_at = None if body.expires_at is None else check_time("expires_at", body.expires_at)
        if expires_at is not None and expires_at <= now:
            raise Invalid("expires_at: must be in the future")
        name = check_text("name", body.name, NAME_CHARS_MAX, empty=False)
        row, secret = new_token(self.entropy, now, name, expires_at)
        async with self.acting.transaction(operator, token_key(row.id)) as own:
            if own.expires_at is not None and expires_at is None:
                row = msgspec.structs.replace(row, expires_at=own.expires_at)
            elif own.expires_at is not None and expires_at is not None and expires_at > own.expires_at:
                raise Invalid(f"expires_at: not after your own token expires, {own.expires_at.isoformat()}")
            await self.tokens.insert(row)
            await self.audit.write(operator_actor(operator), "token.created", row.id, "", name=row.name)
        return schemas.CreatedToken(views.token(row), secret)

    async def page(self, cursor: str, limit: int) -> schemas.Page[schemas.Token]:
        """A page of tokens, the oldest first. Raises Invalid."""
        rows = await self.tokens.page(views.read_cursor(cursor), views.read_limit(limit) + 1)
        return views.page([views.token(row) for row in rows], [row.id for row in rows], limit)

    async def revoke(self, operator: Operator, token: TokenId) -> schemas.Token:
        """Revoke a token; the next request with it is refused. A repeat changes nothing. Raises NotFound, Conflict.

        A token cannot revoke itself. So at least one valid token is left, and operators cannot lock themselves out.
        """
        if token == operator.id:
            raise Conflict("a token cannot revoke itself. Use another token to revoke this one")
        async with self.acting.transaction(operator, token_key(token)):
            row = await self.tokens.find(token)
            if row is None:
                raise NotFound("no such token")
            if row.revoked_at is None:
                await self.tokens.revoke(token, self.now())
                await self.audit.write(operator_actor(operator), "token.revoked", token, "", name=row.name)
                row = await self.tokens.find(token) or row
        return views.token(row)
