"""The whole suite in a fresh Debian: debootstrap, a clone, `make setup`, `make test`.

Needs root and debootstrap. Processes and mounts of the run have their own namespaces and end with it. The packages
come from the mirror that debootstrap uses by default, or from `--mirror`.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.drills.frame import CannotRun, Figure, Outcome, Say

USUAL_TIME = "20 min"
MINUTES_MAX = 120.0

REPOSITORY = Path(__file__).parent.parent.parent
SUITES = ("bookworm", "trixie")
FIRST_PACKAGES = "git,make,python3,ca-certificates"
"""The packages that CONTRIBUTING.md asks for before `make setup`."""
CHECKOUT = "root/cascade"
FROM_HOST = ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")
"""Files of this machine that the new system needs to reach the package indexes."""
PROGRESS_SECONDS = 60.0
TAIL_LINES = 40
"""The part of a failed command's output that a finding quotes."""

_ENTER = """
set -eu
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
exec chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt /bin/bash -c "cd /root/cascade && $2"
"""
_COUNTS = re.compile(r"=+ (.*\d+ passed.*) in ")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the Debian release, the mirror and the command."""
    parser.add_argument("--suite", choices=SUITES, default="trixie", help="the release (default: %(default)s)")
    parser.add_argument("--mirror", default="", help="where packages come from (default: debootstrap's own)")
    parser.add_argument(
        "--folder", type=Path, help="make the system here and keep it; a system that is there is used again"
    )
    parser.add_argument("--command", default="make test", help="what runs after `make setup` (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Make the system, clone this repository's HEAD into it, set it up and run the command."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root. Run it as root")
    if shutil.which("debootstrap") is None:
        raise CannotRun("debootstrap is missing. Run `apt-get install debootstrap`")
    if options.folder is not None:
        return _run_in(options.folder.resolve(), options, say)
    with tempfile.TemporaryDirectory(prefix="cascade-debian-", dir="/var/tmp") as folder:
        return _run_in(Path(folder), options, say)


def _run_in(root: Path, options: argparse.Namespace, say: Say) -> Outcome:
    log = root.with_name(f"{root.name}.log")
    figures: dict[str, Figure] = {"log": str(log)}
    steps: list[tuple[str, list[str]]] = []
    if not (root / "etc/debian_version").exists():
        mirror = [options.mirror] if options.mirror else []
        make = ["debootstrap", "--variant=minbase", f"--include={FIRST_PACKAGES}", options.suite, str(root), *mirror]
        steps.append(("debootstrap", make))
    steps.append(("clone", ["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(root / CHECKOUT)]))
    steps += [(command, inside(root, command)) for command in ("make setup", options.command)]
    shutil.rmtree(root / CHECKOUT, ignore_errors=True)
    log.unlink(missing_ok=True)
    for name, command in steps:
        if name == "make setup":
            _prepare(root)
        say(name)
        begun = time.monotonic()
        code, output = _logged(command, log, say)
        figures[f"{name}, seconds"] = round(time.monotonic() - begun, 1)
        if found := _COUNTS.findall(output):
            figures[name] = found[-1]
        if code != 0:
            return Outcome(figures, ("\n".join([f"{name}: exit code {code}", *output.splitlines()[-TAIL_LINES:]]),))
    return Outcome(figures)


def inside(root: Path, command: str) -> list[str]:
    """A command line that runs `command` (shell text) in the checkout of a system, in namespaces of its own."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", _ENTER, "sh", str(root), command]


def _prepare(root: Path) -> None:
    """Let the new system reach the package indexes, and start no service when a package is installed."""
    root.chmod(0o755)  # a temporary folder is 0700, and PostgreSQL's own user has to read `/`
    for name in FROM_HOST:
        if (Path("/") / name).exists():
            shutil.copyfile(Path("/") / name, root / name)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def _logged(command: list[str], log: Path, say: Say) -> tuple[int, str]:
    """Exit code and output of a command. The output is appended to `log` as well."""
    begin = log.stat().st_size if log.exists() else 0

    def output() -> str:
        return log.read_bytes()[begin:].decode(errors="replace")

    with log.open("ab") as written:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT)
    try:
        while True:
            try:
                return process.wait(PROGRESS_SECONDS), output()
            except subprocess.TimeoutExpired:
                say(" ".join(output().splitlines()[-1:])[-100:])
    finally:
        process.kill()
        process.wait()
