"""Values: the keys of Fabric's transactions, and which rows each key covers.

A transaction may read, decide on and write only rows that its keys cover (`cloud.storage.engine`). A key in `reads` may
be held by many transactions at a time, and covers reads only.

| Key | Covers |
|---|---|
| `node:ID` | the node's row, its generations, renewals, recovery cases and exchanges without a network; proved activations |
| `chip:HASH` | whether a node with this chip (without a TPM: this first key) exists; whether a recovery replaced it |
| `machines:TENANT` | the enrolled components of a tenant's software nodes: whether a machine is known |
| `code:ID` | the code's row, its denied machines, and activations with it until their proof, also while they wait |
| `recovery-code:ID` | the row of a recovery code. The key of its node (or of its tenant) covers which codes there are |
| `tenant:ID` | the tenant's row, and the hardware that it trusts |
| `request:ID` | whether a request of a node without a network, with this id, was answered |
| `recovery:TENANT` | recoveries until their proof, also while they wait, and the number of grace leases |
| `token:ID` | the token's row |
| `trust` | the files of the TUF repository |
| `order` | the renewal order |
| `restore` | the last comparison with Breakwater, whether a rebuild runs, serial numbers of imported CRLs |
| `sessions:CA` | the end of the sessions of an issuing CA |
| `revoked` | the revoked certificates of services, and the CA of Breakwater's certificate |
| `first-events` | how far the walk over objects without an event has come |
| `reports` | columns with reports of nodes, see below |
| `refusal:X` | nothing; the transaction only adds an audit entry |

| Use case | Keys | Shared keys |
|---|---|---|
| start an activation | code; recovery for a recovery | |
| answer a challenge wrongly | code; recovery for a recovery | |
| prove an activation (takes the seat, or waits) | code, chip, node; machines without a TPM | tenant |
| prove a recovery (opens or continues a case) | recovery, chip, node; machines without a TPM | tenant, code of the node |
| decide about a recovery case, end an overdue case | recovery, node | tenant; token of the operator |
| note the return of a replaced machine | node | tenant |
| decide about a waiting activation, lift a denial | code | tenant, node that it may be; token of the operator |
| end a waiting activation, delete an old denial | code | |
| store an activation's certificate | node | code, tenant |
| confirm | node; machines if a person approved a changed fingerprint; chip if a node gets another one | code, tenant |
| lapse, end of a lapse, seat of a revoked node | node; machines at the end of a lapse without a TPM | |
| renewal: start, wrong answer, proof, certificate, old keys revoked | node | |
| sign a due statement, first delivery of a revocation, closed at the issuer | node | |
| change a standing, accept PCR values | node | token of the operator |
| answer the request of a node without a network | node, request | tenant; token of the operator |
| make a code | code | token of the operator; node to readmit |
| revoke a code | code | token of the operator |
| issue recovery codes | recovery-code of each; node, or tenant for a code of any node | tenant; token of the operator |
| revoke a recovery code | recovery-code | token of the operator |
| make a tenant, change its hardware or its policies | tenant | token of the operator |
| make or revoke a token | token | token of the operator |
| publish the trust | trust | token of the operator |
| sign the online roles | trust | |
| order renewals | order | token of the operator |
| wake nodes for an order | order | |
| take up a presented statement, take closed generations from Breakwater | node | |
| reconstruct a node | node, chip, tenant, machines | |
| end of a comparison with Breakwater | restore | |
| begin or end a rebuild, import serial numbers | restore | token of the operator |
| accept a node that waits | node | token of the operator |
| record objects without an event | first-events; node, code or tenant of each | |
| store that a code has expired | code | |
| store reports | reports | |
| apply Breakwater's events | revoked; `events:breakwater` for the cursor | |
| compare a fingerprint | node | tenant |

Some writes need no key, because each is one statement that is right whatever other transactions do:

- Audit entries are only added.
- `generation.holders` and `sessions_from` change by compare-and-set of `holders_version` only, in one statement.
- `node.wake_cursor` and `code.seats_taken` go up or down by one in the statement itself. A seat is taken only if one is
  free, in the same statement. No transaction writes a value of these columns that it has read before.
- Reports are columns that no transaction decides on: `seen_at`, `seen_fingerprint`, `agent_version`, `trust_version`,
  `device_issuer`, `certificate_not_after`, `development`, `superseded_asked_at`, `superseded_asked_generation`,
  `floor_index`, `floor_value`, `floor_reset_at`, `lease_version`, `pcr_values`, `pcr_fault`, `pcr_changed_at`.
  `told_at` is set once, from empty. A report sets `pcr_accepted` once, from empty; an operator sets it in a statement that compares
  `pcr_values`.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

V = TypeVar("V")

TRUST = "trust"
ORDER = "order"
RESTORE = "restore"
REVOKED = "revoked"
REPORTS = "reports"
FIRST_EVENTS = "first-events"
REPORTS_PATIENCE_SECONDS = 0.2
"""Seconds that a transaction over rows of many nodes waits for the lock of one row. It holds the rows of the others
meanwhile. After a failure it is repeated by its task."""
REPORTS_ROWS_MAX = 100
"""Rows of such a transaction, so that it holds none of them for long."""


def node_key(node: str) -> str:
    """The key of a node's data."""
    return f"node:{node}"


def chip_key(ek_hash: str) -> str:
    """The key of the question whether a node has this chip. `ek_hash` is the hash that identifies the chip."""
    return f"chip:{ek_hash}"


def machines_key(tenant: str) -> str:
    """The key of the question whether a machine without a TPM is a known node of the tenant."""
    return f"machines:{tenant}"


def code_key(code: str) -> str:
    """The key of an activation code's data."""
    return f"code:{code}"


def recovery_code_key(code: str) -> str:
    """The key of a recovery code's row."""
    return f"recovery-code:{code}"


def recovery_key(tenant: str) -> str:
    """The key of a tenant's recoveries before their proof, and of the number of its grace leases."""
    return f"recovery:{tenant}"


def entry_key(code: str, tenant: str) -> str:
    """The key of an activation until its proof: that of its code, or that of the tenant's recoveries without a code."""
    return code_key(code) if code else recovery_key(tenant)


def tenant_key(tenant: str) -> str:
    """The key of a tenant's data."""
    return f"tenant:{tenant}"


def token_key(token: str) -> str:
    """The key of an operator token's row."""
    return f"token:{token}"


def request_key(request: str) -> str:
    """The key of the question whether a request of a node without a network was answered."""
    return f"request:{request}"


def sessions_key(ca: str) -> str:
    """The key of the end of an issuing CA's sessions. `ca` is its key id."""
    return f"sessions:{ca}"


def refusal_key(subject: str) -> str:
    """A key for a transaction that only adds the audit entry of a refusal."""
    return f"refusal:{subject}"


def parts_of(rows: Mapping[str, V], size: int) -> Iterator[dict[str, V]]:
    """Yield the rows by key, in order of their keys, in parts of at most `size`.

    Two transactions that lock rows in the same order cannot block each other.
    """
    names = sorted(rows)
    for start in range(0, len(names), size):
        yield {name: rows[name] for name in names[start : start + size]}
