"""Two replicas on one PostgreSQL under load: one is killed, then the database crashes. No acknowledged change is lost.

`make drills PART=replicas` does the same with more callers, and measures.
"""

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.cloud import Cloud
from lab.postgres import Cluster
from lab.processes import wait_until
from tests.system.support.replicas import Worker, copied_installation, lost, working

CHANGES = 4
"""Answered changes of each worker between two events."""


def _go_on(workers: Sequence[Worker], *, sessions: int = 0) -> None:
    """Wait until each worker got more answers: `CHANGES` about changes, and `sessions` with a session's certificate."""
    wanted = [(worker.count["changes"] + CHANGES, worker.count["sessions"] + sessions) for worker in workers]

    def gone_on() -> bool:
        return all(
            worker.error or (worker.count["changes"] >= changes and worker.count["sessions"] >= opened)
            for worker, (changes, opened) in zip(workers, wanted, strict=True)
        )

    wait_until("more answers for every worker", gone_on)


@pytest.mark.long(6)
def test_a_killed_replica_and_a_crashed_database_lose_nothing(tmp_path: Path, installation: Cloud) -> None:
    with ExitStack() as ending:
        cluster = Cluster()  # private, because the recovery of the databases of other tests takes seconds
        ending.callback(cluster.remove)
        replicas = copied_installation(tmp_path, cluster, installation).start()
        ending.callback(replicas.end)
        first = replicas.pairs[0]
        at_first, at_second = (
            [Worker(replicas, cloud, 10 * place + number) for number in range(2)]
            for place, cloud in enumerate(replicas.clouds)
        )
        workers = [*at_first, *at_second]
        with working(workers):
            _go_on(workers)
            for name in ("fabric", "breakwater"):
                first.kill(name)
            _go_on(at_second)
            first.serve("breakwater", "fabric")
            _go_on(workers)
            cluster.stop(signal.SIGQUIT)  # as in a crash: it writes nothing more
            cluster.start()
            _go_on(workers, sessions=1)
        assert sum(worker.count["no answer"] for worker in at_first) > 0
        assert lost(replicas, workers) == []
        place = ("--dir", str(replicas.cloud.directory))
        assert replicas.cloud.run("pki", "check", *place)["findings"] == []
