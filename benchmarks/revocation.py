"""Benchmark: from `cascade node revoke` until the socket of a running agent denies the entitlement.

Each round has a readmission code, an activation, an agent that settles, and the command as a new process. The agent has
its default settings, so only the wake channel can be quick enough. Two times are measured: from the start of the
command, and from the cloud's decision, which is the time in its audit row.
"""

import subprocess
import time
from datetime import UTC, datetime

from benchmarks.figures import Aim, Figure, median, progress
from benchmarks.world import ENTITLEMENT, World
from lab.processes import BIN, StepFailed

ROUNDS = 18
"""Each round activates the machine, and a machine activates at most 20 times an hour."""
SETTLED_SECONDS = 1.5
"""An agent asks twice after its start: once to settle, once when its wake channel opens."""
DENIED_SECONDS_MAX = 30.0
POLL_SECONDS = 0.005
READS = 5
MEDIAN_SECONDS, WORST_SECONDS = 2.0, 5.0


def _decided_at(world: World, node: str) -> datetime:
    rows = [row for row in world.operate("audit", "list", "--object", node) if row["action"] == "node.revoke"]
    return max(datetime.fromisoformat(row["at"]) for row in rows)


def _revoke(world: World, node: str) -> tuple[float, datetime]:
    """Seconds from the start of the command until the socket denies, and the time of the denial."""
    with world.socket_client() as client:
        began = time.perf_counter()
        command = [str(BIN / "cascade"), "node", "revoke", node, "--reason", "benchmark", "--json"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while client.get(f"/v1/entitlements/{ENTITLEMENT}").json()["granted"]:
                if time.perf_counter() - began > DENIED_SECONDS_MAX:
                    raise StepFailed("the entitlement was not denied in time")
                time.sleep(POLL_SECONDS)
            seconds, denied_at = time.perf_counter() - began, datetime.now(UTC)
        finally:
            code = child.wait(DENIED_SECONDS_MAX)
        if code != 0:
            raise StepFailed(f"`cascade node revoke` exited {code}")
    return seconds, denied_at


def _read_only_command(node: str) -> float:
    began = time.perf_counter()
    command = [str(BIN / "cascade"), "node", "show", node, "--json"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=DENIED_SECONDS_MAX)
    return time.perf_counter() - began


def revocation(world: World) -> list[Figure]:
    """Measure the revocations of all rounds. The machine is activated afterwards."""
    installed = world.installed()
    world.cloud_up()
    progress(f"revocation: {ROUNDS} rounds of an activation, a running agent and a revocation")
    typed, decided = [], []
    floor = median([_read_only_command(installed.node) for _ in range(READS)])
    for number in range(ROUNDS):
        with world.agent():
            time.sleep(SETTLED_SECONDS)
            seconds, denied_at = _revoke(world, installed.node)
        typed.append(seconds)
        decided.append((denied_at - _decided_at(world, installed.node)).total_seconds())
        world.activate(world.new_code(installed.tenant, f"readmit-{number}", "--readmit", installed.node))
        if number % 5 == 4:
            progress(f"  {number + 1} of {ROUNDS}: median so far {median(typed):.2f} s")
    floor_name = "the same command line reading the node (`cascade node show`), start of the process included"
    return [
        Figure(
            name="revocation to denial, median", value=median(typed), unit="s", floor=floor, floor_name=floor_name,
            aim=Aim(MEDIAN_SECONDS, of="value"), note=f"{ROUNDS} rounds, from the start of the command",
        ),
        Figure(
            name="revocation to denial, worst", value=max(typed), unit="s", floor=floor,
            aim=Aim(WORST_SECONDS, of="value"),
        ),
        Figure(name="cloud's decision to denial, median", value=median(decided) * 1000, unit="ms"),
        Figure(name="cloud's decision to denial, worst", value=max(decided) * 1000, unit="ms"),
    ]  # fmt: skip
