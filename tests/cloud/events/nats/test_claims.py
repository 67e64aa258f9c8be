"""`cloud.events.nats.claims`: signed claims. The tests of `lab.nats` show that a server accepts them."""

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.events.nats import claims
from cloud.events.nats.nkeys import public_text, read_public

NOW = datetime(2026, 12, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
USER = Ed25519PrivateKey.from_private_bytes(bytes(32))
CONSUMER = "cns_01"


def _parts(token: str) -> list[bytes]:
    return [urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]


def _body(token: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(_parts(token)[1])
    return body


def _consumer() -> str:
    user = public_text(USER, "user")
    return claims.sign(KEY, "account", claims.consumer_user(user, CONSUMER, NOW, NOW + timedelta(days=1)))


def test_claims_are_signed_by_the_key_that_they_name() -> None:
    token = _consumer()
    header, _, signature = _parts(token)
    assert json.loads(header) == {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = token.rpartition(".")[0].encode()
    signer = read_public(_body(token)["iss"], "account")
    signer.verify(signature, signed)
    with pytest.raises(InvalidSignature):
        signer.verify(signature, signed[:-1] + bytes([signed[-1] ^ 1]))


def test_a_consumer_may_ask_for_its_own_events_and_acknowledge_them() -> None:
    body = _body(_consumer())
    assert body["sub"] == public_text(USER, "user")
    assert body["exp"] == int((NOW + timedelta(days=1)).timestamp())
    assert body["nats"]["pub"] == {
        "allow": [f"$JS.API.CONSUMER.MSG.NEXT.CASCADE_EVENTS.{CONSUMER}", f"$JS.ACK.CASCADE_EVENTS.{CONSUMER}.>"]
    }
    assert body["nats"]["sub"] == {"allow": [f"_INBOX.{CONSUMER}.>"]}
    assert body["nats"]["subs"] == claims.CONSUMER_SUBSCRIPTIONS_MAX
    assert body["nats"]["payload"] == claims.CONSUMER_PAYLOAD_BYTES_MAX


def test_a_service_sends_on_the_given_subjects_and_has_no_end() -> None:
    token = claims.sign(KEY, "account", claims.service_user("U", "fabric", NOW, ["a"], ["b"]))
    body = _body(token)
    assert "exp" not in body
    assert (body["nats"]["pub"], body["nats"]["sub"]) == ({"allow": ["a"]}, {"allow": ["b"]})


def test_consumers_have_no_stream_and_reach_two_requests_of_the_services() -> None:
    body = claims.consumers_account("A1", "A2", NOW)["nats"]
    assert [(each["subject"], each["account"]) for each in body["imports"]] == [
        ("$JS.API.CONSUMER.MSG.NEXT.CASCADE_EVENTS.*", "A2"),
        ("$JS.ACK.CASCADE_EVENTS.*.>", "A2"),
    ]
    assert (body["limits"]["streams"], body["limits"]["disk_storage"]) == (0, 0)
    exported = claims.services_account("A2", NOW)["nats"]["exports"]
    assert [each["subject"] for each in exported] == [each["subject"] for each in body["imports"]]


def test_new_claims_of_the_services_account_end_older_credentials() -> None:
    assert claims.services_account("A2", NOW)["nats"]["revocations"] == {"*": int(NOW.timestamp()) - 1}


def test_the_servers_own_account_admits_nobody() -> None:
    assert claims.system_account("A3", NOW)["nats"]["limits"]["conn"] == 0
    assert claims.operator("O", "A3", NOW)["nats"]["system_account"] == "A3"
