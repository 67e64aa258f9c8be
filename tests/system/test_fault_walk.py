"""The fault walk: a process is killed at every durable write and send, from activation to revocation.

The kill is SIGKILL, in the agent, in a command or in the cloud. The scenario then runs again and meets the next kill.
After the last kill it has to succeed.
Other tests here check that every durable write and send in the code is inside a fault point.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from lab.tpm import SoftTpm
from tests.cloud.events.nats.test_copy import POINTS as COPYING
from tests.cloud.events.test_follower_walk import POINTS as FOLLOWING
from tests.cloud.events.test_walk import POINTS as PRODUCING
from tests.system.support.fault_points import ROOT, is_fault_point, points_in_code, writes_of_stores
from tests.system.support.fault_walk.chains import Chain, kept_chains, walk_chain
from tests.system.support.fault_walk.scenarios import PREPARE, RETURN_SECONDS_MAX, SCENARIOS, all_cases
from tests.system.support.fault_walk.site import Lane

KILL_SECONDS = 0.5
CHECK_SECONDS = 1.0

_NAME = re.compile(r"(node|events|nats|fabric|breakwater|backup|restore)\.[a-z]+\.[a-z_]+")
_EFFECTS = {
    "node": {
        *("write_atomic", "write_directory", "remove_file", "remove_directory", "rename_file"),
        *("service.start_activation", "service.prove_activation", "service.nonce", "service.open_session"),
        *("service.confirm", "service.reenroll", "service.start_renewal", "service.prove_renewal"),
        *("fabric.events", "fabric.statement", "fabric.release"),
    },
    "cloud/fabric": {
        *("stores.transaction", "self.transaction", "self._transaction", "self.acting.transaction"),
        *("self.activations.purge", "self.activations.purge_decided", "self.renewals.purge", "self._post"),
    },
    "cloud/breakwater": {
        *("write_key", "write_secret"),
    },
    "cloud/backup": {
        *("write_secret", "os.link", "begin_loading", "load", "end_loading", "unmark"),
        *("breakwater.mark_restored", "fabric.mark_restored", "self.marker_file.unlink"),
    },
    "cloud/events": {
        *("self._store.insert", "self._store.place", "self._store.purge", "store.begin", "store.set_epoch"),
        *("self._store.set_cursor", "self._store.forget", "self._apply_each"),
    },
    "cloud/mtls": {"write_key", "write_secret", "self._issuer.reenroll", "sync_directory"},
}
"""The calls that write durably or send, by their text. In Breakwater every writing method of a store counts as well."""
_OTHERWISE = {
    "node/exchanges/wake_channel.py:_answer": "its caller has the fault point, node.events.send",
    "node/exchanges/enrolment.py:_tpm_proof": "its caller has the fault point, node.activation.start",
    "node/exchanges/renewal.py:_proof": "its caller has the fault point, node.renewal.start",
    "node/exchanges/software.py:begin_renewal": "the same",
    "node/disk/boot.py": "a record in the runtime directory; without it the agent asks the TPM",
    "node/licensing/kept_time.py": "the same; it is written again after each start",
    "node/licensing/boot_time.py": "the same; without it the time of the boot is taken from the wall clock",
    "node/licensing/store.py:_set_tombstone_aside": "until it is done, each answer of the cloud repeats it",
    "node/licensing/renewal_tokens.py:_forget_others": "tokens of closed generations, which no session presents",
    "node/disk/version.py:keep_version": "the next owner of the state writes it again",
    "node/disk/version.py:forget_version": "a repeat of the deactivation removes it",
    "node/disk/deactivated.py:forget": "a complete record ends no identity, and the next activation removes it",
    "node/disk/identity.py:make_private": "the content that is there already, in a file that no other user has open",
    "node/trust/files.py:scratch": "the scratch directory of one update; no start reads it",
    "node/trust/files.py:scratch_in_memory": "a scratch directory in memory, while the disk cannot be written",
    "node/trust/files.py:_prune": "its generations are in node.trust.prune; the rest are scratch directories",
    "cloud/breakwater/readiness.py:write": "a counter that no code reads; it shows that the database stores rows",
    "cloud/fabric/bootstrap.py": "cascade init, before there is a cloud",
    "cloud/fabric/restored.py": "the restore has the fault point, restore.service.mark",
    "cloud/breakwater/restored.py": "the same",
    "cloud/events/epoch.py:raise_epoch": "the same",
    "cloud/fabric/service/nodes/replaced.py:_raise": "one transaction; the replaced machine asks again",
    "cloud/fabric/service/recovery/refusals.py:_note": "the audit entry of a refusal, which holds without it",
    "cloud/fabric/service/nodes/clones.py:suspect": "one transaction; the sessions that show the suspicion come again",
    "cloud/fabric/service/operators/clone_cases.py": "an operator's command, one transaction and nothing after it",
    "cloud/fabric/service/operators/codes.py": "an operator's command, one transaction and nothing after it",
    "cloud/fabric/service/operators/activations.py:decide": "the same",
    "cloud/fabric/service/operators/activations.py:lift": "the same",
    "cloud/fabric/service/operators/tenants.py": "the same",
    "cloud/fabric/service/operators/trusted_hardware.py": "the same",
    "cloud/fabric/service/operators/pcr_policies.py": "the same",
    "cloud/fabric/service/operators/tokens.py": "the same",
    "cloud/fabric/service/operators/recovery_cases.py": "the same; a poll that is not woken ends by itself",
    "cloud/fabric/service/operators/recovery_codes.py": "an operator's command, one transaction and nothing after it",
    "cloud/fabric/service/restored/holds.py": "the same",
    "cloud/fabric/service/restored/rebuilding.py": "the same; an import is repeated, and so is the end of an overdue rebuild",
    "cloud/fabric/service/operators/recovery_policies.py": "the same",
    "cloud/fabric/service/operators/token_refusals.py:note": "the audit entry of a refusal, which holds without it",
    "cloud/fabric/service/nodes/silence.py:heard": "one transaction; the node's next contact repeats it",
    "cloud/fabric/service/uptime.py:_begin_again": "one transaction a case; without a beat the next one repeats it",
    "cloud/fabric/service/nodes/silence.py:let_on": "one transaction; the machine repeats its proof",
    "cloud/fabric/service/recovery/tries.py:note": "the same",
    "cloud/fabric/service/published_trust/publishing.py": "the same",
    "cloud/fabric/service/nodes/fingerprints.py:_compared": "one transaction; the next session reports it again",
    "cloud/fabric/service/published_trust/trust_reports.py:store": "one transaction; a node repeats its report",
    "cloud/fabric/service/published_trust/renewal_orders.py:give": "an operator's command, one transaction",
    "cloud/fabric/service/published_trust/renewal_orders.py:wake_due": "one transaction; repeated at the next beat",
    "cloud/fabric/service/published_trust/online_roles.py:keep_fresh": "one transaction; repeated within an hour",
    "cloud/breakwater/bootstrap.py": "cascade init, before there is a cloud",
    "cloud/breakwater/ceremony/run.py": "a ceremony's new files, staged; no process uses them yet",
    "cloud/breakwater/authorities.py:load_authorities": "existing rows stay; repeated at each start",
    "cloud/breakwater/revocation/root_crls.py:import_crl": "an operator's command, one transaction, nothing after it",
    "cloud/breakwater/issuance/enrolment.py:create": "an operator's command, one transaction and nothing after it",
    "cloud/breakwater/issuance/enrolment.py:revoke": "the same",
    "cloud/breakwater/issuance/enrolment.py:bind": "the store has the fault point, breakwater.enrolment.bind",
    "cloud/breakwater/issuance/enrolment.py:give_back": "the store has the fault point, breakwater.enrolment.release",
    "cloud/breakwater/background.py:purge": "each transaction deletes rows without further use; repeated later",
    "cloud/breakwater/background.py:_audit": "the audit entry of a finished action",
    "cloud/breakwater/refusal_audit.py:_write": "the audit entry of a refusal, which holds without the entry",
}
"""The durable writes outside of a fault point, each with the reason. "the same" repeats the reason above."""


def _effects_of(folder: str) -> Callable[[str], bool]:
    """A function that tells whether the text of a call is a durable write or send of this folder."""
    named = _EFFECTS[folder]
    writes = writes_of_stores("breakwater") if folder == "cloud/breakwater" else set()

    def is_effect(call: str) -> bool:
        receiver, _, method = call.rpartition(".")
        return call in named or (method in writes and "store" in receiver)

    return is_effect


def _outside(node: ast.AST, is_effect: Callable[[str], bool], function: str = "") -> Iterator[tuple[str, str]]:
    """The function and the text of each effect outside of every `with fault_point(...)`."""
    if isinstance(node, ast.With) and any(is_fault_point(item.context_expr) for item in node.items):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    if isinstance(node, ast.Call) and is_effect(ast.unparse(node.func)):
        yield function, ast.unparse(node.func)
    for child in ast.iter_child_nodes(node):
        yield from _outside(child, is_effect, function)


def test_fault_points_are_named_once_each_by_a_literal() -> None:
    names = points_in_code()
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    assert not wrong, f"a name is <service>.<noun>.<verb>; the noun has letters only: {wrong}"
    assert sorted(names) == sorted(set(names))


def _files_of(folder: str) -> list[Path]:
    """The modules of a folder, except stores. The effects are calls of stores from other modules."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "store" not in path.parts)


