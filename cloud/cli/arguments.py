"""Pure functions: turn arguments of the command line into values."""

from datetime import datetime, timedelta

from cloud.cli.errors import EXIT_USAGE, CliError
from protocol.ids import IdError, Prefix, parse_id


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
