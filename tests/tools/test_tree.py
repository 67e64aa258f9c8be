"""`tools.tree`: the check of imports between folders, on small trees."""

import importlib
from pathlib import Path

import pytest

from tools import tree

PAGE = """
| Folder | What |
|---|---|
| `shop/` | everything |
| `shop/routes/` | HTTP |
| `shop/store/` | queries |
"""


def small(*imports: str, more: tuple[str, ...] = ()) -> tree.Tree:
    """The package `shop` with `routes` above `store`. Each import is written as "importer imported"."""
    arrows = frozenset((one, other) for one, _, other in (each.partition(" ") for each in imports))
    folders = {"shop", "shop.routes", "shop.store"}
    named = {name for arrow in arrows for name in arrow}
    return tree.Tree(frozenset({*folders, *named, *more}), frozenset(folders), arrows)


def said(drawn: tree.Tree, page: str = PAGE) -> list[str]:
    return tree.problems(drawn, page, lambda _: False)


def test_imports_that_run_down_pass() -> None:
    assert not said(
        small("shop.app shop.routes.goods", "shop.routes.goods shop.store.goods", "shop.app shop.store.goods")
    )


def test_two_modules_that_import_each_other_are_a_circle() -> None:
    (problem,) = said(small("shop.store.goods shop.store.orders", "shop.store.orders shop.store.goods"))
    assert problem.startswith("shop/store/: a circle: goods -> orders -> goods")
    assert "shop.store.goods imports shop.store.orders" in problem
    assert "shop.store.orders imports shop.store.goods" in problem
    assert "Move the shared code" in problem


def test_a_folder_counts_as_one_child_for_all_below_it() -> None:
    (problem,) = said(small("shop.wiring shop.store.goods", "shop.store.orders shop.wiring"))
    assert problem.startswith("shop/: a circle: store -> wiring -> store")
    assert "shop.store.orders imports shop.wiring" in problem


def test_a_module_that_imports_from_its_packages_init_is_in_a_circle() -> None:
    (problem,) = said(small("shop.store shop.store.goods", "shop.store.goods shop.store"))
    assert "a circle: __init__ -> goods -> __init__" in problem


def test_every_circle_is_reported_not_only_the_first() -> None:
    pairs = ("a b", "b a", "c d", "d e", "e c")
    arrows = [" ".join(f"shop.store.{name}" for name in pair.split()) for pair in pairs]
    problems = said(small(*arrows))
    assert [problem.splitlines()[0] for problem in problems] == [
        "shop/store/: a circle: a -> b -> a",
        "shop/store/: a circle: c -> d -> e -> c",
    ]


def test_circles_through_the_same_import_are_reported_once() -> None:
    """The import of `wiring` by `store` closes both circles. The check reports only the shorter one."""
    twice = ("shop.wiring shop.store.goods", "shop.wiring shop.store.orders")
    (problem,) = said(
        small(*twice, "shop.store.goods shop.wiring", "shop.wiring shop.rates", "shop.rates shop.store.goods")
    )
    assert problem.startswith("shop/: a circle: store -> wiring -> store")


def test_an_import_that_runs_back_up_names_both_modules() -> None:
    (problem,) = said(small("shop.store.goods shop.routes.goods"))
    assert problem.startswith("shop/store/ imports shop/routes/, which docs/architecture.md lists above it:")
    assert "shop.store.goods imports shop.routes.goods" in problem
    assert "list the two the other way round" in problem


def test_a_listed_module_has_a_place_in_the_order() -> None:
    page = f"{PAGE}| `shop/clock.py` | time |\n"
    assert not said(small("shop.store.goods shop.clock"), page)
    (problem,) = said(small("shop.clock shop.store.goods"), page)
    assert problem.startswith("shop/clock.py imports shop/store/")


def test_packages_at_the_top_are_ordered_too() -> None:
    drawn = tree.Tree(frozenset({"lab", "shop"}), frozenset({"lab", "shop"}), frozenset({("shop", "lab")}))
    (problem,) = said(drawn, "| `lab/` | x |\n| `shop/` | x |\n")
    assert problem.startswith("shop/ imports lab/")


@pytest.mark.parametrize(("count", "refused"), [(tree.MODULES_MAX, False), (tree.MODULES_MAX + 1, True)])
def test_a_folder_with_too_many_modules_is_refused(count: int, refused: bool) -> None:
    problems = said(small(more=tuple(f"shop.store.part_{number}" for number in range(count))))
    assert problems == [
        f"shop/store/ has {count} modules, and 20 are allowed. Move a subject to a new folder." for _ in range(refused)
    ]


def test_a_folder_without_a_row_is_refused() -> None:
    (problem,) = said(small(), PAGE.replace("| `shop/store/` | queries |\n", ""))
    assert problem.startswith("shop/store/ has no row in docs/architecture.md.")


def test_a_folder_with_two_rows_is_refused() -> None:
    (problem,) = said(small(), f"{PAGE}| `shop/store/` | again |\n")
    assert problem.startswith("shop/store/ has more than one row")


@pytest.mark.parametrize(
    "line", ["| `shop/tills/` | gone |", "Put it into `shop/tills/`.", "See `shop/store/tills.py`."]
)
def test_a_page_that_names_a_missing_file_is_refused(line: str) -> None:
    (problem,) = said(small(), f"{PAGE}{line}\n")
    assert "is named in docs/architecture.md, but it does not exist" in problem


def test_a_page_may_name_folders_outside_the_checked_packages() -> None:
    page = f"{PAGE}| `tests/` | x |\n\nSee `tests/shop/` and `relative/`.\n"
    assert not tree.problems(small(), page, {"tests/", "tests/shop/"}.__contains__)


def test_the_imports_of_real_files_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree includes imports inside functions and under TYPE_CHECKING."""
    package = tmp_path / "drawn_by_test"
    (package / "below").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "below" / "__init__.py").touch()
    (package / "below" / "part.py").write_text("def late():\n    import drawn_by_test.app\n")
    (package / "app.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from drawn_by_test.below import part\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    drawn = tree.drawn(["drawn_by_test"], tmp_path)
    assert drawn.folders == {"drawn_by_test", "drawn_by_test.below"}
    assert drawn.modules == {*drawn.folders, "drawn_by_test.app", "drawn_by_test.below.part"}
    assert drawn.imports == {
        ("drawn_by_test.app", "drawn_by_test.below.part"),
        ("drawn_by_test.below.part", "drawn_by_test.app"),
    }
