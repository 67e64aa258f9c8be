"""Snapshots before and after a test: the rows of both databases, the files of a directory."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.cloud import Cloud

_STORED_LATER: dict[str, frozenset[str]] = {
    # Fabric answers a session first. A background task stores the values that the session reported up to half a minute
    # later. So these columns can change during a refused request, because of an earlier accepted session.
    # `tests/cloud/fabric/service/nodes/test_sessions.py` proves that a refused session leaves nothing to store in them.
    "fabric.generation": frozenset({
        # SeenSessions: the values of the last session, its holders, the result of its PCR quote
        "seen_at", "seen_fingerprint", "agent_version", "certificate_not_after", "holders", "holders_version",
        "pcr_values", "pcr_accepted", "pcr_fault", "pcr_changed_at",
        # Fingerprints: the comparison with the enrolled fingerprint
        "drift", "machines",
        # TrustReports
        "trust_version", "device_issuer",
    }),
    # SeenSessions: the reported mode, and the last ask of a superseded generation
    "fabric.node": frozenset({"development", "superseded_asked_at", "superseded_asked_generation"}),
}  # fmt: skip

_MOVING: dict[str, frozenset[str]] = {
    # Background tasks write these columns independently of callers.
    **_STORED_LATER,
    "fabric.tuf_metadata": frozenset({"*"}),
    "fabric.tuf_target": frozenset({"*"}),
    "breakwater.crl": frozenset({"*"}),
    "breakwater.shard": frozenset({"published_revision", "crl_number", "published_number", "next_publish_at"}),
    # A refusal may add an audit entry.
    "fabric.audit": frozenset({"*"}),
    "breakwater.audit": frozenset({"*"}),
}

_MOVING_ROWS = frozenset({("fabric.installation", "beat")})
"""Tables and first columns of rows that background tasks write: the last sign of life of any replica."""


def dump(cloud: Cloud, *aside: str) -> dict[str, list[str]]:
    """Every row of both databases, without columns that background tasks change.

    `aside` names more columns to leave out, as service.table.column.
    """
    rows: dict[str, list[str]] = {}
    for service in ("fabric", "breakwater"):
        connection = sqlite3.connect(f"file:{cloud.directory / service / 'database.sqlite'}?mode=ro", uri=True)
        try:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                moving = _MOVING.get(f"{service}.{table}", frozenset())
                if "*" in moving:
                    continue
                cursor = connection.execute(f'SELECT * FROM "{table}"')  # noqa: S608  (the name is from the schema)
                names = [column[0] for column in cursor.description]
                rows[f"{service}.{table}"] = sorted(
                    repr([
                        (name, value)
                        for name, value in zip(names, row, strict=True)
                        if name not in moving and f"{service}.{table}.{name}" not in aside
                    ])
                    for row in cursor
                    if (f"{service}.{table}", row[0]) not in _MOVING_ROWS
                )  # fmt: skip
        finally:
            connection.close()
    return rows


@contextmanager
def unchanged(cloud: Cloud, *aside: str) -> Iterator[None]:
    """Assert that the block changes no row of the databases. `aside` is as for `dump`."""
    before = dump(cloud, *aside)
    yield
    after = dump(cloud, *aside)
    changed = [
        f"{sign} {table}: {row}"
        for table in sorted({*before, *after})
        for sign, old, new in (("gone", after, before), ("new", before, after))
        for row in new.get(table, [])
        if row not in old.get(table, [])
    ]
    assert after == before, "\n".join(["the databases changed:", *changed])


def files_of(directory: Path) -> dict[str, bytes]:
    """The content of every file below a directory by relative path, without the empty lock file."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
