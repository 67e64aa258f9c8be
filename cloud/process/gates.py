"""Gates of production: rules that production settings must satisfy before a service starts.

Production does not start with what is only good for development. Each gate has a name, so that a refusal can be looked
up, and a test. Development starts with all of it.
"""

from collections.abc import Callable, Iterable

from cloud.crypto.keyfile import KeyFileError, check_private, read_passphrase
from cloud.process.settings import ServiceSettings, SettingsError

DEFAULT_PASSPHRASES = frozenset({"changeme", "password", "passphrase", "secret", "cascade", "development"})
"""Words of examples. A passphrase of one of them, repeated or padded, is refused."""
SINGLE_REPLICA_ENGINES = frozenset({"sqlite"})
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Gate = Callable[[ServiceSettings], str]


class GateRefused(SettingsError):
    """Production refuses to start; `rule` is the gate's name."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"production refuses to start ({rule}): {detail}")
        self.rule = rule


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


GATES: dict[str, Gate] = {
    "sqlite-is-not-shared": _sqlite_is_not_shared,
    "database-password-is-private": _database_password_is_private,
    "database-is-not-in-the-clear": _database_is_not_in_the_clear,
    "plaintext-is-for-signed-files": _plaintext_is_for_signed_files,
    "debug-is-off": _debug_is_off,
    "secrets-are-private": _secrets_are_private,
    "passphrase-is-real": _passphrase_is_real,
}
"""Name -> rule. A rule returns what is wrong, or an empty text. Where CAs are read, Breakwater refuses a development CA."""
DATABASE_GATES = ("database-password-is-private", "database-is-not-in-the-clear")
"""The gates that can be checked before an installation is made."""


def check_gates(settings: ServiceSettings, rules: Iterable[str] = tuple(GATES)) -> None:
    """Refuse to start in production on anything that one of `rules` finds.

    Raises:
        GateRefused: the first rule that is broken.
    """
    if settings.mode != "production":
        return
    for rule in rules:
        if wrong := GATES[rule](settings):
            raise GateRefused(rule, wrong)
