"""Fault points of the code, read from its syntax trees."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]


def is_fault_point(node: ast.AST) -> bool:
    """Whether this is a call of `fault_point`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault_point"


def points_in_code(*sides: str) -> list[str]:
    """The name at every `fault_point(...)` (of these sides only); a call without one literal is shown as its source."""
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
    return [name for name in names if not sides or name.partition(".")[0] in sides]
