"""Pure functions: the configuration of a NATS server for an installation, and the credentials of its services.

The server knows its accounts from the configuration (`resolver: MEMORY`). A consumer of a tenant needs no change of the
configuration: its claims are signed by the key of the consumers' account.
"""

from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.events.nats import claims, subjects
from cloud.events.nats.nkeys import NkeyError, public_text, read_seed, seed_text

STORE_BYTES_DEFAULT = 10 * 1024**3
"""Disk that the server's streams may take."""


class AccountKeys(msgspec.Struct, frozen=True):
    """The keys of the two accounts. They are kept: the name of an account in the server is its public key."""

    services: Ed25519PrivateKey
    consumers: Ed25519PrivateKey


class ServerFiles(msgspec.Struct, frozen=True):
    """Paths on the server's machine. `store` is the folder of its streams."""

    certificate: str
    key: str
    store: str


def server_configuration(
    keys: AccountKeys,
    operator: Ed25519PrivateKey,
    files: ServerFiles,
    listen: str,
    now: datetime,
    store_bytes: int = STORE_BYTES_DEFAULT,
) -> str:
    """Return the text of `nats-server.conf`. It has no secret.

    `operator` signs the two accounts and is needed only here: with a new operator, the accounts stay the same.
    """
    services, consumers = public_text(keys.services, "account"), public_text(keys.consumers, "account")
    # The operator's own key as an account: no user is signed with it.
    system = public_text(operator, "account")
    trusted = claims.sign(operator, "operator", claims.operator(public_text(operator, "operator"), system, now))
    accounts = {
        system: claims.sign(operator, "operator", claims.system_account(system, now)),
        services: claims.sign(operator, "operator", claims.services_account(services, now)),
        consumers: claims.sign(operator, "operator", claims.consumers_account(consumers, services, now)),
    }
    preloaded = "\n".join(f"  {name}: {text}" for name, text in accounts.items())
    return f"""\
# Configuration of the NATS server of a Cascade installation, written by `cascade config nats`.
# `sync_interval: always`: an acknowledged event is on the disk of a single server. docs/events.md says more.
listen: {_quoted(listen)}
server_name: cascade
max_payload: 65536
max_connections: 1200
write_deadline: "5s"
tls {{
  cert_file: {_quoted(files.certificate)}
  key_file: {_quoted(files.key)}
  timeout: 5
}}
jetstream {{
  store_dir: {_quoted(files.store)}
  max_memory_store: 0
  max_file_store: {store_bytes}
  sync_interval: always
}}
operator: {trusted}
system_account: {system}
resolver: MEMORY
resolver_preload: {{
{preloaded}
}}
"""


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def service_credentials(keys: AccountKeys, user: Ed25519PrivateKey, service: str, now: datetime) -> str:
    """Return the text of a service's file of credentials. It is a secret."""
    allowed = claims.service_user(
        public_text(user, "user"),
        service,
        now,
        subjects.service_publishes(service),
        subjects.service_hears(service),
    )
    return credentials_text(claims.sign(keys.services, "account", allowed), user)


def credentials_text(token: str, user: Ed25519PrivateKey) -> str:
    """Return the form of credentials that every client of NATS reads: the claims, and the seed of the user."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed_text(user, 'user')}\n------END USER NKEY SEED------\n"
    )


def read_credentials(content: bytes) -> tuple[str, Ed25519PrivateKey]:
    """Return the claims and the key in a file of credentials. Raises NkeyError."""
    lines = content.decode("ascii", "replace").split("\n")
    found = [lines[number + 1].strip() for number, line in enumerate(lines[:-1]) if line.startswith("-----BEGIN ")]
    if len(found) != 2 or not found[0]:
        raise NkeyError("the file has other parts than the claims and the seed of a user")
    return found[0], read_seed(found[1], "user")
