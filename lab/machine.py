"""Real part: a machine with a software TPM, a state directory, and `cascadia`."""

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
    """HTTP over the unix socket at `path`. Tests poll it often, so it has to be light."""

    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Machine:
    """A machine in `directory`/`name`. `start` starts its processes; a call may give another `start`.

    The agent contacts the cloud every `heartbeat_seconds`. With None every setting except paths keeps its default.
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
        """Start a `cascadia` command, and return at once."""
        return (start or self._start)(self.directory, "cascadia", *argv, env=self.env)

    def run(self, *argv: str, expect: int | None = 0) -> Any:
        """Run a `cascadia` command with `--json`; return its document. StepFailed if the exit is not `expect`."""
        return self.start(*argv, "--json").document(expect)

    def launch(self, start: Start | None = None) -> Process:
        """Start `cascadia run`, and return at once."""
        self.socket.unlink(missing_ok=True)
        self.agent = self.start("run", start=start)
        return self.agent

    def up(self, start: Start | None = None) -> Process:
        """Start `cascadia run`, and return when its socket answers. Raises StepFailed if the agent ends."""
        agent = self.launch(start)
        wait_until("the agent's answer", lambda: not agent.running or self.answers())
        if not agent.running:
            raise StepFailed(f"the agent ended:\n{agent.report()}")
        return agent

    def down(self) -> int:
        """Stop `cascadia run`; return its exit status."""
        return self.agent.stop() if self.agent is not None else 0

    def kill(self) -> None:
        """Kill `cascadia run`."""
        if self.agent is not None:
            self.agent.kill()

    def answers(self) -> bool:
        """Whether the agent's socket answers."""
        return self.ask("/v1/status") is not None

    def ask(self, path: str) -> Any:
        """A document from the agent's socket. None if no agent answers."""
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
        """The state of the licence that the agent reports."""
        document = self.ask("/v1/license")
        return str(document["state"]) if document else "no agent"

    def granted(self, name: str = "vision") -> bool:
        """Whether the agent grants an entitlement."""
        document = self.ask(f"/v1/entitlements/{name}")
        return bool(document and document["granted"])

    def wait_state(self, *states: str, seconds: float = WAIT_SECONDS) -> float:
        """Wait until the licence is in one of `states`; return the seconds that it took."""
        began = time.monotonic()
        wait_until(f"state {states} (now {self.licence})", lambda: self.licence in states, seconds)
        return time.monotonic() - began
