"""Command: `cascade init`, which makes a new installation.

The installation is built in a temporary directory beside its target, and renamed at the end. A fault before the rename
leaves nothing that looks like an installation.
"""

import asyncio
import os
import re
import secrets
import shutil
from argparse import ArgumentParser, Namespace
from ipaddress import ip_address
from pathlib import Path

import msgspec

from cloud.breakwater import bootstrap as breakwater
from cloud.cli.errors import EXIT_INTERNAL, EXIT_TRY_AGAIN, EXIT_USAGE, CliError
from cloud.cli.installation.databases import Databases, database_options, read_databases
from cloud.cli.options import directory_option, json_option
from cloud.cli.owner import INSTALLATION
from cloud.cli.show import emit
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, sync_directory, write_secret
from cloud.fabric import bootstrap as fabric
from cloud.storage import DatabaseUnavailable, StorageError
from cloud.storage.errors import DatabaseBusy, DatabaseInUse
from cloud.storage.fresh import made_fresh
from protocol.ids import IdError, parse_trust_domain

PASSPHRASE_BYTES = 24
"""Random bytes of the passphrase that encrypts all keys: 192 bits."""
PASSPHRASE_FILE = "../secrets/passphrase"  # noqa: S105  (a path, relative to the service's settings file)
PORT_MAX = 65535
PORTS = 6
"""Ports of one installation: Fabric, Breakwater, the trust repository, CRLs with OCSP, and on 127.0.0.1 the metrics of
Fabric and of Breakwater, in this order."""
HOST_CHARS_MAX = 253
"""Characters of a DNS name (RFC 1035 section 3.1: 255 bytes on the wire)."""
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)
"""A DNS name (RFC 1123 section 2.1). It becomes part of URLs and certificates and never changes."""


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Makes keys, certificates, databases and the first operator token below DIR. At the end it prints what to back "
        "up and which keys to take offline. DIR must be empty, or must not exist. A failure leaves nothing behind."
    )
    json_option(parser)
    directory_option(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="DNS name or address by which nodes reach the services; it never changes (default 127.0.0.1)",
    )
    parser.add_argument(
        "--bind",
        default="",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 means all (default: --host; required if --host is a name)",
    )
    parser.add_argument(
        "--port-base",
        type=int,
        default=8440,
        metavar="PORT",
        help="first of six ports in a row: Fabric, Breakwater, trust repository, CRLs and OCSP, and on loopback the metrics of Fabric and of Breakwater (default 8440)",
    )
    parser.add_argument(
        "--trust-domain",
        default="cascade.internal",
        metavar="DOMAIN",
        help="SPIFFE trust domain; it never changes (default cascade.internal)",
    )
    database_options(parser)
    parser.set_defaults(run=initialise)


class Made(msgspec.Struct, frozen=True):
    """The report that `cascade init` prints at its end. All values but the pin and the URL are absolute paths."""

    directory: str
    trust_pin: str
    url: str
    environment: str
    back_up: tuple[str, ...]
    take_offline: tuple[str, ...]


