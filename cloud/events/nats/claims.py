"""Pure functions: the signed claims (JWT) by which a NATS server knows its operator, accounts and users.

There are two accounts. The account of the services has the stream. The account of the consumers has the users of
tenants, no stream, and an import of two kinds of requests to the other account. A consumer names the subject of its
answers itself. An answer stays in the consumer's account, so a consumer cannot have an answer written into the stream.
The source of the form is https://github.com/nats-io/jwt, version 2 of the claims.
"""

import hashlib
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.events.nats import subjects
from cloud.events.nats.nkeys import Kind, public_text

_VERSION = 2
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
UNLIMITED = -1
SERVICE_CONNECTIONS_MAX = 100
"""Connections of all replicas of all services."""
CONSUMER_CONNECTIONS_MAX = 1000
"""Connections of the consumers of all tenants."""
CONSUMER_SUBSCRIPTIONS_MAX = 16
CONSUMER_PAYLOAD_BYTES_MAX = 4096
"""A consumer sends requests for the next events, and acknowledgements. Both are shorter than 300 bytes."""
_PUBLISHED_BYTES_MAX = 64 * 1024
_MAX_STREAMS = 1

Claims = dict[str, Any]


def _part(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")


def sign(key: Ed25519PrivateKey, kind: Kind, claims: Claims) -> str:
    """Return the JWT of claims, signed by the key of an operator or of an account."""
    named = {**claims, "iss": public_text(key, kind)}
    digest = hashlib.new("sha512_256", msgspec.json.encode(named)).digest()
    body = {"jti": b32encode(digest).decode().rstrip("="), **named}
    signed = _part(msgspec.json.encode(_HEADER)) + b"." + _part(msgspec.json.encode(body))
    return (signed + b"." + _part(key.sign(signed))).decode()


def operator(public: str, system: str, now: datetime) -> Claims:
    """Return the claims of an operator, whose key signs accounts. `system` is the server's own account."""
    return _claims(public, "cascade", now, {"type": "operator", "system_account": system})


def system_account(public: str, now: datetime) -> Claims:
    """Return the claims of the server's own account. It has no users, so no client sees or changes the server by it."""
    return _claims(public, "system", now, {"type": "account", "limits": _account_limits(0, 0, streams=0)})


def services_account(public: str, now: datetime) -> Claims:
    """Return the claims of the account of the services.

    No user of this account that was made before `now` may connect, so a new file of credentials replaces the old one.
    """
    body = {
        "type": "account",
        "limits": _account_limits(SERVICE_CONNECTIONS_MAX, _PUBLISHED_BYTES_MAX, streams=_MAX_STREAMS),
        "exports": [
            {"name": name, "subject": subject, "type": "service", "response_type": response}
            for name, subject, response in _REQUESTS
        ],
        "revocations": {"*": int(now.timestamp()) - 1},
    }
    return _claims(public, "cascade services", now, body)


def consumers_account(public: str, services: str, now: datetime) -> Claims:
    """Return the claims of the account of the consumers. `services` is the public key of the services' account."""
    body = {
        "type": "account",
        "limits": _account_limits(CONSUMER_CONNECTIONS_MAX, CONSUMER_PAYLOAD_BYTES_MAX, streams=0),
        "imports": [
            {"name": name, "subject": subject, "account": services, "type": "service"} for name, subject, _ in _REQUESTS
        ],
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
    }
    return _claims(public, "cascade consumers", now, body)


_REQUESTS = (
    ("next", subjects.next_of("*"), "Stream"),
    ("acknowledgement", subjects.acknowledgement_of("*"), "Singleton"),
)


def service_user(public: str, name: str, now: datetime, publish: Sequence[str], subscribe: Sequence[str]) -> Claims:
    """Return the claims of a service. It has no end; new claims of its account end it."""
    return _user(public, name, now, None, publish, subscribe)


def consumer_user(public: str, consumer: str, now: datetime, expires_at: datetime) -> Claims:
    """Return the claims of a tenant's consumer: what it may send, and its own subject for answers."""
    publish = [subjects.next_of(consumer), subjects.acknowledgement_of(consumer)]
    claims = _user(public, consumer, now, expires_at, publish, [subjects.answers_of(consumer)])
    claims["nats"].update(subs=CONSUMER_SUBSCRIPTIONS_MAX, payload=CONSUMER_PAYLOAD_BYTES_MAX)
    return claims


def _claims(public: str, name: str, now: datetime, body: Claims) -> Claims:
    return {"sub": public, "name": name, "iat": int(now.timestamp()), "nats": {**body, "version": _VERSION}}


def _user(
    public: str,
    name: str,
    now: datetime,
    expires_at: datetime | None,
    publish: Sequence[str],
    subscribe: Sequence[str],
) -> Claims:
    body: Claims = {
        "type": "user",
        "pub": {"allow": list(publish)},
        "sub": {"allow": list(subscribe)},
        "subs": UNLIMITED,
        "data": UNLIMITED,
        "payload": UNLIMITED,
        "allowed_connection_types": ["STANDARD"],
    }
    claims = _claims(public, name, now, body)
    return claims if expires_at is None else {**claims, "exp": int(expires_at.timestamp())}


def _account_limits(connections: int, payload: int, *, streams: int) -> Claims:
    storage = UNLIMITED if streams else 0
    return {
        "subs": UNLIMITED,
        "data": UNLIMITED,
        "payload": payload,
        "imports": UNLIMITED,
        "exports": UNLIMITED,
        "wildcards": True,
        "conn": connections,
        "leaf": 0,
        "mem_storage": 0,
        "disk_storage": storage,
        "streams": streams,
        "consumer": storage,
    }
