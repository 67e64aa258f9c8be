"""The private PostgreSQL: real databases, each filled once a template, and nothing left after its owner is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud.storage import PostgresLocation
from lab.postgres import Cluster, binaries, cluster, database_location, located
from lab.processes import wait_until

OWNER = """
import time
from lab.postgres import cluster
print(cluster().folder, cluster()._process.pid, flush=True)
time.sleep(60)
"""


def test_a_file_is_a_migrated_database_of_its_service(tmp_path: Path) -> None:
    location = database_location("sqlite", "fabric", tmp_path)
    assert location == tmp_path / "fabric.sqlite"
    assert located(tmp_path, "fabric") == location
    assert location.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.slow
def test_a_template_is_filled_once_and_copied_for_everyone() -> None:
    filled: list[str] = []

    def fill(location: PostgresLocation) -> None:
        filled.append(location.name)

    first, second = (cluster().copy_of("tests.lab", fill) for _ in range(2))
    assert len({*filled, first.name, second.name}) == 3
    for location in (first, second):
        cluster().drop(location)


@pytest.mark.slow
def test_a_server_can_be_stopped_and_started_with_other_settings() -> None:
    server = Cluster()
    try:
        server.stop()
        server.start(max_connections="7")
        done = subprocess.run(
            [binaries() / "psql", "-h", server.folder, "-U", "cascade", "-Atc", "SHOW max_connections", "postgres"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "7\n"
    finally:
        server.remove()
    assert not server.folder.exists()


@pytest.mark.slow
def test_nothing_is_left_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        folder, pid = owner.stdout.readline().split()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    wait_until("the end of its files", lambda: not Path(folder).exists())

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    wait_until("the end of the server", gone)
