"""Names of grants: those of `systemd-escape`, each entitlement its own, none of them that of the licence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.gating.names import INSTANCE_CHARS_MAX, LICENCE, instance_of, name_of
from protocol.limits import ENTITLEMENT_NAME_CHARS_MAX

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=ENTITLEMENT_NAME_CHARS_MAX)


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("vision", "vision"),
        ("Vision_2:a.b", "Vision_2:a.b"),
        ("a b", r"a\x20b"),
        ("-", r"\x2d"),
        ("/", "-"),
        ("a/b", "a-b"),
        (".x", r"\x2ex"),
        (".licence", r"\x2elicence"),
        ("a.licence", "a.licence"),
        ("é", r"\xc3\xa9"),
        ("%i", r"\x25i"),
        ("a\\b", r"a\x5cb"),
        ("x\ny", r"x\x0ay"),
        ("", None),
        ("é" * 29, r"\xc3\xa9" * 29),
        ("é" * 30, None),
    ],
)
def test_the_names_are_those_of_systemd_escape(name: str, instance: str | None) -> None:
    assert instance_of(name) == instance


@given(NAMES, NAMES)
def test_every_entitlement_has_a_grant_of_its_own(one: str, other: str) -> None:
    instance = instance_of(one)
    if instance is not None:
        assert name_of(instance) == one
        assert len(instance) <= INSTANCE_CHARS_MAX
        assert instance != LICENCE
        assert (instance_of(other) == instance) == (one == other)


def test_the_licence_as_a_whole_is_no_entitlement() -> None:
    assert name_of(LICENCE) is None


@pytest.mark.parametrize(
    "instance", ["", ".x", "a b", "é", r"\x61", r"\x2F", r"\xzz", r"\x2", r"\xc3", "a@b", "\ud800"]
)
def test_other_texts_are_no_grant(instance: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the text is systemd's own, or a person's)
        name_of(instance)
