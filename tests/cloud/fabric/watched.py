"""Helper: watches every statement of a test inside a transaction, and checks that the transaction's keys cover it.

`cloud.fabric.store.keys` has the rules. SQLite ignores keys, so a missing key would show on PostgreSQL only, and there
only in a race. With this helper it shows in every test, on both engines.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from cloud.events.store.followed import key_of
from cloud.fabric.store.keys import (
    FIRST_EVENTS,
    ORDER,
    REPORTS,
    RESTORE,
    REVOKED,
    TRUST,
    chip_key,
    code_key,
    entry_key,
    machines_key,
    node_key,
    recovery_code_key,
    recovery_key,
    request_key,
    sessions_key,
    tenant_key,
    token_key,
)
from cloud.storage import Row, ServiceEngine, Statement
from cloud.storage.locks import Locks

REPORTED = {
    *("seen_at", "seen_fingerprint", "agent_version", "trust_version", "device_issuer", "certificate_not_after"),
    *("development", "superseded_asked_at", "superseded_asked_generation", "told_at"),
    *("pcr_values", "pcr_fault", "pcr_changed_at", "pcr_accepted"),
}
_TABLE = re.compile(r'(?:FROM|INTO|UPDATE|JOIN) "?(\w+)"?')
_SET = re.compile(r'"(\w+)" = ')
_ONE_LESS_SEAT = re.compile(r'UPDATE "?code"? SET "seats_taken" = "seats_taken" - 1 WHERE')
_HOLDERS_SET = re.compile(
    r'UPDATE "generation" SET ("(seen_at|seen_fingerprint|agent_version|certificate_not_after|holders|sessions_from)" = '
    r'\?, )+"holders_version" = 1 \+ "generation"."holders_version" '
    r'WHERE \("generation"."id" = \? AND "generation"."holders_version" = \?\)'
)
_ONE_MORE_WAKE = re.compile(r'UPDATE "?node"? SET "wake_cursor" = [^,]*\+[^,]* WHERE')
_ADDED = {"audit", "event_object", "event_outbox"}
"""Tables to which rows are only added. The row of an object locks its events by itself."""
_OWNER = {
    "activation": Statement("SELECT code, tenant, node FROM activation WHERE id = {id}"),
    "renewal": Statement("SELECT '' AS code, '' AS tenant, node FROM renewal WHERE id = {id}"),
    "recovery_case": Statement("SELECT '' AS code, '' AS tenant, node FROM recovery_case WHERE id = {id}"),
    "airgap_exchange": Statement("SELECT '' AS code, '' AS tenant, node FROM airgap_exchange WHERE id = {id}"),
}


class Parsed(msgspec.Struct, frozen=True):
    """The tables of a statement, and the columns that an UPDATE sets; empty for other statements."""

    is_read: bool
    tables: frozenset[str]
    columns: frozenset[str]


@cache
def parsed(sql: str) -> Parsed:
    """Read a statement of a store."""
    tables = frozenset(_TABLE.findall(sql)) - {"SET"}  # ON CONFLICT DO UPDATE SET
    changed = sql.partition(" SET ")[2].partition(" WHERE ")[0] if sql.startswith("UPDATE") else ""
    return Parsed(sql.lstrip().startswith("SELECT"), tables, frozenset(_SET.findall(changed)))


class Watched:
    """The watcher of one engine. `seen` has the kinds of keys of each transaction that ran a statement."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._fetch = engine.fetch
        self.seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        engine.fetch = self.fetch  # type: ignore[method-assign]  # watched for the life of the engine
        engine.fetch_one = self.fetch_one  # type: ignore[method-assign]  # the same

    async def fetch(self, statement: Statement, /, **values: Any) -> list[Row]:
        current = self._engine._current()
        if current is not None and not current.locks.is_whole:
            self.seen.add((kinds(current.locks.keys), kinds(current.locks.reads)))
            await self._check(current.locks, statement, values)
        return await self._fetch(statement, **values)

    async def fetch_one(self, statement: Statement, /, **values: Any) -> Row | None:
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None

    async def _check(self, locks: Locks, statement: Statement, values: dict[str, Any]) -> None:
        sql = statement.sqlite
        if is_right_by_itself(sql):
            return
        held = {*locks.keys, *(locks.reads if parsed(sql).is_read else ())}
        for table in parsed(sql).tables:
            wanted = [key async for key in self._keys(table, sql, values)]
            if not wanted and table in _OWNER and parsed(sql).is_read:
                continue  # the row was purged, and no transaction makes a row with its id again
            if not held & set(wanted):
                raise AssertionError(f"a transaction for {locks} runs {sql[:200]!r} with {values}; it needs {wanted}")

    async def _keys(self, table: str, sql: str, values: dict[str, Any]) -> Any:
        """Yield the keys that cover the rows of a statement. Each of them is enough."""
        if table in _OWNER and "id" in values and "secret_hash" not in values:
            for row in await self._fetch(_OWNER[table], id=values["id"]):
                yield node_key(row["node"])
                yield entry_key(row["code"], row["tenant"])
        for key in _named(table, sql, values):
            yield key


