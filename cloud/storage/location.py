"""Where a service's database is: a path (SQLite) or a PostgreSQL server's address.

A location is a value without a secret: the password stays in its file and is read for each connection, so that it
stands in no argument list, log or memory dump of ours, and can be changed while the service runs.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

POSTGRES_PORT = 5432
POOL_DEFAULT = 10
"""Connections a process; a transaction holds one from its begin to its end."""
SCHEME = "postgresql"


class PostgresLocation(msgspec.Struct, frozen=True, kw_only=True):
    """One database of a PostgreSQL server.

    `host` is a name, an address, or the directory of a socket. `tls_ca_file` names the CAs that the server's
    certificate must come from; without it the connection is in the clear. `needs_fsync` refuses a server that does
    not write through to the disk.
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
        """True for a socket in the file system."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        """The address as `parse_location` reads it; it holds no secret."""
        options = {"host": self.host, "password_file": self.password_file, "tls_ca_file": self.tls_ca_file}
        given = {name: value for name, value in options.items() if value}
        given["pool"] = str(self.pool)
        given["needs_fsync"] = "yes" if self.needs_fsync else "no"
        return f"{SCHEME}://{quote(self.user, safe='')}@:{self.port}/{quote(self.name, safe='')}?{urlencode(given)}"


Location = Path | PostgresLocation


def parse_location(text: str) -> Location:
    """A path, or `postgresql://USER@HOST:PORT/NAME`, with `?host=DIRECTORY` for a socket and `password_file=FILE`.

    Raises:
        ValueError: not such an address, or one with a password in it, where other processes could read it.
    """
    if not text.startswith(f"{SCHEME}://"):
        return Path(text)
    parts = urlsplit(text)
    if parts.password is not None:
        raise ValueError("cannot take a password in an address: name its file with ?password_file=FILE")
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    unknown = options.keys() - {"host", "password_file", "tls_ca_file", "pool", "needs_fsync"}
    if unknown:
        raise ValueError(f"cannot use the address: unknown option {min(unknown)}")
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
        raise ValueError("cannot use the address: it needs a user, a host and the database's name")
    return location
