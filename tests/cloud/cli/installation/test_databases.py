"""The options of databases: an address for each service, or an SQLite file."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from cloud.cli.errors import CliError
from cloud.cli.installation.databases import Databases, database_options, read_databases
from cloud.storage import PostgresLocation


def read(*options: str) -> Databases:
    parser = ArgumentParser()
    database_options(parser)
    return read_databases(parser.parse_args(options))


def test_the_usual_databases_are_files() -> None:
    found = read()
    assert found.breakwater == found.fabric == Path("database.sqlite")


def test_an_address_and_a_password_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("a password")
    (tmp_path / "pw").chmod(0o600)
    found = read(
        "--fabric-database",
        "postgresql://u@/n?host=/run/postgresql",
        "--database-password-file",
        str(tmp_path / "pw"),
    )
    assert isinstance(found.fabric, PostgresLocation)
    assert found.fabric.password_file == str(tmp_path / "pw")
    assert found.breakwater == Path("database.sqlite")


def test_one_database_for_both_is_refused() -> None:
    address = "postgresql://u@/n?host=/run/postgresql"
    with pytest.raises(CliError) as refused:
        read("--fabric-database", address, "--breakwater-database", address)
    assert refused.value.code == "database_shared"
