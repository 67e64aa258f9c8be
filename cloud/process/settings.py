"""Settings of a service: one `settings.toml` each, read once, strictly; and the gates of production.

Production does not start on what is only good for development. Each gate is a rule with a name, so that a refusal
can be looked up and each has a test. Development starts on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import msgspec

from cloud.crypto.keyfile import KeyFileError, check_private, read_passphrase, secret_path
from protocol.encoding import json_encode

if TYPE_CHECKING:
    from cloud.storage.location import Location

SETTINGS_BYTES_MAX = 64 * 1024
DEFAULT_PASSPHRASES = frozenset({"changeme", "password", "passphrase", "secret", "cascade", "development"})
"""Words that stand in examples; repeated or padded they are no better."""

SINGLE_REPLICA_ENGINES = frozenset({"sqlite"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class SettingsError(Exception):
    """The settings file cannot be used; the message names the file and what is wrong."""


class GateRefused(SettingsError):
    """Production refuses to start; `rule` is the gate's name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"production refuses to start ({rule}): {detail}")
        self.rule = rule


class ListenerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a listener stands. `purpose` "tuf" is the read-only repository, "pki" CRLs, OCSP and CA certificates.

    These two may be plaintext, and no other: all that they give out is signed.
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
    """The settings that give `location` again; a file's password or CAs stay in their files."""
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
    """What every service is told. A service's own settings are a subclass. Relative paths are relative to the file."""

    PURPOSES: ClassVar[tuple[str, ...]] = ("api", "tuf", "pki")
    """Of the listeners that this service has something for."""
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
        """What the storage engine is configured with. A password stays in its file.

        Raises:
            KeyFileError: a credential is named that systemd has not given.
        """
        from cloud.storage.location import PostgresLocation  # the port is slow to load, and commands read settings too

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


def _sqlite_is_not_shared(settings: ServiceSettings) -> str:
    if settings.database.engine in SINGLE_REPLICA_ENGINES and settings.replicas > 1:
        return f"SQLite serves one replica, {settings.replicas} are set"
    return ""


def _database_password_is_private(settings: ServiceSettings) -> str:
    if settings.database.engine != "postgresql" or not settings.database.password_file:
        return ""
    try:
        check_private(settings.path(settings.database.password_file))
    except KeyFileError as error:
        return str(error)
    return ""


def _database_is_not_in_the_clear(settings: ServiceSettings) -> str:
    database = settings.database
    if database.engine != "postgresql" or database.tls_ca_file or database.host.startswith("/"):
        return ""
    if database.host in LOOPBACK_HOSTS:
        return ""
    return f"the database on {database.host} is another machine's, and no tls_ca_file says how to know it"


def _plaintext_is_for_signed_files(settings: ServiceSettings) -> str:
    for listener in settings.listeners:
        if not listener.tls and listener.purpose == "api":
            return f"the listener on {listener.host}:{listener.port} has no TLS"
    return ""


def _debug_is_off(settings: ServiceSettings) -> str:
    return "debug is on" if settings.debug else ""


def _secrets_are_private(settings: ServiceSettings) -> str:
    for name in (settings.passphrase_file, *settings.key_files):
        try:
            check_private(settings.path(name))
        except KeyFileError as error:
            return str(error)
    return ""


def _passphrase_is_real(settings: ServiceSettings) -> str:
    path = settings.path(settings.passphrase_file)
    try:
        passphrase = read_passphrase(path).decode("utf-8", "replace").lower()
    except KeyFileError as error:
        return str(error)
    if any(not passphrase.replace(word, "").strip("0123456789-_ !") for word in DEFAULT_PASSPHRASES):
        return f"the passphrase in {path} is a default"
    if len(set(passphrase)) < 6:
        return f"the passphrase in {path} is made of too few characters"
    return ""


Gate = Callable[[ServiceSettings], str]

GATES: dict[str, Gate] = {
    "sqlite-is-not-shared": _sqlite_is_not_shared,
    "database-password-is-private": _database_password_is_private,
    "database-is-not-in-the-clear": _database_is_not_in_the_clear,
    "plaintext-is-for-signed-files": _plaintext_is_for_signed_files,
    "debug-is-off": _debug_is_off,
    "secrets-are-private": _secrets_are_private,
    "passphrase-is-real": _passphrase_is_real,
}
"""Name to rule; a rule returns what is wrong, or nothing. A development key or CA is gated where CAs are read."""


DATABASE_GATES = ("database-password-is-private", "database-is-not-in-the-clear")
"""The gates that can be asked before anything is made."""


def check_gates(settings: ServiceSettings, rules: Iterable[str] = tuple(GATES)) -> None:
    """Refuse to start in production on anything that a gate of `rules` names.

    Raises:
        GateRefused: the first rule that is broken.
    """
    if settings.mode != "production":
        return
    for rule in rules:
        if wrong := GATES[rule](settings):
            raise GateRefused(rule, wrong)
