"""`cloud.breakwater.pkix.linted`: only the two lints make a `Linted`, and it can be redeemed once."""

import ast
from pathlib import Path

import pytest

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix import lint as lint_module
from cloud.breakwater.pkix import profiles
from cloud.breakwater.pkix.lint import lint
from cloud.breakwater.pkix.linted import Linted, passed
from tests.cloud.breakwater.wanted_samples import NODES, SESSION


@pytest.mark.slow
def test_only_the_two_lints_pass_anything() -> None:
    """A module that calls `passed` can get any bytes signed, so only `lint.py` and `crl.py` may import it."""
    cloud = Path(lint_module.__file__).parents[3] / "cloud"
    users = set()
    for file in cloud.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("linted"):
                names = {alias.name for alias in node.names}
                assert not any(name.startswith("_") or name == "*" for name in names), file
                users |= {file.name} if "passed" in names else set()
            if isinstance(node, ast.ImportFrom) and node.module == "cloud.breakwater.pkix":
                assert "linted" not in {alias.name for alias in node.names}, file
            if isinstance(node, ast.Import):
                assert not any(alias.name.endswith("linted") for alias in node.names), file
            if isinstance(node, ast.Name | ast.Attribute):
                called = node.id if isinstance(node, ast.Name) else node.attr
                assert called != "_SEAL" or file.name == "linted.py", file
    assert users == {"lint.py", "crl.py"}


def test_nothing_else_makes_a_linted_and_it_is_good_once() -> None:
    assert isinstance(passed(b"", NODES), Linted)
    tbs = profiles.build(SESSION, NODES)
    with pytest.raises(TypeError):
        Linted(tbs, NODES, object())
    linted = lint(tbs, SESSION, NODES)
    assert linted.redeem() == tbs
    with pytest.raises(LintError, match="already passed"):
        linted.redeem()
