"""Pure: arguments of commands as values."""

from datetime import datetime, timedelta

from cloud.cli.errors import EXIT_USAGE, CliError
from protocol.ids import IdError, Prefix, parse_id


def id_argument(prefix: Prefix, text: str) -> str:
    """An id for a path of the API. Any other text could make it another path. Raises CliError."""
    try:
        return parse_id(prefix, text)
    except IdError as error:
        raise CliError(
            EXIT_USAGE, "id_invalid", f"cannot use {text!r}: {error}", "The `list` command shows the ids."
        ) from error


def days_from(now: datetime, days: float) -> datetime:
    """The time in so many days. Whether it is a sensible one, the server says. Raises CliError."""
    try:
        return now + timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise CliError(EXIT_USAGE, "days_invalid", f"cannot use --days {days}: it is out of the calendar") from error
