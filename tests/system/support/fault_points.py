"""Pure functions: the fault points and the durable writes of the code, from its syntax trees."""

import ast
import importlib
from functools import cache
from pathlib import Path

from cloud.storage import Statement

ROOT = Path(__file__).parents[3]


def is_fault_point(node: ast.AST) -> bool:
    """Whether the node is a call of `fault_point`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault_point"


@cache
def _all_points() -> tuple[str, ...]:
    names = []
    for side in ("protocol", "node", "cloud"):
        for path in sorted((ROOT / side).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and is_fault_point(call):
                    match call:
                        case ast.Call(args=[ast.Constant(value=str(name))], keywords=[]):
                            names.append(name)
                        case _:
                            names.append(ast.unparse(call))
    return tuple(names)


def points_in_code(*sides: str) -> list[str]:
    """The names of all fault points, or of those of the services `sides`. A call without a literal name: its source."""
    return [name for name in _all_points() if not sides or name.partition(".")[0] in sides]


def writes_of_stores(service: str) -> set[str]:
    """The names of the public methods of a service's stores that run a writing statement."""
    found: set[str] = set()
    for path in sorted((ROOT / "cloud" / service / "store").glob("*.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        writing = {name for name, value in vars(module).items() if isinstance(value, Statement) and not value.reads}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found |= _writing_methods(node, writing)
    return {name for name in found if not name.startswith("_")}


def _writing_methods(store: ast.ClassDef, statements: set[str]) -> set[str]:
    """The methods that name one of these statements, or call a method that does."""
    named: dict[str, set[str]] = {
        method.name: {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(method)
            if isinstance(node, ast.Name)
            or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self")
        }
        for method in store.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    writing: set[str] = set()
    while more := {name for name, names in named.items() if names & (statements | writing)} - writing:
        writing |= more
    return writing
