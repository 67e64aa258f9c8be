"""Production gates: rules that the settings must satisfy before a service starts in production.

The gates refuse settings that are good for development only. Each gate has a name, which the refusal shows, and a test.
In development no gate is checked.
"""

from collections.abc import Callable, Iterable

from cloud.crypto.keyfile import KeyFileError, check_private, read_passphrase
from cloud.events.nats.settings import TLS_SCHEME
from cloud.process.settings import ServiceSettings, SettingsError

DEFAULT_PASSPHRASES = frozenset({"changeme", "password", "passphrase", "secret", "cascade", "development"})
"""Passphrases of examples. A passphrase that consists of one of these words, repeated or with digits added, is
refused."""
SINGLE_REPLICA_ENGINES = frozenset({"sqlite"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Gate = Callable[[ServiceSettings], str]


class GateRefused(SettingsError):
    """A service refuses to start in production. `rule` is the name of the gate."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"cannot start in production (gate {rule}): {detail}")
        self.rule = rule


def _sqlite_is_not_shared(settings: ServiceSettings) -> str:
    if settings.database.engine in SINGLE_REPLICA_ENGINES and settings.replicas > 1:
        return f"SQLite supports one replica, but the settings have replicas = {settings.replicas}"
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
    return f"the database is on another machine, {database.host}, and tls_ca_file is missing"


def _nats_is_not_in_the_clear(settings: ServiceSettings) -> str:
    if settings.nats is None or settings.nats.url.startswith(TLS_SCHEME):
        return ""
    return f"the connection to NATS has no TLS; write {TLS_SCHEME} in the url"


def _nats_credentials_are_private(settings: ServiceSettings) -> str:
    if settings.nats is None:
        return ""
    try:
        check_private(settings.path(settings.nats.credentials_file))
    except KeyFileError as error:
        return str(error)
    return ""


def _plaintext_is_for_signed_files(settings: ServiceSettings) -> str:
    for listener in settings.listeners:
        if listener.tls or listener.purpose in ("tuf", "pki"):
            continue
        if listener.purpose == "metrics" and listener.host in LOOPBACK_HOSTS:
            continue
        return f"the listener on {listener.host}:{listener.port} has no TLS"
    return ""


def _debug_is_off(settings: ServiceSettings) -> str:
    return "debug is switched on" if settings.debug else ""


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
        return f"the passphrase in {path} is one of an example"
    if len(set(passphrase)) < 6:
        return f"the passphrase in {path} has fewer than 6 different characters"
    return ""


GATES: dict[str, Gate] = {
    "sqlite-is-not-shared": _sqlite_is_not_shared,
    "database-password-is-private": _database_password_is_private,
    "database-is-not-in-the-clear": _database_is_not_in_the_clear,
    "nats-is-not-in-the-clear": _nats_is_not_in_the_clear,
    "nats-credentials-are-private": _nats_credentials_are_private,
    "plaintext-is-for-signed-files": _plaintext_is_for_signed_files,
    "debug-is-off": _debug_is_off,
    "secrets-are-private": _secrets_are_private,
    "passphrase-is-real": _passphrase_is_real,
}
"""Name -> gate. A gate returns the reason of its refusal, or an empty text. Breakwater has one more gate: it refuses a
development CA when it reads its CAs."""
DATABASE_GATES = ("database-password-is-private", "database-is-not-in-the-clear")
"""The gates that `cascade init` checks before it makes an installation."""


def check_gates(settings: ServiceSettings, rules: Iterable[str] = tuple(GATES)) -> None:
    """Check the gates `rules`. Outside production nothing is checked.

    Raises:
        GateRefused: the first gate that refuses.
    """
    if settings.mode != "production":
        return
    for rule in rules:
        if wrong := GATES[rule](settings):
            raise GateRefused(rule, wrong)
