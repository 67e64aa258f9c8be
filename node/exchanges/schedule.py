"""Pure functions: when the agent asks the cloud next. Time and randomness are arguments; results are times or seconds.

A million nodes that lose the cloud at the same moment must not return at the same moment. So regular contacts and their
retries happen in heartbeat slots. The node's id fixes the phase of its slots. Other retries wait a random time up to a
capped width, and the first width is already as wide as a large fleet needs. A longer `Retry-After` of the cloud counts.

Two waits are shorter on purpose. A node that has started or has slept, and has had no answer since, retries quickly for
one heartbeat (`node.exchanges.first_answer`). A wake channel that was open and was cut is opened once more within a
fifth of a heartbeat; if that fails, the retries take the wide waits.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from random import Random

from cryptography import x509
from msgspec import UNSET

from protocol.limits import (
    CLOCK_SKEW,
    EVENT_WAIT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MIN,
    WAKE_SECONDS_MIN,
)
from protocol.signed.statements import Lease

HEARTBEAT_SECONDS = 600.0
"""Length of a heartbeat slot. The simulation of a million nodes was made with this value."""
REFRESH_EARLY_SHARE = 4
"""A lease is refreshed in the last 1/4 of the time from `issued_at` to `refresh_after`. The cloud signs a new lease
from half of this time on."""
RETRY_WIDTHS_MAX = 4
"""Retries spread over at most this many heartbeat slots."""
WAKE_RETRY_SECONDS = 1.0
"""Shortest pause of the wake channel after a long poll that failed."""
WAKE_REOPEN_SHARE_MIN = 0.05
WAKE_REOPEN_SHARE_MAX = 0.2
"""A wake channel that was open and was cut is opened again within its life, but at least within 30 s and at most within
120 s of a heartbeat of 600 s. A fleet that loses its channels at once makes one such attempt a node (docs/adr/0018)."""
SETTLE_RETRY_SECONDS = 1.0
"""Mean pause between two contacts while the agent settles at its start. The network often comes some seconds later."""
SETTLE_NETWORK_SECONDS = 5.0
"""A start with an open gate waits at most this long for the machine's network. A machine without a network loses these
seconds at each start; a revoked machine whose network comes with it is stopped before it is ready."""
FIRST_ANSWER_SECONDS_MIN = 2.0
FIRST_ANSWER_SECONDS_MAX = 60.0
"""Bounds of the pauses between two contacts while a node waits for the first answer after its start."""
WAKING_SECONDS_MAX = 5.0
"""After a sleep of the machine the agent asks within this time. Virtual machines of one host wake together."""
TRUST_REFRESH_SECONDS = 86_400.0
"""The published trust is read about once a day, because its keys change over months."""
TRUST_FIRST_SECONDS_MAX = 3600.0
"""The first read is at a random time within an hour of the start, so that a fleet that starts together does not read at
once."""

DEVICE_RENEWAL_SPREAD = 0.1
"""A device certificate is renewed at half of its life, plus or minus this share of its life."""
ADOPTION_SHARE = 0.1
"""A node reports that it uses a new trust within this share of a heartbeat slot (a minute of 600 s)."""
TRUST_RECOVERY_SECONDS = 600.0
"""A server that does not verify fails for a whole fleet at once. So a node asks the repository once in 10 to 20
minutes; the node's id fixes the interval."""


def node_fraction(node: str, purpose: str) -> float:
    """A number in [0, 1) that is fixed for a node and a purpose. The numbers of two purposes are independent."""
    return int.from_bytes(sha256(f"{purpose}\n{node}".encode()).digest()[:6], "big") / 2**48


def refresh_at(lease: Lease, node: str) -> datetime:
    """When to ask for the next lease after successful contacts: shortly before `refresh_after`, spread by node.

    A connected node has its new lease before `refresh_after`, so it never reaches the state `refresh-due`.
    """
    span = (lease.refresh_after - lease.issued_at) / REFRESH_EARLY_SHARE
    return lease.refresh_after - span * node_fraction(node, "refresh")


def next_slot(node: str, now: datetime, heartbeat_seconds: float) -> datetime:
    """The beginning of the node's next heartbeat slot, strictly after `now`."""
    phase = node_fraction(node, "heartbeat") * heartbeat_seconds
    slot = now + timedelta(seconds=heartbeat_seconds - (now.timestamp() - phase) % heartbeat_seconds)
    # Rounding to whole microseconds can give `now` itself.
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
    """Seconds (above 0) until the agent asks the cloud again.

    The agent asks at the node's next slot, or sooner if the lease or the session is due sooner. After a failure it
    waits for the slot. A lease that is already due waits for the slot too, because the last contact brought no new one.
    """
    times = [next_slot(node, now, heartbeat_seconds)]
    if failures == 0:
        if lease is not None:
            times.append(refresh_at(lease, node))
        if session_until is not None:
            times.append(session_renewal_at(now, session_until))
    return (min(time for time in times if time > now) - now).total_seconds()


