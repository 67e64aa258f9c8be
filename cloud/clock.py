"""The clock of the cloud: the only module that reads the wall clock. All other code takes `now` as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware and in UTC."""
    return datetime.now(UTC)
