"""The codes that the agent shows, read from its source: conditions, errors, flags, and refusals of the cloud.

A test compares them with the tables of `docs/troubleshooting.md`. If the source computes the code of a
condition, the reading raises an error with file and line.
"""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from node.errors import NodeError
from node.hwbind.errors import TpmError
from protocol.problems import KINDS
from tests.documented import codes_below

NODE = Path(__file__).parent.parent / "node"
FAULTS = "fault_..."
"""The codes of `node.supervision`: `fault_` and the name of a loop or step."""

_REGISTERS = ("conditions", "_conditions")
_CODE_OF_AN_ERROR = "code"
_HELPERS = {"node/exchanges/reporting.py", "node/state.py", "node/conditions.py", "node/licensing/hardware.py"}
"""The files with a function that reports a code of its caller. The calls of the function are read instead."""


@cache
def _trees() -> dict[str, ast.Module]:
    files = sorted(NODE.rglob("*.py"))
    return {str(file.relative_to(NODE.parent)): ast.parse(file.read_text("utf-8")) for file in files}


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the last name of what it calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, node


def _constants(tree: ast.Module) -> dict[str, str]:
    """The names that a module binds to a text."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.update({target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)})
    return found


def _reported(path: str, tree: ast.Module) -> Iterator[str]:
    """The codes of the calls that report a condition or make a `Weakness`, except codes of an error."""
    names = _constants(tree)
    for name, call in _calls(tree):
        register = call.func.value if isinstance(call.func, ast.Attribute) else None
        of_register = (isinstance(register, ast.Attribute) and register.attr in _REGISTERS) or (
            isinstance(register, ast.Name) and register.id in _REGISTERS
        )
        of_state = name == "_report" and path in ("node/state.py", "node/licensing/hardware.py")
        if (name == "report" and of_register) or name == "Weakness" or of_state:
            code = call.args[0]
        elif name == "errand":
            code = call.args[1]
        else:
            continue
        if isinstance(code, ast.Constant):
            yield str(code.value)
        elif isinstance(code, ast.Name) and code.id in names:
            yield names[code.id]
        elif isinstance(code, ast.Call) and path == "node/supervision.py":
            yield FAULTS
        elif isinstance(code, ast.Attribute) and code.attr == _CODE_OF_AN_ERROR:
            continue
        elif not (isinstance(code, ast.Name) and path in _HELPERS):
            raise AssertionError(f"{path}:{call.lineno}: the code of this condition cannot be read")


def conditions() -> frozenset[str]:
    """The codes of conditions that are no code of an error."""
    return frozenset(code for path, tree in _trees().items() for code in _reported(path, tree))


def _classes(root: type[Exception]) -> Iterator[type[Exception]]:
    for each in root.__subclasses__():
        yield each
        yield from _classes(each)


def _errors(root: type[NodeError] | type[TpmError]) -> frozenset[str]:
    """The codes of the error classes of `node` that the source makes. A class that only others derive from has none."""
    for path in _trees():
        module = path.removesuffix(".py").replace("/", ".")
        if not module.endswith("__main__"):
            importlib.import_module(module)
    made = {name for tree in _trees().values() for name, _ in _calls(tree)}
    classes: list[type[Exception]] = [each for each in (root, *_classes(root)) if each.__module__.startswith("node.")]
    return frozenset(str(vars(each).get("code", "")) for each in classes if each.__name__ in made) - {""}


def tpm_errors() -> frozenset[str]:
    """The codes of the TPM's errors."""
    return _errors(TpmError) | {TpmError.code}


def link_errors() -> frozenset[str]:
    """The codes that the source gives to an error of one connection."""
    found = set()
    for tree in _trees().values():
        for name, call in _calls(tree):
            codes = [each.value for each in call.keywords if each.arg == "code"] if name == "CloudUnreachable" else []
            codes += call.args[:1] if name == "LinkFailed" else []
            found |= {str(code.value) for code in codes if isinstance(code, ast.Constant)}
    return frozenset(found)


def errors() -> frozenset[str]:
    """The codes of all other errors of the agent and its commands."""
    return _errors(NodeError)


def flags() -> frozenset[str]:
    """The flags of the licence document."""
    tree = _trees()["node/local/documents.py"]
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_flags")
    pairs = [node for node in ast.walk(function) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
    return frozenset(str(pair.elts[0].value) for pair in pairs if isinstance(pair.elts[0], ast.Constant))


def refusals() -> frozenset[str]:
    """The conclusive codes with which the cloud can refuse an agent's request."""
    codes = codes_below("fabric", "/v1/activations", "/v1/node/", operators=False)
    codes |= codes_below("breakwater", "/.well-known/est/simplereenroll")
    return frozenset(code for code in codes if KINDS[code].conclusive)