def heartbeat_of(lease: Lease | None, configured_seconds: float) -> float:
    """The length of a heartbeat slot: that of the lease, within the bounds of the protocol, or the agent's setting."""
    seconds = lease.intervals.heartbeat_seconds if lease is not None and lease.intervals is not None else None
    if seconds is None:
        return configured_seconds
    return float(min(max(seconds, HEARTBEAT_SECONDS_MIN), HEARTBEAT_SECONDS_MAX))


def longest_poll_of(lease: Lease | None) -> int:
    """The longest long poll, in seconds: that of the lease, within the bounds of the protocol, or the protocol's."""
    seconds = lease.intervals.wake_seconds if lease is not None and lease.intervals is not None else None
    return EVENT_WAIT_SECONDS_MAX if seconds is None else min(max(seconds, WAKE_SECONDS_MIN), EVENT_WAIT_SECONDS_MAX)


def retry_seconds(failures: int, heartbeat_seconds: float, random: Random) -> float:
    """A random wait (full jitter) before the retry after `failures` failures in a row (from 1)."""
    return random.random() * heartbeat_seconds * min(max(failures, 1), RETRY_WIDTHS_MAX)


def wake_reconnect_seconds(losses: int, heartbeat_seconds: float, random: Random, lived_seconds: float = 0.0) -> float:
    """Wait before a lost wake channel is opened again; 0 without a loss. Heartbeats fetch changes meanwhile.

    `losses` is the number of losses since a long poll that lived, which lived for `lived_seconds`. A first loss is often
    a device on the way that cut an idle connection, so the channel is away for less time than it was open. A second
    loss in a row can be an outage that a fleet sees together.
    """
    if losses < 1:
        return 0.0
    if losses == 1:
        share = min(max(lived_seconds / heartbeat_seconds, WAKE_REOPEN_SHARE_MIN), WAKE_REOPEN_SHARE_MAX)
        return random.random() * heartbeat_seconds * share
    return retry_seconds(losses - 1, heartbeat_seconds, random)


def settle_retry_seconds(random: Random) -> float:
    """Pause between two contacts while the agent settles at its start."""
    return SETTLE_RETRY_SECONDS * random.uniform(0.5, 1.5)


def first_answer_seconds(tries: int, random: Random) -> float:
    """Pause before the next contact of a node without an answer since its start, after `tries` tries (from 0)."""
    width = min(FIRST_ANSWER_SECONDS_MIN * 2.0 ** min(tries, 16), FIRST_ANSWER_SECONDS_MAX)
    return width * random.uniform(0.5, 1.0)


def waking_seconds(random: Random) -> float:
    """Wait between the end of a sleep of the machine and the contact that follows."""
    return random.random() * WAKING_SECONDS_MAX


def first_trust_refresh_seconds(random: Random) -> float:
    """Wait before the published trust is read for the first time after a start."""
    return random.random() * TRUST_FIRST_SECONDS_MAX


def trust_refresh_seconds(random: Random) -> float:
    """Wait before the published trust is read again: a day, plus or minus a quarter."""
    return TRUST_REFRESH_SECONDS * random.uniform(0.75, 1.25)


def session_renewal_at(not_before: datetime, not_after: datetime) -> datetime:
    """When a session is renewed: at two thirds of its certificate's life."""
    return not_before + (not_after - not_before) * 2 / 3


def device_renewal_at(not_before: datetime, not_after: datetime, node: str) -> datetime:
    """When a device certificate is renewed: at half of its life, plus or minus a tenth of its life, fixed by node.

    So a fleet that was activated in one week renews over many weeks. After a failure at least 40 % of the life is left
    for retries.
    """
    share = 0.5 + DEVICE_RENEWAL_SPREAD * (2 * node_fraction(node, "device") - 1)
    return not_before + (not_after - not_before) * share


def device_renewal_ordered(
    certificate_der: bytes, lease: Lease | None, now: datetime, node: str, heartbeat_seconds: float
) -> bool:
    """Whether the lease's renewal order applies to this device certificate now.

    The order applies if the certificate was made before `renew_device_after` and that time has come. `notBefore` is the
    time of issue minus the clock skew. A fleet spreads its renewals over one heartbeat slot, fixed by node.
    """
    not_before = x509.load_der_x509_certificate(certificate_der).not_valid_before_utc
    after = lease.renew_device_after if lease is not None else UNSET
    if after is UNSET or not_before + CLOCK_SKEW >= after:
        return False
    return now >= after + timedelta(seconds=heartbeat_seconds * node_fraction(node, "ordered"))


def device_renewal_due(certificate_der: bytes, now: datetime, node: str) -> bool:
    """Whether the time to renew a device certificate (DER) has come."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    return now >= device_renewal_at(certificate.not_valid_before_utc, certificate.not_valid_after_utc, node)


def adoption_seconds(heartbeat_seconds: float, random: Random) -> float:
    """A random wait between a new trust and the contact that reports it, so that a fleet does not report at once."""
    return random.random() * heartbeat_seconds * ADOPTION_SHARE


def trust_recovery_seconds(node: str) -> float:
    """The shortest time between two refreshes of the trust that a failed verification caused, 10 to 20 minutes."""
    return TRUST_RECOVERY_SECONDS * (1 + node_fraction(node, "trust"))
