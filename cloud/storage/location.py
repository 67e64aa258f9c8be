"""Values: where a service's database is, as a path (SQLite) or the address of a PostgreSQL database.

A location contains no secret. The password stays in its file and is read for each connection. So it appears in no
argument list or log, and can be changed while the service runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

POSTGRES_PORT = 5432
POOL_DEFAULT = 10
"""Connections of one process. A transaction holds a connection from its begin to its end."""
SCHEME = "postgresql"

SHM_BYTES = 32 * 1024
"""Size of a new index of the write-ahead log (https://www.sqlite.org/walformat.html)."""


class PostgresLocation(msgspec.Struct, frozen=True, kw_only=True):
    """One database of a PostgreSQL server.

    `host` is a name, an address, or the directory of a socket. The server's certificate must be from a CA in the file
    `tls_ca_file`; without this file the connection is not encrypted. `pool` is the maximum number of connections.
    `needs_fsync` refuses a server that does not write through to the disk.
    """

    host: str
    port: int = POSTGRES_PORT
    name: str
    user: str
    password_file: str = ""
    tls_ca_file: str = ""
    pool: int = POOL_DEFAULT
    needs_fsync: bool = True

    @property
    def is_local(self) -> bool:
        """True if `host` is the directory of a socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        """Return the address in the form that `parse_location` reads. It contains no secret."""
        options = {
            "host": self.host if self.is_local else "",
            "password_file": self.password_file,
            "tls_ca_file": self.tls_ca_file,
            "pool": "" if self.pool == POOL_DEFAULT else str(self.pool),
            "needs_fsync": "" if self.needs_fsync else "no",
        }
        given = urlencode({name: value for name, value in options.items() if value}, safe="/")
        host = "" if self.is_local else f"[{self.host}]" if ":" in self.host else self.host
        address = f"{SCHEME}://{quote(self.user, safe='')}@{host}:{self.port}/{quote(self.name, safe='')}"
        return f"{address}?{given}" if given else address


Location = Path | PostgresLocation


def parse_location(text: str) -> Location:
    """Parse a path, or an address `postgresql://USER@HOST:PORT/NAME`.

    Options of the address's query: `host` (the directory of a socket), `password_file`, `tls_ca_file`, `pool`,
    `needs_fsync`.

    Raises:
        ValueError: the address is not of this form, or contains a password, which other processes could read.
    """
    if not text.startswith(f"{SCHEME}://"):
        return Path(text)
    parts = urlsplit(text)
    if parts.password is not None:
        raise ValueError("an address must not contain a password; name its file with ?password_file=FILE")
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    unknown = options.keys() - {"host", "password_file", "tls_ca_file", "pool", "needs_fsync"}
    if unknown:
        raise ValueError(f"the address has the unknown option {min(unknown)}")
    location = PostgresLocation(
        host=options.get("host") or parts.hostname or "",
        port=parts.port or POSTGRES_PORT,
        name=unquote(parts.path.removeprefix("/")),
        user=unquote(parts.username or ""),
        password_file=options.get("password_file", ""),
        tls_ca_file=options.get("tls_ca_file", ""),
        pool=int(options.get("pool", POOL_DEFAULT)),
        needs_fsync=options.get("needs_fsync", "yes") != "no",
    )
    if not (location.host and location.name and location.user and location.pool > 0):
        raise ValueError("the address needs a user, a host and the name of the database")
    return location


def is_disk_full(directory: Path) -> bool:
    """Return whether the disk of an SQLite file has no place for the log's index. SQLite reports this as an I/O error."""
    try:
        return shutil.disk_usage(directory).free < SHM_BYTES
    except OSError:
        return False