def _calls_of(folder: str) -> set[str]:
    """The text of every call in a folder."""
    nodes = (node for path in _files_of(folder) for node in ast.walk(ast.parse(path.read_text())))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_every_listed_effect_occurs_in_the_code() -> None:
    """A renamed call would otherwise escape the check below."""
    assert [name for folder, names in _EFFECTS.items() for name in names - _calls_of(folder)] == []
    called = {
        call.rpartition(".")[2] for call in filter(_effects_of("cloud/breakwater"), _calls_of("cloud/breakwater"))
    }
    assert writes_of_stores("breakwater") - called == set()


def test_every_durable_write_and_send_is_in_a_fault_point() -> None:
    found = set()
    for folder in _EFFECTS:
        is_effect = _effects_of(folder)
        for path in _files_of(folder):
            name = str(path.relative_to(ROOT))
            for function, call in _outside(ast.parse(path.read_text()), is_effect):
                where = name if name in _OTHERWISE else f"{name}:{function}"
                found.add(where if where in _OTHERWISE else f"{where}: {call}")
    outside = sorted(found - set(_OTHERWISE))
    assert not outside, f"put each into a `with fault_point(...)`, or into _OTHERWISE with the reason: {outside}"
    unused = sorted(set(_OTHERWISE) - found)
    assert not unused, f"remove these from _OTHERWISE, because the code has no such call: {unused}"


