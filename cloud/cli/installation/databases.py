"""Options that name the services' databases, and their reader."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.process.gates import DATABASE_GATES, GateRefused, check_gates
from cloud.process.settings import ServiceSettings, describe_database
from cloud.storage import Location, PostgresLocation
from cloud.storage.location import parse_location

DATABASE_FILE = Path("database.sqlite")
"""An SQLite file, relative to the service's folder."""


def database_options(parser: ArgumentParser) -> None:
    """Add the options that name PostgreSQL databases."""
    parser.add_argument(
        "--breakwater-database",
        metavar="ADDRESS",
        help="empty PostgreSQL database: postgresql://USER@HOST:PORT/NAME, or postgresql://USER@/NAME?host=DIRECTORY "
        "for a socket; add tls_ca_file=FILE to the query for a server on another machine (default: SQLite below DIR)",
    )
    parser.add_argument(
        "--fabric-database",
        metavar="ADDRESS",
        help="the same for Fabric; it must be another database (default: SQLite below DIR)",
    )
    parser.add_argument(
        "--database-password-file",
        type=Path,
        metavar="FILE",
        help="file with the password of both databases; the services read it from there, so keep it in its place",
    )


class Databases(msgspec.Struct, frozen=True):
    """The services' databases, one each. The path of an SQLite file is relative to the service's folder."""

    breakwater: Location
    fabric: Location


def read_databases(args: Namespace) -> Databases:
    """Return the databases that the options name. Raises CliError."""
    found = Databases(
        _database(args, "--breakwater-database", args.breakwater_database, DATABASE_FILE),
        _database(args, "--fabric-database", args.fabric_database, DATABASE_FILE),
    )
    servers = [each for each in (found.breakwater, found.fabric) if isinstance(each, PostgresLocation)]
    if len({(each.host, each.port, each.name) for each in servers}) < len(servers):
        raise CliError(
            EXIT_USAGE,
            "database_shared",
            "cannot use one database for both services: each needs its own",
            "Name another database for one of them.",
        )
    if args.database_password_file and not servers:
        raise CliError(
            EXIT_USAGE,
            "database_missing",
            "cannot use --database-password-file: no PostgreSQL database is named",
            "Add --breakwater-database or --fabric-database, or leave out --database-password-file.",
        )
    return found


def _database(args: Namespace, option: str, address: str | None, usual: Path) -> Location:
    if address is None:
        return usual
    try:
        location = parse_location(address)
    except ValueError as error:
        raise CliError(EXIT_USAGE, "database_invalid", f"cannot use {option}: {error}") from error
    if not isinstance(location, PostgresLocation):
        raise CliError(
            EXIT_USAGE,
            "database_invalid",
            f"cannot use {option} {address}: it is not of the form postgresql://USER@HOST/NAME",
        )
    password_file = args.database_password_file or location.password_file
    location = msgspec.structs.replace(
        location,
        password_file=str(Path(password_file).absolute()) if password_file else "",
        tls_ca_file=str(Path(location.tls_ca_file).absolute()) if location.tls_ca_file else "",
        needs_fsync=True,
    )
    try:
        check_gates(ServiceSettings(trust_domain="", database=describe_database(location)), DATABASE_GATES)
    except GateRefused as error:
        raise CliError(EXIT_USAGE, "database_refused", f"cannot use {option}: {error}") from error
    return location