_BY_TABLE = {
    "revoked_service": REVOKED,
    "revoked_serial": RESTORE,
    "event_cursor": key_of("breakwater"),
    "event_applied": key_of("breakwater"),
}
"""The key of tables that one key covers. `trust` covers the others of these."""


def _named(table: str, sql: str, values: dict[str, Any]) -> Iterator[str]:
    """The keys that a statement's values name."""
    match table:
        case "activation":
            yield from (entry_key(values["code"], values.get("tenant", "")),) if "code" in values else ()
            yield from (node_key(values["node"]),) if "node" in values else ()
        case "renewal" | "airgap_exchange":
            yield from (node_key(values["node"]),) if "node" in values else ()
            yield from (request_key(values["id"]),) if table != "renewal" and "id" in values else ()
        case "node":
            yield from (node_key(values["id"]),) if "id" in values else (ORDER,) if parsed(sql).is_read else ()
            yield from (chip_key(values["ek_hash"]),) if "ek_hash" in values else ()
            yield from (REPORTS,) if parsed(sql).columns and parsed(sql).columns <= REPORTED else ()
        case "generation":
            yield node_key(values.get("node") or values["id"].rpartition(".")[0])
            yield from (REPORTS,) if parsed(sql).columns and parsed(sql).columns <= REPORTED else ()
        case "code" | "denied_component":
            yield code_key(values["id" if table == "code" else "code"])
        case "tenant":
            yield tenant_key(values["id"])
        case "recovery_code" | "recovery_case":
            yield from _of_recovery(table, values)
        case "ek_root" | "ek_allowed" | "enrolled_component":
            yield (machines_key if table == "enrolled_component" else tenant_key)(values["tenant"])
        case "operator_token":
            yield token_key(values["id"])
        case "tuf_metadata" | "tuf_target" | "revoked_service" | "revoked_serial" | "event_cursor" | "event_applied":
            yield _BY_TABLE.get(table, TRUST)
        case "installation":
            yield _of_installation(values["name"])
        case _:
            raise AssertionError(f"no rule for the table {table}")


def _of_recovery(table: str, values: dict[str, Any]) -> Iterator[str]:
    """The keys of a recovery code, or of the codes or cases of a node. Codes of any node of a tenant are the tenant's.

    The number of grace leases has a key of its tenant, and the machine that was replaced has that of its chip.
    """
    if table == "recovery_case" and "ek_hash" in values and "node" not in values:
        yield chip_key(values["ek_hash"])
    elif table == "recovery_case" and "since" in values:
        yield recovery_key(values["tenant"])
    elif table == "recovery_code" and "id" in values:
        yield recovery_code_key(values["id"])
    elif "node" in values:
        yield node_key(values["node"]) if values["node"] else tenant_key(values["tenant"])


def _of_installation(name: str) -> str:
    """The key that covers a value of the installation."""
    if name == "first_events":
        return FIRST_EVENTS
    if name in ("reconciled", "rebuild"):
        return RESTORE
    if name == "breakwater_issuer":
        return REVOKED
    return sessions_key(name.partition(".")[2]) if "." in name else ORDER


def is_right_by_itself(sql: str) -> bool:
    """Whether a statement needs no key: an audit entry, an event, a seat given back, a step of a wake cursor, a
    compare-and-set."""
    is_free = _ONE_LESS_SEAT.match(sql) or _ONE_MORE_WAKE.match(sql) or _HOLDERS_SET.match(sql)
    return bool(is_free) or (sql.startswith("INSERT") and parsed(sql).tables <= _ADDED)


def kinds(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of keys, in order."""
    return tuple(sorted({key.partition(":")[0] for key in keys}))
