"""`cloud.cli.entitlements`: names stay as they are, terms are read, and mistyped terms are refused."""

from datetime import UTC, datetime

import pytest

from cloud.cli.entitlements import read_entitlements
from cloud.cli.errors import CliError
from cloud.fabric.schemas import EntitlementTerms


def test_names_without_terms_stay_as_they_are() -> None:
    names = ("vision", "acme:vision", "a,b", "x=y", "cameras:8", "")
    assert read_entitlements(names) == (names, ())


def test_terms() -> None:
    options = ["vision", "cameras:limit=8,until=2027-06-30,site=north", "trial:not-before=2027-01-01T01:00:00+01:00"]
    assert read_entitlements(options) == (
        ("vision",),
        (
            EntitlementTerms("cameras", 8, None, datetime(2027, 6, 30, tzinfo=UTC), {"site": "north"}),
            EntitlementTerms("trial", None, datetime(2027, 1, 1, tzinfo=UTC)),
        ),
    )


def test_an_attribute_may_be_empty_and_have_an_equals_sign() -> None:
    assert read_entitlements(["a:b=,c=d=e"])[1] == (EntitlementTerms("a", attributes={"b": "", "c": "d=e"}),)


@pytest.mark.parametrize(
    "option",
    [
        "cameras:limit=8,limit=9",
        "cameras:limit=eight",
        "cameras:limit=-1",
        "cameras:limit=",
        "cameras:limit=\N{SUPERSCRIPT TWO}",
        "cameras:limit=99999999999999999",
        "cameras:limit=8,",
        "cameras:limit=8,site",
        "cameras:=8",
        "trial:until=tomorrow",
        "trial:until=2027-02-30",
        "trial:until=2027-06-30T12:00:00",
        "trial:until=20270630T00",
    ],
)
def test_mistyped_terms(option: str) -> None:
    with pytest.raises(CliError) as caught:
        read_entitlements(["vision", option])
    assert caught.value.code == "entitlement_invalid"
    assert option in str(caught.value)
