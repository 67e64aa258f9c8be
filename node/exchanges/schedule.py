"""Pure functions: when the agent asks next. Time and randomness are arguments; results are times and seconds.

A million nodes that lose the cloud at once must not return at once (section 10 of the design). Regular contacts and their
retries run on a phase slot that the node's id fixes. Other retries wait a random time within a capped width, and the first
width is already as wide as the fleet needs. Every retry waits for a slot, so a server's `Retry-After` is not read yet.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from random import Random

from cryptography import x509
from msgspec import UNSET

from protocol.limits import CLOCK_SKEW, EVENT_WAIT_SECONDS_MAX
from protocol.signed.statements import Lease

HEARTBEAT_SECONDS = 600.0
"""The period of the phase slots; the design's simulation of a million nodes rests on it."""
REFRESH_EARLY_SHARE = 4
"""A lease is refreshed in the last 1/4 before `refresh_after`; the cloud signs a new one from half way on."""
RETRY_WIDTHS_MAX = 4
"""Retries spread over at most this many heartbeats."""
EVENT_WAIT_SECONDS_MIN = 200
"""Shortest long poll: about four minutes, random, so that polls that began together end apart."""
WAKE_RETRY_SECONDS = 1.0
"""The shortest pause of the wake channel after a poll that failed."""
TRUST_REFRESH_SECONDS = 86_400.0
"""The published trust is read once a day: its keys change over months."""
TRUST_FIRST_SECONDS_MAX = 3600.0
"""The first reading comes within an hour of the start, at random: a fleet that starts at once must not ask at once."""

DEVICE_RENEWAL_SPREAD = 0.1
"""Share of a device certificate's life by which its renewal lies before or after the half of it."""
ADOPTION_SHARE = 0.1
"""A new trust is reported within this share of a heartbeat: a minute."""
TRUST_RECOVERY_SECONDS = 600.0
"""A server that does not verify fails for a whole fleet at once: each node asks the repository once in this time, spread
over as much again."""


def node_fraction(node: str, purpose: str) -> float:
    """A number in [0, 1) fixed for a node and a purpose; two purposes of one node are independent."""
    return int.from_bytes(sha256(f"{purpose}\n{node}".encode()).digest()[:6], "big") / 2**48


def refresh_at(lease: Lease, node: str) -> datetime:
    """When to ask for the next lease while all goes well: shortly before `refresh_after`, spread by node.

    Before and not after, so that a connected node is never seen as due.
    """
    span = (lease.refresh_after - lease.issued_at) / REFRESH_EARLY_SHARE
    return lease.refresh_after - span * node_fraction(node, "refresh")


def next_slot(node: str, now: datetime, heartbeat_seconds: float) -> datetime:
    """The node's next phase slot, strictly after `now`."""
    phase = node_fraction(node, "heartbeat") * heartbeat_seconds
    slot = now + timedelta(seconds=heartbeat_seconds - (now.timestamp() - phase) % heartbeat_seconds)
    # Rounding to whole microseconds may land on `now` itself.
    return slot if slot > now else now + timedelta(seconds=heartbeat_seconds)


def next_contact_seconds(
    *,
    now: datetime,
    node: str,
    lease: Lease | None,
    session_until: datetime | None,
    failures: int,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> float:
    """Seconds (above 0) until the cloud is asked again: at the node's slot, or sooner for a lease or a session.

    After a failure it is the slot and nothing sooner. A lease whose refresh is past waits for the slot too: it was
    asked for and not given.
    """
    times = [next_slot(node, now, heartbeat_seconds)]
    if failures == 0:
        if lease is not None:
            times.append(refresh_at(lease, node))
        if session_until is not None:
            times.append(session_renewal_at(now, session_until))
    return (min(time for time in times if time > now) - now).total_seconds()


def retry_seconds(failures: int, heartbeat_seconds: float, random: Random) -> float:
    """Full jitter for the retry after the `failures`th failure in a row (from 1)."""
    return random.random() * heartbeat_seconds * min(max(failures, 1), RETRY_WIDTHS_MAX)


def wake_reconnect_seconds(losses: int, heartbeat_seconds: float, random: Random) -> float:
    """Wait before a lost wake channel is opened again; with no loss, at once. Heartbeats carry the news meanwhile."""
    return 0.0 if losses < 1 else retry_seconds(losses, heartbeat_seconds, random)


def event_wait_seconds(random: Random) -> int:
    """How long to ask the wake channel to wait."""
    return random.randint(EVENT_WAIT_SECONDS_MIN, EVENT_WAIT_SECONDS_MAX)


def first_trust_refresh_seconds(random: Random) -> float:
    """Wait before the published trust is read for the first time after a start."""
    return random.random() * TRUST_FIRST_SECONDS_MAX


def trust_refresh_seconds(random: Random) -> float:
    """Wait before the published trust is read again: a day, within a quarter."""
    return TRUST_REFRESH_SECONDS * random.uniform(0.75, 1.25)


def session_renewal_at(not_before: datetime, not_after: datetime) -> datetime:
    """A session is renewed at two thirds of its life."""
    return not_before + (not_after - not_before) * 2 / 3


def device_renewal_at(not_before: datetime, not_after: datetime, node: str) -> datetime:
    """A device certificate is renewed at half of its life, within a tenth of it, fixed by node.

    A fleet that was activated in one week renews over many, and there is as much time again to try.
    """
    share = 0.5 + DEVICE_RENEWAL_SPREAD * (2 * node_fraction(node, "device") - 1)
    return not_before + (not_after - not_before) * share


def device_renewal_ordered(
    certificate_der: bytes, lease: Lease | None, now: datetime, node: str, heartbeat_seconds: float
) -> bool:
    """Whether the lease orders this device certificate renewed: it was made before the order's time, which has come.

    `notBefore` is backdated by the skew. What a whole fleet is ordered is done within a heartbeat, spread by node.
    """
    not_before = x509.load_der_x509_certificate(certificate_der).not_valid_before_utc
    after = lease.renew_device_after if lease is not None else UNSET
    if after is UNSET or not_before + CLOCK_SKEW >= after:
        return False
    return now >= after + timedelta(seconds=heartbeat_seconds * node_fraction(node, "ordered"))


def device_renewal_due(certificate_der: bytes, now: datetime, node: str) -> bool:
    """Whether a device certificate's hour of renewal has come."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    return now >= device_renewal_at(certificate.not_valid_before_utc, certificate.not_valid_after_utc, node)


def adoption_seconds(heartbeat_seconds: float, random: Random) -> float:
    """Wait between a new trust and the contact that reports it: soon, and not all at once."""
    return random.random() * heartbeat_seconds * ADOPTION_SHARE


def trust_recovery_seconds(node: str) -> float:
    """The least time between two refreshes of the trust because a server or certificate did not verify."""
    return TRUST_RECOVERY_SECONDS * (1 + node_fraction(node, "trust"))
