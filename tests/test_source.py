"""Rules about the source text that no linter knows: sizes, files that pages name, where TLS and SQL may be touched."""

import ast
import re
import tomllib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from tokenize import COMMENT, generate_tokens

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 450

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/adr/*.md")
_FILE = re.compile(r"`((?:protocol|node|cloud|lab|demo|benchmarks|tests|tools|docs|packaging)/[\w./-]+)`")

SQL = re.compile(r"\s*(?:\{\} )?(?:SELECT|INSERT|UPDATE|DELETE|WITH|EXISTS|NOT EXISTS|UNION|WHERE|ON CONFLICT)\b")
SQL_CALLS = {"sql", "Statement", "WhereRaw", "QueryString"}
SQL_CALLS_MAX = 12
"""The number of calls today. Before you raise it, check whether Piccolo can express the query."""

HTTP_DECORATORS = {"get", "post", "put", "patch", "delete", "head", "route"}

TLS_INSIDES = {"sslobject_class", "getpeercert"}
TLS_FILES = {"node/link/transport.py", "cloud/mtls/server_stream.py", "cloud/mtls/client.py"}


def _modules() -> Iterator[Path]:
    """Every module of the packages that ship, and of lab."""
    for package in ("protocol", "node", "cloud", "lab"):
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse((ROOT / path).read_bytes(), str(path)) for path in _modules()}


def test_functions_stay_short(trees: dict[Path, ast.Module]) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {lines} lines"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long


def test_modules_stay_small() -> None:
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in _modules()}
    assert sizes
    assert not {str(path): lines for path, lines in sizes.items() if lines > MODULE_LINES_MAX}


def test_only_the_listed_files_use_tls_internals(trees: dict[Path, ast.Module]) -> None:
    found = {
        str(path)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in TLS_INSIDES
    }
    assert found == TLS_FILES


def test_only_the_port_of_the_tpm_makes_connections_and_contexts(trees: dict[Path, ast.Module]) -> None:
    """The port refuses commands in the thread of an event loop, and nothing in the node passes it by."""
    makers = {"ESAPI", "Esys", "FAPI", "PyTCTI", "TCTILdr"}
    found = {
        (str(path), name)
        for path, tree in trees.items()
        if path.parts[0] == "node"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) or (isinstance(node, ast.ClassDef) and node.bases)
        for called in ([node.func] if isinstance(node, ast.Call) else node.bases)
        if (name := ast.unparse(called).removesuffix(".parse").rpartition(".")[2]) in makers
    }
    assert found == {
        ("node/hwbind/link.py", "TCTILdr"),
        ("node/hwbind/tpm.py", "ESAPI"),
        ("node/hwbind/tpm.py", "PyTCTI"),
    }


LATER = {
    *("argparse", "h11", "httpcore", "httpx", "pyudev", "securesystemslib", "tomllib", "tuf"),
    *("node.exchanges.activation", "node.exchanges.challenge", "node.exchanges.enrolment", "node.exchanges.software"),
    *("node.exchanges.activation_file", "node.hwbind.endorsement", "node.hwbind.fingerprint"),
    *("node.link.http", "node.local.exchange", "node.local.openapi", "node.trust.update"),
    *("protocol.hardware", "protocol.openapi", "protocol.placeholders"),
}
"""Modules and libraries that the modules of a start do not import: they come at their first use, or when it is READY."""


def test_a_start_of_the_agent_imports_nothing_that_comes_later(trees: dict[Path, ast.Module]) -> None:
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): tree for path, tree in trees.items()}
    found: set[str] = set()
    waiting = ["node.cli.main", "node.startup", "node.system.hardening", "node.disk.credentials"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(names[name]) if name in names else ()
    assert "node.agent" in found
    assert not {name for name in found for later in LATER if name == later or name.startswith(f"{later}.")}
    assert {later for later in LATER if later.startswith("node.")} <= set(names)


def _imported(tree: ast.Module) -> Iterator[str]:
    """The modules that the import of a module imports: not those in functions, and not those for type checkers."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str() as module, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case _:
                pass
        waiting += ast.iter_child_nodes(node)


def test_the_folder_of_packages_is_not_a_python_package() -> None:
    """A package of that name would shadow the `packaging` library for processes that start in the repository's root."""
    assert (ROOT / "packaging").is_dir()
    assert not list((ROOT / "packaging").rglob("__init__.py"))


def test_packages_that_ship_have_the_typing_marker_and_the_licence() -> None:
    """PEP 561: without `py.typed` in the installed package, type checkers ignore its annotations."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = {pattern.rstrip("*") for pattern in settings["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert settings["tool"]["setuptools"]["package-data"] == {package: ["py.typed"] for package in shipped}
    assert all((ROOT / package / "py.typed").is_file() for package in shipped)
    assert settings["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / settings["project"]["license-files"][0]).read_text()


def test_the_files_that_pages_name_exist() -> None:
    named = {
        (str(page.relative_to(ROOT)), path)
        for pattern in PAGES
        for page in ROOT.glob(pattern)
        for path in _FILE.findall(page.read_text())
    }
    assert named
    assert not [f"{page} names {path}" for page, path in sorted(named) if not (ROOT / path).exists()]


def _comments(text: str) -> set[int]:
    """The numbers of the lines that have a comment."""
    return {token.start[0] for token in generate_tokens(StringIO(text).readline) if token.type == COMMENT}


def _sql_calls(tree: ast.Module) -> Iterator[tuple[ast.Assign | ast.Return, ast.Call]]:
    """The calls that take SQL as text, each with its statement of Python."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Return):
            yield from (
                (node, call)
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and ast.unparse(call.func) in SQL_CALLS
            )


def test_sql_text_in_stores_has_its_reason_beside_it(trees: dict[Path, ast.Module]) -> None:
    """Queries are Piccolo's. SQL text is allowed only in a call of `SQL_CALLS`, beside a comment that says why."""
    calls, bare, unexplained = 0, [], []
    for path, tree in trees.items():
        if path.parent.name != "store":
            continue
        comments = _comments((ROOT / path).read_text())
        in_calls: set[ast.AST] = set()
        for statement, call in _sql_calls(tree):
            calls += 1
            in_calls.update(ast.walk(call))
            if not comments & {*range(statement.lineno - 1, (statement.end_lineno or statement.lineno) + 1)}:
                unexplained.append(f"{path}:{statement.lineno}")
        bare += [
            f"{path}:{node.lineno} {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
            if node not in in_calls
        ]
    assert not bare
    assert not unexplained
    assert 0 < calls <= SQL_CALLS_MAX


def _handlers(tree: ast.Module) -> set[str]:
    """The names of the module's functions with a Litestar route decorator."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in HTTP_DECORATORS
    }


def test_every_handler_is_in_the_handlers_of_its_module(trees: dict[Path, ast.Module]) -> None:
    """A service registers the HANDLERS of its route modules, so a handler missing there has no route."""
    seen = set()
    for path, tree in trees.items():
        if path.parent.name != "routes" or not (made := _handlers(tree)):
            continue
        listed = {
            name.id
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("HANDLERS")
            for name in ast.walk(node.value)
            if isinstance(name, ast.Name)
        }
        assert made - listed == set(), path
        seen |= made
    assert seen


def test_a_handler_takes_one_part_of_its_service(trees: dict[Path, ast.Module]) -> None:
    """Litestar resolves two dependencies in a task group: 0.1 ms a request, three times the cost of the rest."""
    for path, tree in trees.items():
        if not path.match("cloud/*/routes/*.py"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef):
                taken = [
                    each.arg for each in node.args.args if each.annotation and "Wired" in ast.unparse(each.annotation)
                ]
                assert len(taken) <= 1, f"{path}:{node.lineno}: {node.name} takes {taken}"


SLEEPERS = {
    "tests/waiting.py:until": "the wait for a condition, with a deadline",
    "tests/waiting.py:stays": "the absence of an event has no event",
    "tests/waiting.py:stays_true": "the same without an event loop",
    "tests/node/link/test_api.py:drip": "a server that sends a byte at a time",
    "tests/node/trust/test_update.py:endless_header": "the same",
    "tests/node/trust/test_update.py:dripping_body": "the same",
    "tests/cloud/mtls/test_client.py:_dripping": "the same",
    "tests/system/support/issuer_walk/scenarios.py:_a_dead_record": "a record is another process's work for that long",
    "tests/system/support/fault_walk/scenarios.py:_overdue": "the cloud's time for a confirmation",
    "tests/system/support/fault_walk/scenarios.py:_undecided": "the operator's time for a decision",
    "tests/system/support/witness.py:sign": "waits in the issuer's process for a file that the test removes",
    "tests/system/support/whole_machines.py:wait_for": "the pace of questions to a guest in QEMU",
    "tests/drills/gating.py:stays": "the pace of questions to a container",
    "tests/drills/events_follow.py:restart": "the time for which PostgreSQL works before its restart",
    "tests/drills/machine.py:_asleep": "the time for which the machine sleeps",
    "tests/drills/machine.py:_stopped": "the time for which the machine is stopped",
    "tests/drills/machine.py:_restored": "a session within a minute of the last one counts as overtaken",
    "tests/drills/machine.py:_tpm_copy": "the same",
    "tests/drills/footprint.py:run": "the time until the programs are idle",
    "tests/drills/footprint.py:_measure": "the time of the measurement",
    "tests/drills/system.py:wait": "the pace of questions to a slow guest",
    "tests/drills/system.py:_storm": "the time in which a storm would go on",
    "tests/drills/system.py:upgrade": "the time in which a gate asks the new agent",
    "tests/drills/system.py:revoke": "the time in which a start would be repeated",
    "tests/system/support/fleet.py:_watch": "the pace of simulated nodes",
    "tests/system/support/fleet.py:_live": "the same",
    "tests/node/test_waits.py:test_a_sleep_counts": "a simulated clock",
    "tests/node/test_waits.py:test_a_step_is_reported_once_and_prolongs_nothing": "the same",
    "tests/node/test_waits.py:test_a_slow_correction_is_no_move": "the same",
    "tests/node/exchanges/test_wake_channel.py:events": "the same",
    "tests/node/exchanges/test_wake_channel.py:test_an_outage_brings_one_quick_attempt_and_then_wide_waits": "the same",
    "tests/node/link/test_connect.py:open_one": "the same",
    "tests/drills/offline_days.py:_licensed_program": "the same",
    "tests/node/test_supervision.py:__call__": "the same",
    "tests/node/test_agent.py:cut": "a poll that lives for that long",
    "tests/drills/flapping.py:_watch": "the pace of simulated hours",
    "tests/drills/flapping.py:_happen": "the same",
    "tests/drills/flapping.py:_must_be_well": "the same",
    "tests/drills/flapping.py:answer": "a cloud that does not answer",
    "tests/simulators/faulty_ports.py:answer": "the same",
    "tests/system/support/replicas.py:_try": "the pause of a caller after a failure",
    "tests/system/support/replicas.py:_change": "the same, after a 503",
    "tests/drills/replicas.py:_speed": "the length of a measurement",
    "tests/drills/replicas.py:_frozen": "the time for which a replica is frozen",
    "tests/drills/replicas.py:_killed": "the load before and after a kill",
    "tests/drills/nats.py:_run": "the pace of the load",
    "tests/drills/nats.py:_pump": "a network that is slow or passes nothing",
    "tests/drills/nats.py:calls": "the pace of the calls",
    "tests/system/support/events_walk/producing.py:_hold": "the time for which a transaction is kept open",
}
"""The functions under tests that may sleep, and why. A test waits for the thing itself: see tests/waiting.py."""

CLOCKS = {"time", "asyncio", "trio", "anyio"}


def _sleeps(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that sleep. `sleep(0)` only lets other tasks run."""
    nodes = list(ast.walk(tree))
    bare = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module in CLOCKS
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in nodes:
        match node:
            case ast.Call(args=[ast.Constant(value=0)]):
                continue
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr="sleep")) if module in CLOCKS:
                yield node
            case ast.Call(func=ast.Name(id=name)) if name in bare:
                yield node


def test_no_test_sleeps() -> None:
    found = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = path.read_bytes()
        if b"sleep" not in source:
            continue
        tree = ast.parse(source, str(path))
        for call in _sleeps(tree):
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            inside = [each for each in functions if each.lineno <= call.lineno <= (each.end_lineno or each.lineno)]
            name = max(inside, key=lambda each: each.lineno).name if inside else "the module"
            found.add(f"{path.relative_to(ROOT)}:{name}")
    assert found - set(SLEEPERS) == set(), "wait for the thing itself: tests/waiting.py"
    assert set(SLEEPERS) - found == set(), "these no longer sleep: remove them from SLEEPERS"
