"""Arguments become values: ids for a path, and times that the calendar has."""

from datetime import UTC, datetime, timedelta

import pytest

from cloud.cli.arguments import days_from, id_argument
from cloud.cli.errors import EXIT_USAGE, CliError
from tests.cloud.cli.support import NODE, TENANT

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_an_id_of_the_right_kind() -> None:
    assert id_argument("ten", TENANT) == TENANT


@pytest.mark.parametrize("text", ["", NODE, "ten_x", f"{TENANT}?", f"../nodes/{NODE}", f"{TENANT}\n"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(CliError) as caught:
        id_argument("ten", text)
    assert (caught.value.exit_code, caught.value.code) == (EXIT_USAGE, "id_invalid")


def test_days() -> None:
    assert days_from(NOW, 0.5) == NOW + timedelta(hours=12)
    for days in (1e300, float("nan"), 1e9):
        with pytest.raises(CliError) as caught:
            days_from(NOW, days)
        assert (caught.value.exit_code, caught.value.code) == (EXIT_USAGE, "days_invalid")
