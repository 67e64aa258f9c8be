"""Snapshots before and after a test: the rows of both databases, the files of a directory."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.cloud import Cloud

_MOVING: dict[str, frozenset[str]] = {
    # Background tasks write these columns independently of callers.
    "fabric.tuf_metadata": frozenset({"*"}),
    "fabric.tuf_target": frozenset({"*"}),
    # A session's certificate is recorded about a second after the session. A renewal also writes `node_public_key`.
    "fabric.generation": frozenset(
        {"seen_at", "seen_fingerprint", "trust_version", "device_issuer", "certificate_not_after"}
    ),
    "breakwater.crl": frozenset({"*"}),
    "breakwater.shard": frozenset({"published_revision", "crl_number", "published_number", "next_publish_at"}),
    # A refusal may add an audit entry.
    "fabric.audit": frozenset({"*"}),
    "breakwater.audit": frozenset({"*"}),
}


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
