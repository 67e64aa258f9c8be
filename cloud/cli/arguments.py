"""Pure functions: turn arguments of the command line into values."""

from datetime import datetime, timedelta
from typing import get_args

import msgspec

from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.fabric import schemas
from protocol.ids import IdError, Prefix, parse_id
from protocol.signed.statements import Tier


def id_argument(prefix: Prefix, text: str) -> str:
    """Check that `text` is an id with this prefix, and return it.

    The id becomes part of a request's path. Any other text could change the path. Raises CliError (`id_invalid`).
    """
    try:
        return parse_id(prefix, text)
    except IdError as error:
        raise CliError(
            EXIT_USAGE, "id_invalid", f"cannot use {text!r} as an id: {error}", "The `list` action shows the ids."
        ) from error


def tenant_filter(text: str) -> str:
    """Check the tenant's id in a filter, and return it. An empty text is no filter.

    A wrong id finds nothing, which looks like a good answer. Raises CliError (`id_invalid`).
    """
    return id_argument("ten", text) if text else ""


def days_from(now: datetime, days: float) -> datetime:
    """Return the time `days` days after `now`. The server checks that the time is allowed.

    Raises CliError (`days_invalid`) when the calendar has no such time.
    """
    try:
        return now + timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise CliError(
            EXIT_USAGE, "days_invalid", f"cannot use --days {days}: the calendar has no such date"
        ) from error


TIERS = get_args(Tier)
"""The assurance tiers, from the strongest proof to the weakest."""


def tier_list(text: str) -> tuple[Tier, ...]:
    """The tiers in a list with commas. Raises CliError."""
    try:
        return msgspec.convert([part.strip() for part in text.split(",") if part.strip()], tuple[Tier, ...])
    except msgspec.ValidationError as error:
        raise CliError(
            EXIT_USAGE,
            "tiers_invalid",
            f"cannot read the tiers {text}: a tier is one of {', '.join(TIERS)}",
            "Separate several tiers by commas.",
        ) from error


def lease_terms(text: str) -> schemas.LeaseTerms:
    """The dates of a lease in a text of the form R,E,G,T (seconds). Raises CliError."""
    try:
        refresh, expires, grace, terminate = (int(part) for part in text.split(","))
    except ValueError as error:
        raise CliError(
            EXIT_USAGE,
            "lease_invalid",
            f"cannot read the dates {text}: they are not four whole numbers R,E,G,T",
            "For example: 86400,604800,1209600,1814400",
        ) from error
    return schemas.LeaseTerms(
        refresh_after_seconds=refresh, expires_seconds=expires, grace_seconds=grace, terminate_seconds=terminate
    )