class Place(msgspec.Struct, frozen=True):
    """Addresses of the services: `host` for URLs and certificates, `bind` for listeners, `PORTS` ports from `port`."""

    host: str
    bind: str
    port: int

    def url(self, scheme: str, offset: int) -> str:
        """Return the URL of the port with this offset from the first port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port + offset}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _place(args: Namespace) -> Place:
    if not 0 < args.port_base <= PORT_MAX - PORTS:
        raise CliError(
            EXIT_USAGE,
            "port_invalid",
            f"cannot use --port-base {args.port_base}: it is not between 1 and {PORT_MAX - PORTS}",
        )
    if not _is_address(args.host) and not (len(args.host) <= HOST_CHARS_MAX and _HOST.fullmatch(args.host)):
        raise CliError(
            EXIT_USAGE,
            "host_invalid",
            f"cannot use --host {args.host!r}: it is neither a DNS name nor an address",
            "Give a DNS name in ASCII without scheme and port, or an address without brackets.",
        )
    try:
        bind = str(ip_address(args.bind or args.host))
    except ValueError as error:
        raise CliError(
            EXIT_USAGE,
            "bind_missing",
            f"cannot listen on {args.bind or args.host!r}: it is not an address",
            "Name an address of this machine with --bind. 0.0.0.0 means all its addresses.",
        ) from error
    return Place(host=args.host, bind=bind, port=args.port_base)


def _check_target(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CliError(
            EXIT_USAGE,
            "directory_in_use",
            f"cannot make an installation in {directory}: it exists and is not empty",
            "Name another directory. Nothing was changed.",
        )


def initialise(args: Namespace) -> None:
    """Make the installation and print what to do next. Raises CliError."""
    directory: Path = args.dir.absolute()
    place = _place(args)
    databases = read_databases(args)
    _check_target(directory)
    try:
        parse_trust_domain(args.trust_domain)
    except IdError as error:
        raise CliError(EXIT_USAGE, "trust_domain_invalid", f"cannot use {args.trust_domain!r}: {error}") from error
    building = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    try:
        building.mkdir(mode=0o700, parents=True)
        made = asyncio.run(_install(building, directory, place, args.trust_domain, databases))
    except DatabaseInUse as error:
        raise CliError(
            EXIT_USAGE, "database_in_use", str(error), "Name an empty database. Nothing was changed."
        ) from error
    except (DatabaseBusy, DatabaseUnavailable) as error:
        raise CliError(
            EXIT_TRY_AGAIN,
            "database_unavailable",
            f"cannot make the installation: {error}",
            "Check that the database's server runs, and that address, user and password are right. Nothing was left "
            "behind.",
        ) from error
    except (OSError, KeyFileError, StorageError) as error:
        raise CliError(
            EXIT_INTERNAL, "init_failed", f"cannot make the installation: {error}", "Nothing was left behind."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    emit(made, args.json, _human)


async def _install(building: Path, directory: Path, place: Place, trust_domain: str, databases: Databases) -> Made:
    """Make the whole installation, or leave nothing behind."""
    async with made_fresh(databases.breakwater), made_fresh(databases.fabric):
        made = await _build(building, directory, place, trust_domain, databases)
        _put_in_place(building, directory)
    return made


def _put_in_place(building: Path, directory: Path) -> None:
    if directory.exists():
        directory.rmdir()
    building.rename(directory)
    sync_directory(directory.parent)


async def _build(building: Path, directory: Path, place: Place, trust_domain: str, databases: Databases) -> Made:
    """Make everything below `building`, which `_put_in_place` later renames to `directory`."""
    for name in ("secrets", "operator", "breakwater", "fabric", "offline"):
        (building / name).mkdir(mode=0o700)
    passphrase = secrets.token_urlsafe(PASSPHRASE_BYTES).encode()
    write_secret(building / "secrets" / "passphrase", passphrase + b"\n")
    offline = building / "offline"
    issuer = await breakwater.initialise(
        breakwater.Plan(
            directory=building / "breakwater",
            offline=offline,
            tls={"breakwater": building / "breakwater" / "tls", "fabric": building / "fabric" / "tls"},
            trust_domain=trust_domain,
            hosts=(place.host,),
            port=place.port + 1,
            passphrase=passphrase,
            passphrase_file=PASSPHRASE_FILE,
            mode="production",
            listen=place.bind,
            pki_port=place.port + 3,
            metrics_port=place.port + 5,
            public_url=place.url("http", 3),
            database=databases.breakwater,
        ),
        utc_now,
    )
    control = await fabric.initialise(
        fabric.Plan(
            directory=building / "fabric",
            offline=offline,
            trust_domain=trust_domain,
            fabric_url=place.url("https", 0),
            breakwater_url=place.url("https", 1),
            repository_url=place.url("http", 2),
            root=issuer.root,
            nodes_ca=issuer.nodes_ca,
            services_ca=issuer.services_ca,
            listen=place.bind,
            port=place.port,
            tuf_port=place.port + 2,
            metrics_port=place.port + 4,
            passphrase=passphrase,
            passphrase_file=PASSPHRASE_FILE,
            mode="production",
            database=databases.fabric,
        ),
        utc_now,
    )
    url = place.url("http", 2)
    operator = directory / "operator"
    write_secret(building / "operator" / "token", control.token.encode() + b"\n")
    environment = f"CASCADE_URL={url}\nCASCADE_TRUST={control.pin}\nCASCADE_TOKEN_FILE={operator / 'token'}\n"
    write_secret(building / "operator" / "env", environment.encode())
    return Made(
        directory=str(directory),
        trust_pin=str(control.pin),
        url=url,
        environment=str(operator / "env"),
        back_up=tuple(str(directory / name) for name in ("secrets", "offline", "operator", "breakwater", "fabric")),
        take_offline=tuple(str(directory / "offline" / path.name) for path in sorted(offline.iterdir())),
    )


def _next_steps(made: Made) -> str:
    if made.directory == str(INSTALLATION):
        return """\
  systemctl enable --now cascade
  cascade tenant create NAME"""
    return f"""\
  cascade up --dir {made.directory}
  set -a; . {made.environment}; set +a
  cascade tenant create NAME"""


def _human(made: Made) -> str:
    return f"""\
The new installation is in {made.directory}.

Trust pin (every activation file contains it; compare it when you hand out a file):
  {made.trust_pin}

Back up now, before the services run (later, `cascade backup make` does it while they run):
  {chr(10).join(made.back_up).replace(chr(10), chr(10) + "  ")}

Take offline: move these keys to a medium that is not connected to a computer, together with a
copy of the passphrase in {made.directory}/secrets. The services never read these keys:
  {chr(10).join(made.take_offline).replace(chr(10), chr(10) + "  ")}

Next:
{_next_steps(made)}"""
