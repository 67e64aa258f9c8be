"""Settings of a service: the types of a `settings.toml`, and its strict reader.

A service's own settings are a subclass of `ServiceSettings`. `cloud/process/gates.py` has the rules for production.
"""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeVar

import msgspec

from cloud.crypto.keyfile import passed_credential, secret_path
from cloud.events.nats.settings import NatsSettings
from cloud.events.settings import EventSettings
from cloud.storage.location import Location, PostgresLocation
from protocol.encoding import json_encode

SETTINGS_BYTES_MAX = 64 * 1024
"""A settings file is smaller than 2 kB. A larger file was named by mistake."""

RESTORING_FILE = "restoring"
"""The file in the installation's directory while a restore has not ended (`cloud.backup.target`)."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class SettingsError(Exception):
    """The settings file cannot be used. The message names the file and the reason."""


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Address of a listener, and its purpose.

    `purpose` is "api" for the service's API, "tuf" for the read-only trust repository, "pki" for CRLs, OCSP and CA
    certificates, or "metrics" for `/metrics`. In production, listeners with the purpose "tuf" or "pki" may be plaintext,
    because their answers are signed. A "metrics" listener may be plaintext on a loopback address. An "api" listener
    needs TLS there.
    """

    host: str = "127.0.0.1"
    port: Port = 0
    tls: bool = True
    purpose: Literal["api", "tuf", "pki", "metrics"] = "api"


class AdmissionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of requests by caller (`cloud.http.admission`).

    `shared_networks` are the networks of load balancers in front of the service, which hide the addresses of callers
    (`["192.0.2.0/28"]`). `factor` multiplies all limits, for services on larger machines.
    """

    shared_networks: tuple[str, ...] = ()
    factor: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.0

    def __post_init__(self) -> None:
        """Check the networks. Raises ValueError, which the reader of the settings reports with the name of the file."""
        for network in self.shared_networks:
            ip_network(network)


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The database of a service. `engine` "sqlite" uses the file `path`; "postgresql" uses all other fields.

    `host` is a name, an address, or the absolute path of a socket's directory. The file `password_file` has the
    password alone, on one line. Without it, the server must authenticate us in another way, such as by the socket's
    peer. The server's certificate must be from a CA in `tls_ca_file`. `pool` is the maximum number of connections of
    one process.
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
    """Return the settings for `location`. Passwords and CAs stay in their files."""
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
    """Return the `[database]` table of a settings file.

    It has the engine's own fields, and those that differ from the defaults.
    """
    given, usual = describe_database(location), DatabaseSettings()
    named = ("path",) if given.engine == "sqlite" else ("engine", "host", "port", "name", "user")
    fields = [name for name in given.__struct_fields__ if name in named or getattr(given, name) != getattr(usual, name)]
    # JSON strings and numbers are valid TOML.
    return "\n".join(["[database]", *(f"{name} = {json_encode(getattr(given, name)).decode()}" for name in fields)])


def metrics_toml(port: int) -> str:
    """Return the `[[listeners]]` table of the metrics on 127.0.0.1, followed by an empty line. Empty for port 0."""
    if not port:
        return ""
    return f'[[listeners]]\nhost = "127.0.0.1"\nport = {port}\ntls = false\npurpose = "metrics"\n\n'


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that every service has. Relative paths are relative to the settings file."""

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "tuf", "pki", "metrics")
    """The purposes of listeners for which this service has routes."""
    mode: Literal["production", "development"] = "production"
    trust_domain: str
    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    debug: bool = False
    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    database: DatabaseSettings = DatabaseSettings()
    admission: AdmissionSettings = AdmissionSettings()
    events: EventSettings = EventSettings()
    nats: NatsSettings | None = None
    passphrase_file: str = "passphrase"  # noqa: S105  (a file's name)
    key_files: tuple[str, ...] = ()
    base: str = ""
    """The folder of the settings file. `load_settings` sets it."""
    secret_files: tuple[str, ...] = ()
    """The files of secrets that the settings file names, also if a credential replaces them. `load_settings` sets it."""

    def with_credentials(self) -> Self:
        """Return the settings with each secret that systemd has passed to the process, in place of its file.

        The credential `passphrase` has the passphrase of the key files, `database-password` the password of a
        PostgreSQL database, `nats-credentials` the credentials for NATS. A setting that names a credential itself (`credential:NAME`) is unchanged.
        """
        database = self.database
        if database.engine == "postgresql":
            password_file = passed_credential("database-password", database.password_file)
            database = msgspec.structs.replace(database, password_file=password_file)
        nats, nats_file = self.nats, ""
        if nats is not None:
            nats_file = nats.credentials_file
            nats = msgspec.structs.replace(nats, credentials_file=passed_credential("nats-credentials", nats_file))
        return msgspec.structs.replace(
            self,
            nats=nats,
            passphrase_file=passed_credential("passphrase", self.passphrase_file),
            database=database,
            secret_files=tuple(filter(None, (self.passphrase_file, self.database.password_file, nats_file))),
        )

    def path(self, name: str) -> Path:
        """Return a path of the settings as an absolute path. A secret's name may be `credential:NAME`.

        Raises:
            KeyFileError: systemd has not passed this credential.
        """
        return secret_path(name, Path(self.base))

    def database_location(self) -> Location:
        """Return the location that the storage engine opens. A password stays in its file.

        Raises:
            KeyFileError: a credential is named that systemd has not passed.
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
    """Read a settings file into a `kind`. Secrets that systemd has passed replace the files that it names.

    Raises:
        SettingsError: a restore into the installation has not ended. Or the file is missing, too large, or not TOML,
            or has an unknown key or a value of the wrong type. The message names the key.
    """
    if (path.parent.parent / RESTORING_FILE).exists():
        raise SettingsError(
            f"cannot use {path}: a restore into this installation has not ended; repeat `cascade restore` with the same "
            "backup, or empty the directory and its databases"
        )
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
            raise SettingsError(f'cannot use {path}: this service has no routes for a "{listener.purpose}" listener')
    return msgspec.structs.replace(settings, base=str(path.parent.resolve())).with_credentials()