def test_every_fault_point_of_node_and_fabric_has_a_scenario() -> None:
    walked = {point for scenario in SCENARIOS for point in scenario.points}
    unwalked = set(points_in_code("node", "fabric")) - walked
    assert not unwalked, f"add a scenario to tests/system/support/fault_walk/scenarios.py: {sorted(unwalked)}"


def test_each_fault_point_of_node_and_fabric_is_walked_here_and_by_the_drill() -> None:
    """`test_issuer_walk.py` walks the fault points of Breakwater, `tests/cloud/backup/test_walk.py` those of backups.

    `tests/cloud/events` walks those of events: see below.
    """
    points = set(points_in_code("node", "fabric"))
    assert points <= {case.point for chain in kept_chains() for case in chain.cases}
    stages = {(point, stage) for point in points for stage in ("before", "after")}
    assert stages <= {(case.point, case.stage) for case in all_cases()}
    sides = ("node", "fabric", "breakwater", "backup", "restore", "events", "nats")
    assert set(points_in_code()) == set(points_in_code(*sides))


def test_each_fault_point_of_events_is_walked() -> None:
    """`test_walk.py`, `test_follower_walk.py` and `nats/test_copy.py` in `tests/cloud/events` kill at each of them."""
    assert set(points_in_code("events")) == {*PRODUCING, *FOLLOWING}
    assert set(points_in_code("nats")) == set(COPYING)


@pytest.fixture(scope="session")
def lane(tmp_path_factory: pytest.TempPathFactory, chips: tuple[SoftTpm, SoftTpm]) -> Lane:
    """One installation for all cases. It prepares each situation once."""
    return Lane(tmp_path_factory.mktemp("fault-walk"), chips[0], PREPARE)


def _marked(chain: Chain) -> ParameterSet:
    seconds = CHECK_SECONDS + KILL_SECONDS * len(chain.cases)
    return pytest.param(chain, id=str(chain), marks=pytest.mark.long(seconds, f"fault walk: {chain.family}"))


@pytest.mark.parametrize("chain", [_marked(chain) for chain in kept_chains()])
def test_kills_at_fault_points_are_survived(lane: Lane, chain: Chain) -> None:
    assert walk_chain(lane, chain) <= RETURN_SECONDS_MAX
