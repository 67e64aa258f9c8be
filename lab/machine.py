"""A machine on a developer's machine: a software TPM, a state directory, and `cascadia` on them."""

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

from lab.processes import WAIT_SECONDS, Process, Start, StepFailed, installed, wait_until
from lab.tpm import SoftTpm

ASK_SECONDS = 10.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket at `path`. Polled often, so nothing heavier."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Machine:
    """A machine in `directory`/`name`. `start` starts its processes, unless a call names another.

    Its agent looks for the cloud every `heartbeat_seconds`; None leaves every setting but the places at its default.
    """

    def __init__(
        self,
        directory: Path,
        chip: SoftTpm,
        name: str = "machine",
        heartbeat_seconds: int | None = 2,
        start: Start = installed,
    ) -> None:
        self.directory = directory / name
        self.state = self.directory / "state"
        self.socket = self.directory / "s.sock"
        self.directory.mkdir(parents=True)
        self.chip = chip
        self.agent: Process | None = None
        self._start = start
        config = self.directory / "cascadia.toml"
        lines = [f'state_dir = "{self.state}"', f'socket = "{self.socket}"', f'tpm = "{chip.tcti}"']
        lines.append('mode = "development"')
        if heartbeat_seconds is not None:
            lines += [f"heartbeat_seconds = {heartbeat_seconds}", "settle_seconds = 5"]
        config.write_text("\n".join([*lines, ""]))
        self.env = {**chip.env, "CASCADIA_CONFIG": str(config)}

    def start(self, *argv: str, start: Start | None = None) -> Process:
        """A `cascadia` command, not waited for."""
        return (start or self._start)(self.directory, "cascadia", *argv, env=self.env)

    def run(self, *argv: str, expect: int | None = 0) -> Any:
        """A `cascadia` command with `--json`; its document. Raises StepFailed on another exit code than `expect`."""
        return self.start(*argv, "--json").document(expect)

    def launch(self, start: Start | None = None) -> Process:
        """`cascadia run`, not waited for."""
        self.socket.unlink(missing_ok=True)
        self.agent = self.start("run", start=start)
        return self.agent

    def up(self, start: Start | None = None) -> Process:
        """`cascadia run`, until its socket answers."""
        agent = self.launch(start)
        wait_until("the agent's answer", lambda: not agent.running or self.answers())
        if not agent.running:
            raise StepFailed(f"the agent ended:\n{agent.tail()}")
        return agent

    def down(self) -> int:
        """Stop `cascadia run`; its exit status."""
        return self.agent.stop() if self.agent is not None else 0

    def kill(self) -> None:
        """End `cascadia run` at once."""
        if self.agent is not None:
            self.agent.kill()

    def answers(self) -> bool:
        """Whether the agent's socket answers."""
        return self.ask("/v1/status") is not None

    def ask(self, path: str) -> Any:
        """A document from the agent's socket; None when nobody answers."""
        connection = _UnixConnection("cascadia", timeout=ASK_SECONDS)
        connection.path = str(self.socket)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (http.client.HTTPException, OSError, ValueError):
            return None
        finally:
            connection.close()

    @property
    def licence(self) -> str:
        """The state of the licence, as the agent says it."""
        document = self.ask("/v1/license")
        return str(document["state"]) if document else "no agent"

    def granted(self, name: str = "vision") -> bool:
        """Whether the agent grants an entitlement."""
        document = self.ask(f"/v1/entitlements/{name}")
        return bool(document and document["granted"])

    def wait_state(self, *states: str, seconds: float = WAIT_SECONDS) -> float:
        """Seconds until the licence is in one of `states`."""
        began = time.monotonic()
        wait_until(f"state {states} (now {self.licence})", lambda: self.licence in states, seconds)
        return time.monotonic() - began
