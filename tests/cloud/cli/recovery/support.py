"""A recovery case and recovery codes, as Fabric shows them."""

from tests.cloud.cli.support import AT, NODE, TENANT

CASE = "rcv_0" + "1" * 25
CODES = ["rcc_0" + "1" * 25, "rcc_0" + "2" * 25]
SECRETS = ["04HM-ASW9-NF6Y-ZZZZ-ZZZZ-SKVG", "0000-0000-0000-0000-0000-0000"]
SHOWN_CASE: dict[str, object] = {
    "id": CASE,
    "tenant": TENANT,
    "node": NODE,
    "situation": "hardware-replaced",
    "state": "needs_operator",
    "needs": "operator-or-code",
    "evidence": {
        "same_chip": False,
        "fingerprint": "match",
        "matched": {"disk_serial": 30, "board_serial": 20},
        "changed": {"mac": 10},
        "statement": True,
        "last_seen_at": AT,
        "last_ran_at": None,
        "tier": "attested",
        "address": "192.0.2.7",
        "agent_version": "1.0",
    },
    "old_generation": 3,
    "generation": 0,
    "overlap_until": AT,
    "opened_at": AT,
    "decide_by": AT,
    "next_allowed_at": None,
    "decided_at": None,
    "decided_by": "",
    "reason": "",
    "code": "",
    "grace": False,
    "grace_until": None,
}


def shown_code(number: int = 0, **changes: object) -> dict[str, object]:
    """A code of the node."""
    return {
        "id": CODES[number],
        "tenant": TENANT,
        "node": NODE,
        "case": "",
        "state": "open",
        "created_at": AT,
        "created_by": "tok_alice",
        "usable_from": AT,
        "expires_at": AT,
        "used_at": None,
        "used_case": "",
        "revoked_at": None,
        **changes,
    }


def page(*items: object) -> dict[str, object]:
    return {"items": list(items), "next_cursor": ""}
