"""Messages: the parts of an activation code that decide what a lease says: its dates, terms of entitlements, intervals.

`cloud.fabric.schemas` has the bodies that carry them, and the rules of evolution.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from protocol.bounds import limits
from protocol.limits import (
    ATTRIBUTE_NAME_CHARS_MAX,
    ATTRIBUTE_VALUE_CHARS_MAX,
    ATTRIBUTES_MAX,
    ENTITLEMENT_NAME_CHARS_MAX,
    EVENT_WAIT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MIN,
    LIMIT_MAX,
    WAKE_SECONDS_MIN,
)

TERM_SECONDS_MAX = 790 * 24 * 3600
"""Longest time to `terminate_at` of a lease. With `DEVICE_HEADROOM` and `DEVICE_LIFE_AFTER_TERMINATION` it gives 1,095
days, the longest life of a device certificate at the issuer. A longer lease would outlive the device certificate."""

Entitlement = Annotated[str, limits(minLength=1, maxLength=ENTITLEMENT_NAME_CHARS_MAX)]
Seconds = Annotated[int, limits(minimum=1, maximum=TERM_SECONDS_MAX)]


class LeaseTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dates of a lease, in seconds after its issue. Each date is at or after the date before it."""

    refresh_after_seconds: Seconds
    """The node refreshes the lease from this date on."""
    expires_seconds: Seconds
    """The lease expires, and its grace begins."""
    grace_seconds: Seconds
    """The grace ends. From this date on no new work starts."""
    terminate_seconds: Seconds
    """The lease terminates, and the gate closes."""


AttributeName = Annotated[str, limits(minLength=1, maxLength=ATTRIBUTE_NAME_CHARS_MAX)]
AttributeValue = Annotated[str, limits(maxLength=ATTRIBUTE_VALUE_CHARS_MAX)]


class EntitlementTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Terms of an entitlement: a limit, dates, attributes. Agents that do not read terms are not granted an entitlement
    with a limit or dates."""

    name: Entitlement
    """Name of the entitlement."""
    limit: Annotated[int, limits(minimum=0, maximum=LIMIT_MAX)] | None = None
    """Largest number that the licensed software may use. The software counts."""
    not_before: datetime | None = None
    """The entitlement is granted from this time on."""
    until: datetime | None = None
    """The entitlement ends at this time."""
    attributes: Annotated[dict[AttributeName, AttributeValue], limits(maxProperties=ATTRIBUTES_MAX)] = {}
    """Attributes for the licensed software, by name: printable characters."""


class LeaseIntervals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intervals of the nodes' contacts. Null: the agent's own setting."""

    heartbeat_seconds: Annotated[int, limits(minimum=HEARTBEAT_SECONDS_MIN, maximum=HEARTBEAT_SECONDS_MAX)] | None = (
        None
    )
    """Length of a heartbeat slot. Each node makes one contact in each slot."""
    wake_seconds: Annotated[int, limits(minimum=WAKE_SECONDS_MIN, maximum=EVENT_WAIT_SECONDS_MAX)] | None = None
    """Longest long poll of the wake channel."""
