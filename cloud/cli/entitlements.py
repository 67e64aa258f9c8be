"""Pure functions: read `--entitlement NAME[:TERM,...]` of `cascade code create`.

A term is `limit=N`, `not-before=DATE`, `until=DATE`, or `KEY=VALUE` for any other key, which is an attribute. The terms
begin after the first colon that has an equals sign somewhere behind it. So a name may have colons and commas, as before.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, time

from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.fabric.schemas import EntitlementTerms

EXAMPLE = "For example: --entitlement cameras:limit=8,until=2027-06-30,site=north"


def read_entitlements(options: Iterable[str]) -> tuple[tuple[str, ...], tuple[EntitlementTerms, ...]]:
    """The names without terms, and the entitlements with terms, each in the order of the options.

    Raises CliError (`entitlement_invalid`).
    """
    names: list[str] = []
    terms: list[EntitlementTerms] = []
    for option in options:
        name, colon, rest = option.partition(":")
        if colon and "=" in rest:
            terms.append(_terms(option, name, rest))
        else:
            names.append(option)
    return tuple(names), tuple(terms)


def _terms(option: str, name: str, rest: str) -> EntitlementTerms:
    limit: int | None = None
    dates: dict[str, datetime] = {}
    attributes: dict[str, str] = {}
    seen: set[str] = set()
    for term in rest.split(","):
        key, equals, value = term.partition("=")
        if not equals or not key or key in seen:
            raise _invalid(option, f"{term!r} is not a term, or its key is there twice")
        seen.add(key)
        if key == "limit":
            limit = _number(option, value)
        elif key in ("not-before", "until"):
            dates[key] = _date(option, value)
        else:
            attributes[key] = value
    return EntitlementTerms(name, limit, dates.get("not-before"), dates.get("until"), attributes)


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 16:
        raise _invalid(option, f"the limit {text!r} is not a whole number")
    return int(text)


def _date(option: str, text: str) -> datetime:
    """A time in RFC 3339 with its zone, or a day, which counts from its beginning in UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise _invalid(option, f"{text!r} is not a date such as 2027-06-30 or 2027-06-30T12:00:00Z") from error
    if at.tzinfo is not None:
        return at
    if at.time() != time() or len(text) != len("2027-06-30"):
        raise _invalid(option, f"the time {text!r} has no zone; write 2027-06-30T12:00:00Z")
    return at.replace(tzinfo=UTC)


def _invalid(option: str, why: str) -> CliError:
    return CliError(EXIT_USAGE, "entitlement_invalid", f"cannot read --entitlement {option}: {why}", EXAMPLE)
