"""Settings of a service: the types of a `settings.toml`, and its strict reader.

A service's own settings are a subclass of `ServiceSettings`. `cloud/process/gates.py` has what production refuses.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec

from cloud.crypto.keyfile import secret_path
from cloud.storage.location import Location, PostgresLocation
from protocol.encoding import json_encode

SETTINGS_BYTES_MAX = 64 * 1024
"""A settings file is below 2 kB; more is another file named by mistake."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class SettingsError(Exception):
    """The settings file cannot be used; the message names the file and what is wrong."""


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Address of a listener. `purpose` "tuf" is the read-only repository, "pki" CRLs, OCSP and CA certificates.

    These two may be plaintext, and no other: everything they answer is signed.
    """

    host: str = "127.0.0.1"
    port: Port = 0
    tls: bool = True
    purpose: Literal["api", "tuf", "pki"] = "api"


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The database of a service: with `engine` "sqlite" a file at `path`, with "postgresql" all the others.

    `host` is a name, an address, or the absolute path of a socket's directory. `password_file` has the password
    alone, on one line; without it the server must know us otherwise (a socket's peer). `tls_ca_file` has the CAs that
    the server's certificate must come from. `pool` bounds the connections of one process.
    """

    engine: Literal["sqlite", "postgresql"] = "sqlite"
    path: str = "service.sqlite"
    host: str = "/run/postgresql"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 5432
    name: str = "cascade"
    user: str = "cascade"
    password_file: str = ""
    tls_ca_file: str = ""
    pool: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 10


def describe_database(location: Location) -> DatabaseSettings:
    """The settings that name `location`. The password and the CAs stay in their files."""
    if isinstance(location, Path):
        return DatabaseSettings(path=str(location))
    return DatabaseSettings(
        engine="postgresql",
        host=location.host,
        port=location.port,
        name=location.name,
        user=location.user,
        password_file=location.password_file,
        tls_ca_file=location.tls_ca_file,
        pool=location.pool,
    )


def database_toml(location: Location) -> str:
    """The `[database]` table of a settings file: what differs from the defaults."""
    given, usual = describe_database(location), DatabaseSettings()
    named = ("path",) if given.engine == "sqlite" else ("engine", "host", "port", "name", "user")
    fields = [name for name in given.__struct_fields__ if name in named or getattr(given, name) != getattr(usual, name)]
    # A JSON string or number is one of TOML too.
    return "\n".join(["[database]", *(f"{name} = {json_encode(getattr(given, name)).decode()}" for name in fields)])


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the settings of every service have. Relative paths are relative to the file."""

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "tuf", "pki")
    """The purposes of listeners that this service has routes for."""
    mode: Literal["production", "development"] = "production"
    trust_domain: str
    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    debug: bool = False
    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    database: DatabaseSettings = DatabaseSettings()
    passphrase_file: str = "passphrase"  # noqa: S105  (a name, not a passphrase)
    key_files: tuple[str, ...] = ()
    base: str = ""
    """The folder of the file; filled in by `load_settings`."""

    def path(self, name: str) -> Path:
        """A path of the settings, made absolute; a secret's may be `credential:NAME`, which raises KeyFileError."""
        return secret_path(name, Path(self.base))

    def database_location(self) -> Location:
        """The location that the storage engine opens. A password stays in its file.

        Raises:
            KeyFileError: a credential is named that systemd has not given.
        """
        database = self.database
        if database.engine == "sqlite":
            return self.path(database.path)
        return PostgresLocation(
            host=database.host,
            port=database.port,
            name=database.name,
            user=database.user,
            password_file=str(self.path(database.password_file)) if database.password_file else "",
            tls_ca_file=str(self.path(database.tls_ca_file)) if database.tls_ca_file else "",
            pool=database.pool,
            needs_fsync=self.mode == "production",
        )


T = TypeVar("T", bound=ServiceSettings)


def load_settings(path: Path, kind: type[T]) -> T:
    """Read a settings file into `kind`.

    Raises:
        SettingsError: missing, too large, not TOML, an unknown or ill-typed key (named).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > SETTINGS_BYTES_MAX:
        raise SettingsError(f"cannot use {path}: it is larger than {SETTINGS_BYTES_MAX} bytes")
    try:
        settings = msgspec.toml.decode(content, type=kind, strict=True)
    except msgspec.DecodeError as error:
        raise SettingsError(f"cannot use {path}: {error}") from error
    for listener in settings.listeners:
        if listener.purpose not in kind.PURPOSES:
            raise SettingsError(f'cannot use {path}: this service has nothing for a "{listener.purpose}" listener')
    return msgspec.structs.replace(settings, base=str(path.parent.resolve()))
