"""Two Fabrics and two Breakwaters on one PostgreSQL: speed, news, a frozen one, a killed one, a database restart.

Every flush of commits takes 50 ms longer in the first part, and a replica has four connections. So a replica commits at
most four transactions in the time of a flush, and waits for commits, not for the processors that all processes share.
`tests/cloud/fabric/test_replicas.py` has one row of each kind without processes, and `tests/system/test_replicas.py` a
short run with processes.
"""

import argparse
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from lab.cloud import Cloud
from lab.postgres import Cluster
from lab.processes import StepFailed, wait_until
from tests.drills.frame import Figure, Outcome, Say
from tests.simulators.forged_evidence import request
from tests.system.support.paper_node import PaperNode
from tests.system.support.replicas import (
    CODE,
    Operator,
    Replicas,
    Worker,
    lost,
    new_installation,
    open_session,
    working,
)
from tests.system.support.wire import Wire, renew_device

USUAL_TIME = "3 min"
MINUTES_MAX = 20.0

COMMIT_SECONDS = 0.05
NEWS_SECONDS_MAX = 5.0
OTHERS_SECONDS_MAX = 1.0
FROZEN_SECONDS = 8.0
FROZEN_WORKERS = 12
"""Callers in the part with a frozen replica, half of them at the other replica. More would measure how long they wait
for the processors."""
FREEZES_MAX = 200
RACE_REQUESTS = 6
"""Requests of a node while it is revoked: sessions and renewals in turn."""
NOT_CLOSED = "SELECT COUNT(*) AS n FROM node WHERE closed_up_to > closed_at_issuer"
IN_TRANSACTION = """SELECT COUNT(*) AS n FROM pg_stat_activity
    WHERE application_name = 'cascade-fabric' AND state = 'idle in transaction'"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of workers and the lengths of the parts."""
    parser.add_argument("--workers", type=int, default=24, help="callers at the same time (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="seconds of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--revocations", type=int, default=20, help="revocations across replicas (default: %(default)s)"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Run all parts on one installation."""
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-replicas-")))
        cluster = Cluster()
        stack.callback(cluster.remove)
        replicas = new_installation(scratch, cluster).start()
        stack.callback(replicas.end)
        one, two = replicas.clouds
        say("two replicas are up")
        at_one = [Worker(replicas, one, number) for number in range(options.workers)]
        at_both = [Worker(replicas, (one, two)[number % 2], 1000 + number) for number in range(options.workers)]
        say(f"{2 * options.workers} workers have a node each")
        _speed(replicas, at_one, at_both, options.seconds, figures, findings)
        say(f"changes a second: {figures}")
        _news(replicas, options.revocations, figures, findings)
        _races(replicas, options.revocations, figures, findings)
        say("revocations are through")
        _frozen(replicas, at_both[:FROZEN_WORKERS], figures, findings)
        say("the frozen replica has been continued")
        _killed(replicas, at_both, options.seconds, figures, findings)
        everybody = (*at_one, *at_both)
        findings += lost(replicas, everybody)
        checked = replicas.cloud.run("pki", "check", "--dir", str(replicas.cloud.directory))
        findings += [f"pki check: {found}" for found in checked.get("findings", [str(checked)])]
        figures["changes answered"] = sum(worker.count["changes"] for worker in everybody)
        figures["confirms answered"] = sum(worker.count["confirmed"] for worker in everybody)
        figures["sessions answered"] = sum(worker.count["sessions"] for worker in everybody)
        figures["answers 503"] = sum(worker.count["503"] for worker in everybody)
    return Outcome(figures, tuple(findings))


def _speed(
    replicas: Replicas,
    at_one: Sequence[Worker],
    at_both: Sequence[Worker],
    seconds: float,
    figures: dict[str, Figure],
    findings: list[str],
) -> None:
    replicas.set_commit_seconds(COMMIT_SECONDS)
    speeds = []
    for name, workers in (("one replica", at_one), ("two replicas", at_both)):
        before, began = replicas.writes(), time.monotonic()
        with working(workers):
            time.sleep(seconds)
            made, taken = replicas.writes() - before, time.monotonic() - began
        speeds.append(made / taken)
        figures[f"writes/s with {name}"] = round(made / taken, 1)
    replicas.set_commit_seconds(0)
    if speeds[1] <= speeds[0]:
        findings.append(f"two replicas write no more than one: {speeds}")


def _news(replicas: Replicas, revocations: int, figures: dict[str, Figure], findings: list[str]) -> None:
    """Revoke nodes at one Fabric while they wait at the other."""
    one, two = replicas.clouds
    operator, slowest = Operator(one, replicas.token), 0.0
    for number in range(revocations):
        code = operator.ask("POST", f"/v1/tenants/{replicas.tenant}/codes", CODE).into(dict)
        paper = PaperNode(one, f"news {number}").join(code["secret"])
        node = Operator(two, identity=paper.session())
        cursor = node.ask("GET", "/v1/node/events?cursor=0&wait=0").into(dict)["cursor"]
        waiting = node.begin("GET", f"/v1/node/events?cursor={cursor}&wait=60")
        began = time.monotonic()
        operator.ask("POST", f"/v1/nodes/{paper.node}/revoke", {"reason": "drill"}).into(dict)
        moved = waiting().into(dict)["cursor"]
        node.ask("POST", "/v1/node/statement", {"nonce": "n" * 32}).refused("generation_closed")
        slowest = max(slowest, time.monotonic() - began)
        node.close()
        if moved == cursor:
            findings.append(f"revocation {number} did not move the wake channel")
    operator.close()
    figures["slowest revocation across replicas, ms"] = round(slowest * 1000)
    if slowest > NEWS_SECONDS_MAX:
        findings.append(f"a revocation took {slowest:.1f} s to reach a node at the other replica")


def _races(replicas: Replicas, revocations: int, figures: dict[str, Figure], findings: list[str]) -> None:
    """Revoke nodes at one replica while they open sessions and renew their certificates at the other.

    The revocation begins with the first, second, ... request in turn. `cascade pki check` finds a certificate of a
    closed generation that is not revoked, and a revoked certificate that is not on its CRL.
    """
    one, two = replicas.clouds
    operator, anonymous, count = Operator(one, replicas.token), Operator(two), Counter[str]()
    for number in range(revocations):
        code = operator.ask("POST", f"/v1/tenants/{replicas.tenant}/codes", CODE).into(dict)
        paper = PaperNode(one, f"race {number}").join(code["secret"])
        paper.cloud = two
        starting = [threading.Event() for _ in range(RACE_REQUESTS)]
        with ThreadPoolExecutor(1) as thread:
            asking = thread.submit(_renew_often, anonymous, paper, one, starting, count)
            starting[number % RACE_REQUESTS].wait()
            operator.ask("POST", f"/v1/nodes/{paper.node}/revoke", {"reason": "drill"}).into(dict)
            revoked = time.monotonic()
            last_begun = asking.result()
        if last_begun > revoked:
            findings.append(f"race {number}: a request that began after the revocation was answered with a certificate")
        if open_session(anonymous, paper, one, count) is not None:
            findings.append(f"race {number}: a session was opened after the revocation")
    operator.close()
    anonymous.close()
    wait_until("the closing of all generations", lambda: not replicas.rows(NOT_CLOSED)[0]["n"])
    for name, each in sorted(count.items()):
        figures[f"raced: {name}"] = each


def _renew_often(
    via: Operator, paper: PaperNode, first: Cloud, starting: Sequence[threading.Event], count: Counter[str]
) -> float:
    """Open a session and renew the device certificate in turn.

    Returns the time at which the last session that was answered with a certificate had begun, 0 if none was.
    """
    identity, last = None, 0.0
    for number, event in enumerate(starting):
        began = time.monotonic()
        event.set()
        if number % 2 == 0:
            identity = open_session(via, paper, first, count)
            last = began if identity is not None else last
        elif identity is not None:
            with Wire(paper.cloud, "breakwater", identity) as wire:
                count[f"renewals {renew_device(wire, request(paper.node_key)).status}"] += 1
    return last


def _frozen(replicas: Replicas, workers: Sequence[Worker], figures: dict[str, Figure], findings: list[str]) -> None:
    """Stop one replica while its Fabric is inside a transaction. The workers of the other go on.

    The same workers first work for as long beside a replica that is not frozen, for comparison.
    """
    frozen, others = replicas.pairs[0], [worker for worker in workers if worker.cloud is replicas.other]
    with working(workers), ExitStack() as thawed:
        began = time.monotonic()
        time.sleep(FROZEN_SECONDS)
        calm, held = _latencies(others, began), 0
        for _ in range(FREEZES_MAX):
            os.kill(frozen.pid("fabric"), signal.SIGSTOP)
            if held := replicas.rows(IN_TRANSACTION)[0]["n"]:
                time.sleep(0.05)  # the other replica's own transactions end meanwhile
                held = replicas.rows(IN_TRANSACTION)[0]["n"]
            if held:
                break
            os.kill(frozen.pid("fabric"), signal.SIGCONT)
            time.sleep(0.02)
        else:
            findings.append("the replica was never frozen inside a transaction")
        thawed.callback(os.kill, frozen.pid("fabric"), signal.SIGCONT)
        os.kill(frozen.pid("breakwater"), signal.SIGSTOP)
        thawed.callback(os.kill, frozen.pid("breakwater"), signal.SIGCONT)
        began = time.monotonic()
        time.sleep(FROZEN_SECONDS)
        taken = _latencies(others, began)
    if not taken or not calm:
        findings.append("the other replica answered nothing")
        return
    figures["transactions that the frozen replica held"] = held
    for name, each in (("beside a working replica", calm), ("while one is frozen", taken)):
        figures[f"requests to the other {name}"] = len(each)
        figures[f"p99 {name}, ms"] = round(_p99(each) * 1000)
        figures[f"slowest {name}, ms"] = round(each[-1] * 1000)
    if _p99(taken) > OTHERS_SECONDS_MAX:
        findings.append(f"the p99 of the other replica was {_p99(taken):.2f} s while one was frozen")


def _latencies(workers: Sequence[Worker], since: float) -> list[float]:
    """The seconds of the requests that were answered since then, sorted."""
    return sorted(seconds for worker in workers for at, seconds in list(worker.latencies) if at >= since)


def _p99(latencies: Sequence[float]) -> float:
    return latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]


def _killed(
    replicas: Replicas, workers: Sequence[Worker], seconds: float, figures: dict[str, Figure], findings: list[str]
) -> None:
    """Kill one Fabric and one Breakwater, and end the database, orderly and as in a crash, all under load."""
    first = replicas.pairs[0]
    with working(workers):
        time.sleep(seconds / 4)
        for name in ("fabric", "breakwater"):
            first.kill(name)
        time.sleep(seconds / 4)
        first.serve("breakwater", "fabric")
        time.sleep(seconds / 4)
        for how in (signal.SIGINT, signal.SIGQUIT):
            replicas.cluster.stop(how)
            replicas.cluster.start()
            before = [worker.count["changes"] for worker in workers]
            try:
                wait_until(
                    f"a change of every worker after {how.name}",
                    lambda: all(each.count["changes"] > seen for each, seen in zip(workers, before, strict=True)),  # noqa: B023  called in this turn
                )
            except StepFailed as error:
                findings.append(str(error))
    figures["requests without an answer"] = sum(worker.count["no answer"] for worker in workers)
