"""Values: the findings of a check of a service's configuration, and the functions that make findings."""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

from cloud.crypto.keyfile import KeyFileError
from cloud.process.gates import GATES
from cloud.process.serve import Listener, bind
from cloud.process.settings import ServiceSettings
from cloud.storage import StorageError

State = Literal["passed", "failed", "skipped"]
Addresses: TypeAlias = dict[int, set[str]]
"""Hosts by port."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared, not bound)


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    service: str
    check: str
    state: State
    cause: str = ""
    next: str = ""


class Findings:
    """Collects the findings of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self.found: list[Finding] = []

    def note(self, check: str, cause: str, next_step: str) -> bool:
        """Note a check. An empty `cause` means that it passed. Returns whether it passed."""
        if cause:
            self.found.append(Finding(self._service, check, "failed", cause, next_step))
        else:
            self.found.append(Finding(self._service, check, "passed"))
        return not cause

    def skip(self, check: str, cause: str) -> None:
        """Note a check that was not made, with the reason."""
        self.found.append(Finding(self._service, check, "skipped", cause))

    async def attempt(
        self, check: str, work: Callable[[], Awaitable[str]], faults: tuple[type[Exception], ...], next_step: str
    ) -> bool:
        """Run a check and note its result. A text that it returns, or one of `faults`, is a cause. Return whether it passed."""
        # Any other type is a bug.
        expected: tuple[type[Exception], ...] = (*faults, OSError, KeyFileError, StorageError)
        try:
            cause = await work()
        except expected as error:
            cause = str(error)
        return self.note(check, cause, next_step)


def check_gates(settings: ServiceSettings, findings: Findings) -> None:
    """Check every gate of production. Outside production they are skipped."""
    for rule, gate in GATES.items():
        if settings.mode != "production":
            findings.skip(f"gate {rule}", "the mode is not production")
            continue
        try:
            cause = gate(settings)
        except (KeyFileError, OSError) as error:
            cause = str(error)
        findings.note(f"gate {rule}", cause, "Correct the settings file, or the file that the text names.")


def check_listeners(settings: ServiceSettings, findings: Findings, taken: Addresses) -> None:
    """Bind the address of each listener for a moment, and compare it with the listeners that were checked before.

    `taken` are their ports, each with their hosts. The ports of `settings` are added.
    """
    for where in settings.listeners:
        check = f"listener {where.purpose} {where.host}:{where.port}"
        hosts = taken.setdefault(where.port, set())
        if where.port and (where.host in hosts or (hosts and not WILDCARDS.isdisjoint({where.host, *hosts}))):
            cause, next_step = "another listener of this installation has this port", "Give each listener another port."
        else:
            cause, next_step = "", "Stop the program at this address. If it is this service itself, give --running."
            try:
                bind(Listener(None, where.host, where.port, None)).close()
            except OSError as error:
                cause = error.strerror or str(error)
        hosts.add(where.host)
        findings.note(check, cause, next_step)
