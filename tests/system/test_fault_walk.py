"""The fault walk: every durable write and send of node and cloud, from activation to revocation, cut off by SIGKILL."""

import ast
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.tpm import SoftTpm
from tests.system.support.fault_points import ROOT, is_fault_point, points_in_code
from tests.system.support.fault_walk.scenarios import PREPARE, SCENARIOS, Case, run_lanes
from tests.system.support.fault_walk.site import Lane

LANES = 3
GROUP_CASES = 6
RETURN_SECONDS_MAX = 30

_NAME = re.compile(r"(node|fabric|breakwater)\.[a-z]+\.[a-z_]+")
_EFFECTS = {
    "node": {
        *("write_atomic", "write_directory", "remove_file", "remove_directory", "rename_file"),
        *("service.start_activation", "service.prove_activation", "service.nonce", "service.open_session"),
        *("service.confirm", "service.statement", "service.events", "service.reenroll"),
        *("service.start_renewal", "service.prove_renewal"),
        *("fabric.events", "fabric.statement", "self._fabric.statement", "self._fabric.events"),
    },
    "cloud/fabric": {
        *("stores.transaction", "self.transaction", "self._transaction"),
        *("self.activations.purge", "self.renewals.purge", "self._post"),
    },
    "cloud/breakwater": {
        *("self._store.open", "self._store.close_up_to", "self._store.close_one", "self._store.supersede_keys"),
        *("self._store.record", "self._store.keep", "self._store.orphan", "self._store.orphan_stale"),
        *("self._store.revoke", "self._store.revoke_service"),
        *("self._store.prepare", "self._store.add_cross", "self._store.move", "store.make_counters", "store.adopt"),
        *("self._store.reserve", "self._store.draw", "self._store.publish", "self._store.add", "self._store.end"),
        *("parts.stores.issuance.add_hosts", "write_key", "write_secret"),
    },
    "cloud/mtls": {"write_key", "write_secret", "self._issuer.reenroll", "sync_directory"},
}
"""What writes durably or sends, by the text of the call."""
_OTHERWISE = {
    "node/licensing/store.py:_set_tombstone_aside": "called inside node.statement.write",
    "cloud/fabric/bootstrap.py": "cascade init, before there is a cloud",
    "cloud/fabric/service/operators/codes.py": "an operator's command, one transaction and nothing after it",
    "cloud/fabric/service/operators/tenants.py": "the same",
    "cloud/fabric/service/operators/tokens.py": "the same",
    "cloud/fabric/service/published_trust/publishing.py": "the same",
    "cloud/fabric/service/published_trust/trust_reports.py:store": "one transaction; a node reports again with its next question",
    "cloud/fabric/service/published_trust/renewal_orders.py:give": "an operator's command, one transaction",
    "cloud/fabric/service/published_trust/renewal_orders.py:wake_due": "one transaction; whom it did not wake it wakes at the next beat",
    "cloud/fabric/service/published_trust/online_roles.py:keep_fresh": "one transaction; done at the next start or in the next hour",
    "cloud/breakwater/bootstrap.py": "cascade init, before there is a cloud",
    "cloud/breakwater/ceremony/run.py": "a ceremony's new files, staged beside their places; nothing uses them yet",
    "cloud/breakwater/authorities.py:load_authorities": "rows that are there stay; done at each start",
    "cloud/breakwater/issuance/enrolment.py:create": "an operator's command, one transaction and nothing after it",
    "cloud/breakwater/issuance/enrolment.py:revoke": "the same",
    "cloud/breakwater/refusal_audit.py:_write": "the audit of a refusal, which stands without it",
}
"""Where it stands outside of a fault point, and why it may."""


def _outside(node: ast.AST, effects: set[str], function: str = "") -> Iterator[tuple[str, str]]:
    """The effects that stand in no `with fault_point(...)`, each with the function it is in."""
    if isinstance(node, ast.With) and any(is_fault_point(item.context_expr) for item in node.items):
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
        for path in [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py")):
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
    # The issuer's own are walked where it can be seen best, alone: `test_issuer_walk.py` has every one of them.
    assert walked >= {(point, stage) for point in points_in_code("node", "fabric") for stage in ("before", "after")}
    assert set(points_in_code()) == set(points_in_code("node", "fabric", "breakwater"))
    assert max(returns.values()) <= RETURN_SECONDS_MAX
