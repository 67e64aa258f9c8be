"""Command: make the fixture of a release: a machine with its software TPM, and its cloud, as that release leaves them.

    git clone . /tmp/release && git -C /tmp/release checkout TAG
    .venv/bin/python tests/released/make.py /tmp/release tests/released/VERSION

The programs of the given checkout do all of the work; this file uses its `lab`. The machine has an earlier generation,
a key of a rekey, a suspension that has ended, and an outstanding request in a file.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

PORT = 24_130
"""The first of the cloud's ports. It is below the range from which the kernel takes ports for clients."""
HERE = "CASCADE_RELEASED_IN"
"""Environment variable: the directory of the fixture while the programs of the checkout make it."""


def main(checkout: Path, fixture: Path) -> None:
    """Make the fixture with the programs of a checkout, and pack it."""
    with tempfile.TemporaryDirectory(prefix="released-") as name:
        directory = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), HERE: str(directory)}
        subprocess.run([sys.executable, __file__], check=True, env=environment, cwd=directory)
        fixture.mkdir(parents=True)
        (directory / "fixture.json").rename(fixture / "fixture.json")
        with tarfile.open(fixture / "files.tar.xz", "w:xz", preset=9) as archive:
            for part in ("chip", "cloud", "machine/state"):
                archive.add(directory / part, part, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A member without what differs between machines. The maker's keys of the chip stay out."""
    if Path(member.name).name in {"lock", ".lock"} or member.name.startswith(("chip/ca", "cloud/cache")):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _make(directory: Path) -> None:
    """Run a life of a machine, with the modules of the checkout."""
    from lab import cloud as lab_cloud
    from lab.cloud import Cloud
    from lab.machine import Machine
    from lab.processes import ended, wait_until
    from lab.tpm import SoftTpm
    from node.config import AGENT_VERSION

    setattr(lab_cloud, "free_ports", lambda _count: PORT)  # noqa: B010 (a patch: the addresses are signed)
    with SoftTpm(directory / "chip") as chip:
        cloud, machine = Cloud(directory), Machine(directory, chip)
        with ended(cloud, machine):
            cloud.init()
            cloud.up()
            tenant = cloud.tenant(chip)
            file = cloud.code(tenant, "--seats", "2", entitlement="vision:limit=2")
            for _ in range(2):
                machine.run("activate", str(file))
            node = machine.run("license", "show")["node"]
            machine.run("renew", "--rekey")
            machine.up()
            cloud.run("node", "suspend", node, "--reason", "unpaid")
            wait_until("the suspension", lambda: machine.ask("/v1/license")["state"] == "suspended")
            cloud.run("node", "resume", node, "--reason", "paid")
            wait_until("the new lease", lambda: machine.ask("/v1/license")["state"] == "active")
            wait_until("the floor", lambda: machine.ask("/v1/status")["floor"]["record_state"] == "current")
            machine.down()
            machine.run("request")
            licence = machine.run("license", "show")
            cloud.down()
    document = {
        "version": AGENT_VERSION,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "directory": str(directory),
        "port": PORT,
        "node": node,
        "generation": licence["generation"],
        "seq": licence["lease"]["seq"],
    }
    (directory / "fixture.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if HERE in os.environ:
        _make(Path(os.environ[HERE]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
