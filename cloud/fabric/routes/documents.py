"""Values: the API documents of Fabric, one a listener."""

from cloud.events.routes import TAG as EVENTS
from cloud.fabric.errors import CODES
from cloud.fabric.routes import repository_routes, routes
from cloud.http.openapi import Api, ApiDocument, Tag, show_schema
from protocol.openapi import example_id

_DIGEST = "5f" * 32
_KEY_ID = "9a" * 20

EXAMPLES = {
    "name": "Acme Robotics",
    "tiers": ["attested"],
    "approval_tiers": ["software"],
    "lease_terms": {},
    "tier_min": "tpm",
    "matched": "chip",
    "ek_issuer": "CN=Example TPM EK CA 1",
    "components": ["board_serial"],
    "address": "192.0.2.7",
    "decided_by": example_id("tok"),
    "created_by": example_id("tok"),
    "case": example_id("rcv"),
    "used_case": "",
    "node": example_id("node"),
    "retry_after_seconds": 60,
    "pem": "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n",
    "ek_name": "000b" + _DIGEST,
    "note": "bench machine",
    "sha256": _DIGEST,
    "subject": "CN=Example TPM EK CA 1",
    "profile": "kiosk",
    "entitlements": ["vision"],
    "refresh_after_seconds": 86400,
    "expires_seconds": 2592000,
    "grace_seconds": 3888000,
    "terminate_seconds": 5184000,
    "seats": 10,
    "seats_taken": 1,
    "reason": "",
    "standing_reason": "",
    "standing": "active",
    "state": "open",
    "statement": "lease",
    "agent_version": "0.1.0",
    "number": 1,
    "seq": 1,
    "seat_held": True,
    "fingerprint": {"board": _DIGEST},
    "detail": {"profile": "kiosk"},
    "actor": f"operator:{example_id('tok')}",
    "action": "code.created",
    "object": example_id("code"),
    "tenant": example_id("ten"),
    "status": "ok",
    "key_id": _KEY_ID,
    "issuer": _KEY_ID,
    "device_issuer": _KEY_ID,
    "published": True,
    "next_cursor": "",
    "spread_seconds": 60,
    "code": "cac_example",
    "nonce": "bm9uY2Utbm9uY2Utbm9uY2U",
    "answer_nonce": "bm9uY2Utbm9uY2Utbm9uY2U",
    "proof": "eyJ0eXAiOiJjYXNjYWRlLXNlc3Npb24tcHJvb2YrandzIn0.e30.c2ln",
    "presented": "",
    "freshness": "eyJ0eXAiOiJjYXNjYWRlLWZyZXNobmVzcytqd3MifQ.e30.c2ln",
    "tries_left": 3,
    "request": '{"document": "cascade-airgap-request"}',
    "answer": '{"document": "cascade-airgap-answer"}',
    "answered_by": example_id("tok"),
    "roots": [],
    "contents": {},
}
"""Field name -> value, for examples of bodies. Fields that are not here get an example of their type."""

API = Api(
    name="fabric",
    title="Cascade Fabric",
    text="Tenants, activation codes, nodes and their standing, sessions and signed statements of nodes, and the "
    "published trust.\n\nThe listener speaks HTTP/1.1 over TLS. A refusal is a problem document (RFC 9457); clients "
    "decide by its `code`. The head of a request has at most 16 kB and its body at most 64 kB; a larger one is "
    "answered `too_large`. A method that a path does not have is answered `method_not_allowed`.",
    tags=(
        Tag(
            "activation",
            "A machine becomes a node, with an operator's approval where it is demanded.",
            ("/v1/activations", "/v1/software-activations"),
        ),
        Tag(
            "renewal",
            "A node renews its device certificate with fresh evidence.",
            ("/v1/node/renewals", "/v1/node/software-renewals"),
        ),
        Tag("sessions", "A node proves its identity, gets its statement, and waits for changes.", ("/v1/node/",)),
        Tag("codes", "Activation codes.", ("/v1/codes", "/v1/tenants/{tenant}/codes")),
        Tag(
            "recovery",
            "Recovery codes, and what a tenant lets happen without a person when a machine has lost its state or was "
            "replaced.",
            ("/v1/recovery", "/v1/tenants/{tenant}/recovery-policy"),
        ),
        Tag("tenants", "Tenants and the hardware that they trust.", ("/v1/tenants",)),
        Tag("nodes", "Nodes, their standing, and suspected clones.", ("/v1/nodes", "/v1/clones")),
        Tag("air gap", "Requests of nodes without a network, which an operator carries.", ("/v1/airgap/",)),
        Tag(
            "restore",
            "What follows a restore of the cloud from a backup, or the loss of its database.",
            ("/v1/reconcile", "/v1/holds", "/v1/rebuild"),
        ),
        Tag("tokens", "Operators' tokens.", ("/v1/tokens",)),
        Tag("audit", "Who did what.", ("/v1/audit",)),
        Tag("trust", "The published trust and its adoption.", ("/v1/trust",)),
        EVENTS,
        Tag("service", "State and description of the service.", ("/healthz", "/readyz", "/schema")),
    ),
    codes=CODES,
    examples=EXAMPLES,
)

REPOSITORY = Api(
    name="fabric-repository",
    title="Cascade trust repository",
    text="The TUF repository: signed files that tell nodes and operators which CAs and keys to trust.\n\nThe listener "
    "speaks plain HTTP/1.1 and is read-only. Every file is signed, or is named by its hash in a signed file.",
    tags=(
        Tag("repository", "Files of the TUF repository.", ("/tuf/",)),
        Tag("service", "State of the service.", ("/healthz",)),
    ),
    codes=CODES,
    examples=EXAMPLES,
)


def documents() -> dict[str, ApiDocument]:
    """The documents by name."""
    return {
        API.name: ApiDocument([*routes(), show_schema], API),
        REPOSITORY.name: ApiDocument(repository_routes(), REPOSITORY),
    }
