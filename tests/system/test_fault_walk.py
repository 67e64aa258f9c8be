"""The fault walk: every durable write and send of activation, confirm, session and revocation, cut off by SIGKILL."""

import ast
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.simulators.tpm import SoftTpm
from tests.system.fault_scenarios import PREPARE, SCENARIOS, Case, run_lanes
from tests.system.walk import Lane

ROOT = Path(__file__).parents[2]
LANES = 3
GROUP_CASES = 6
WALK_SECONDS_MAX = 180
RETURN_SECONDS_MAX = 30

_NAME = re.compile(r"(node|fabric|breakwater)\.[a-z]+\.[a-z_]+")
_EFFECTS = {
    "node": {
        *("write_atomic", "write_directory", "remove_file", "remove_directory", "rename_file"),
        *("service.start_activation", "service.prove_activation", "service.nonce", "service.open_session"),
        *("service.confirm", "service.statement", "service.events", "service.renew_device"),
        *("fabric.events", "fabric.statement", "self._fabric.statement", "self._fabric.events"),
    },
    "cloud/fabric": {"store.transaction", "store.activations.purge", "self._post"},
    "cloud/breakwater": {
        *("self._store.open_generation", "self._store.close_generations", "self._store.close_generation"),
        *("self._store.record", "self._store.keep", "self._store.orphan_all"),
    },
}
"""What writes durably or sends, by the text of the call."""
_OTHERWISE = {
    "node/licensing/store.py:_set_tombstone_aside": "called inside node.statement.write",
    "cloud/fabric/bootstrap.py": "cascade init, before there is a cloud",
    "cloud/fabric/service/codes.py": "an operator's command, one transaction and nothing after it",
    "cloud/fabric/service/tenants.py": "the same",
    "cloud/fabric/service/tokens.py": "the same",
}
"""Where it stands outside of a fault point, and why it may."""


def _sources() -> list[Path]:
    return [path for side in ("protocol", "node", "cloud") for path in sorted((ROOT / side).rglob("*.py"))]


def _is_fault_point(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault_point"


def points_in_code() -> list[str]:
    """The name at every `fault_point(...)`; a call that does not have one literal is shown as its source."""
    names = []
    for path in _sources():
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and _is_fault_point(call):
                match call:
                    case ast.Call(args=[ast.Constant(value=str(name))], keywords=[]):
                        names.append(name)
                    case _:
                        names.append(ast.unparse(call))
    return names


def _outside(node: ast.AST, effects: set[str], function: str = "") -> Iterator[tuple[str, str]]:
    """The effects that stand in no `with fault_point(...)`, each with the function it is in."""
    if isinstance(node, ast.With) and any(_is_fault_point(item.context_expr) for item in node.items):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    if isinstance(node, ast.Call) and ast.unparse(node.func) in effects:
        yield function, ast.unparse(node.func)
    for child in ast.iter_child_nodes(node):
        yield from _outside(child, effects, function)


def test_fault_points_are_named_once_each_by_a_literal() -> None:
    names = points_in_code()
    assert [name for name in names if not _NAME.fullmatch(name)] == []
    assert sorted(names) == sorted(set(names))


def test_every_durable_write_and_send_stands_in_a_fault_point() -> None:
    found = set()
    for folder, effects in _EFFECTS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            for function, call in _outside(ast.parse(path.read_text()), effects):
                where = name if name in _OTHERWISE else f"{name}:{function}"
                found.add(where if where in _OTHERWISE else f"{where}: {call}")
    assert found == set(_OTHERWISE)


def test_every_fault_point_survives_a_kill_before_and_after_it(
    tmp_path: Path, chips: tuple[SoftTpm, SoftTpm], record_property: Callable[[str, object], None]
) -> None:
    started = time.monotonic()
    cases = [
        [Case(scenario, point, stage) for point in scenario.points for stage in ("before", "after")]
        for scenario in SCENARIOS
    ]
    groups = [group[at : at + GROUP_CASES] for group in cases for at in range(0, len(group), GROUP_CASES)]
    results = run_lanes([Lane(tmp_path / f"{number}", chips[number % 2], PREPARE) for number in range(LANES)], groups)
    took = time.monotonic() - started

    failed = {case: result for case, result in results.items() if isinstance(result, BaseException)}
    returns = {case: result for case, result in results.items() if isinstance(result, float)}
    walked = {(case.point, case.stage) for case in returns}
    record_property(
        "shown",
        f"fault walk: {len({point for point, _ in walked})} fault points, {len(returns)} of {len(results)} kills "
        f"survived, slowest return {max(returns.values(), default=0):.1f} s, {took:.0f} s in all",
    )
    assert not failed, "\n\n".join(f"{case}\n{error!r}" for case, error in failed.items())
    assert walked == {(point, stage) for point in points_in_code() for stage in ("before", "after")}
    assert max(returns.values()) <= RETURN_SECONDS_MAX
    assert took <= WALK_SECONDS_MAX
