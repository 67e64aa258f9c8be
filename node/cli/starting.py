"""Command line: wait for the agent after an activation. The package's path unit starts the agent, so no person has to."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from node.config import Config
from node.errors import NodeError
from node.local.client import expect, request
from node.local.documents import StatusDocument
from node.text import shown

UNIT = "cascadia-activated.path"
"""Watches the state directory for the first activation, and starts the agent."""
UNIT_DIRECTORIES = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
BOOTED = "run/systemd/system"
"""A directory that is there if systemd runs the machine (sd_booted(3))."""

AGENT_SECONDS_MAX = 45.0
"""The path unit and the imports take some seconds, and the start waits for the cloud for 20 s."""
_LOOK_SECONDS = 0.5
LOOK_FOR_IT = "the activation is complete, and the agent does not answer yet: see `systemctl status cascadia`"


def starts_by_itself(config: Config, root: Path = Path("/")) -> bool:
    """Whether the units of the package start the agent of these settings. `root` is the file system's."""
    of_package = Config()
    return (
        (config.state_dir, config.socket) == (of_package.state_dir, of_package.socket)
        and (root / BOOTED).is_dir()
        and any((root / directory / UNIT).exists() for directory in UNIT_DIRECTORIES)
    )


def to_person(as_json: bool) -> Callable[[str], None]:
    """Tells a step to the person who waits; nothing if a program reads the output."""

    def tell(text: str) -> None:
        if not as_json:
            print(f"  {shown(text)}", file=sys.stderr, flush=True)

    return tell


async def wait_for_agent(
    config: Config, generation: int, tell: Callable[[str], None], *, seconds_max: float = AGENT_SECONDS_MAX
) -> None:
    """Wait until the agent answers for this generation. Tells what happens. Raises nothing: the activation is complete."""
    tell("waiting for the agent to start ...")
    with trio.move_on_after(seconds_max):
        while True:
            licence = await _licence(config)
            if licence.get("generation", 0) >= generation:
                tell(f"the agent runs: {licence['state']}, gate {licence['gate']}")
                return
            await trio.sleep(_LOOK_SECONDS)
    tell(LOOK_FOR_IT)


async def _licence(config: Config) -> dict[str, Any]:
    """The licence that the agent shows; empty without an answer."""
    with suppress(NodeError):
        reply = await request(config.socket, "GET", "/v1/status", seconds_max=AGENT_SECONDS_MAX)
        return dict(expect(reply, {200}, StatusDocument)["license"])
    return {}
