"""Pure functions: which of two node keys of a generation is the later one, from what Fabric and Breakwater once signed.

A lease of version 2 names the key that was in force when the lease was signed. A rekey gives the generation another key,
and a certificate that is issued at the same time. Until the next lease, the machine holds the new certificate and a
lease that names the former key. A copy from before the rekey holds the former key, and its certificate was issued before
every lease that names the new key. So a certificate for another key than the lease's proves the later key if it was
issued after the lease.
"""

from datetime import datetime

from cloud.fabric.licensing.former_keys import FormerKey, find, with_former
from protocol.signed.statements import Lease, Statement


def other_key(statement: Statement | None, key: str) -> str:
    """The hash of the key that a lease names, if it is another key than `key`. Otherwise an empty text.

    Suspensions, revocations and leases of version 1 name no key.
    """
    named = statement.node_key if isinstance(statement, Lease) and statement.version > 1 else ""
    return named if named != key else ""


def follows_lease(statement: Statement, key: str, issued_at: datetime) -> bool:
    """Whether a certificate for `key`, issued at `issued_at`, fits the statement.

    It does if the statement names this key or none, and if the key replaced the named one after the lease was signed.
    """
    return not other_key(statement, key) or issued_at >= statement.issued_at


def in_force_since(key: str, statement: Statement, former: tuple[FormerKey, ...]) -> datetime | None:
    """A time at which the stored `key` was in force. None if neither the stored statement nor a rekey shows one."""
    if not isinstance(statement, Lease) or statement.version == 1:
        return None
    if statement.node_key == key:
        return statement.issued_at
    left = find(former, statement.node_key)
    return left.replaced_at if left is not None else None


def former_of(
    former: tuple[FormerKey, ...], statement: Statement, key: str, spki: bytes, issued_at: datetime
) -> tuple[FormerKey, ...]:
    """The former keys. If the statement names another key than `key` (DER: `spki`), the named key is added to them."""
    named = other_key(statement, key)
    return with_former(former, FormerKey(named, issued_at), spki) if named else former
