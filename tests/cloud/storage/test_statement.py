"""`cloud.storage.statement`: one template, two dialects, parameters by name."""

import pytest

from cloud.storage import Statement


def test_a_template_becomes_two_dialects() -> None:
    statement = Statement("UPDATE t SET a = {a}, b = '{{x}}', c = {a} WHERE d = {key} RETURNING a")
    assert statement.sql("sqlite") == "UPDATE t SET a = ?, b = '{x}', c = ? WHERE d = ? RETURNING a"
    assert statement.sql("postgres") == "UPDATE t SET a = $1, b = '{x}', c = $2 WHERE d = $3 RETURNING a"
    assert statement.arguments({"key": 1, "a": 2}) == (2, 2, 1)


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT 1", True),
        (" \n select 1", True),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", False),
        ("DELETE FROM t", False),
    ],
)
def test_only_a_plain_select_reads(sql: str, reads: bool) -> None:
    assert Statement(sql).reads is reads


@pytest.mark.parametrize(
    "template", ["{}", "{}, {name}", "{name.attribute}", "{name[0]}", "{name!r}", "{name:>5}", "{0}"]
)
def test_other_placeholders_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="cannot compile"):
        Statement(template)


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("SELECT 1", {"a": 1}),
        ("SELECT {a}", {}),
        ("SELECT {a}", {"b": 1}),
        ("SELECT {a}, {a}", {"a": 1, "b": 1}),
        ("SELECT {a}, {b}", {"a": 1}),
        ("SELECT {a}, {b}", {"a": 1, "c": 1}),
    ],
)
def test_each_parameter_needs_a_value_and_each_value_a_parameter(template: str, values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="takes the parameters"):
        Statement(template).arguments(values)
