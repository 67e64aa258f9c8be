"""Breakwater's host, on which the operator runs `cascade pki`."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloud.breakwater.admin import Admin, opened
from cloud.cli.main import main
from cloud.clock import utc_now
from cloud.storage import Row, Statement

T = TypeVar("T")
_AUDIT = Statement("SELECT caller, action, object, detail FROM audit WHERE action = {action} ORDER BY id LIMIT 100")


class Host:
    """Breakwater's host, on which the operator runs `cascade pki`."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.scratch = directory.parent
        self._capsys = capsys

    def pki(self, *command: str, expect: int = 0) -> Any:
        """Run one command with `--json` and return its document."""
        self._capsys.readouterr()
        assert main(["pki", *command, "--dir", str(self.directory), "--json"]) == expect, self._capsys.readouterr()
        return json.loads(self._capsys.readouterr().out)

    def refused(self, code: int, name: str, *command: str) -> str:
        """Run one command that must fail, and return its next step."""
        error = self.pki(*command, expect=code)["error"]
        assert (error["code"], error["exit_code"]) == (name, code), error
        return str(error["next"])

    def printed(self, *command: str) -> str:
        """Run one command without `--json` and return its output."""
        self._capsys.readouterr()
        assert main(["pki", *command, "--dir", str(self.directory)]) == 0
        return self._capsys.readouterr().out

    def ceremony(self, text: str) -> None:
        self._capsys.readouterr()
        file = self.scratch / "ceremony.toml"
        file.write_text(text)
        assert main(["pki", "ceremony", str(file)]) == 0, self._capsys.readouterr()

    def open(self, work: Callable[[Admin], Awaitable[T]]) -> T:
        """Run a function on the opened issuer."""

        async def run() -> T:
            async with opened(self.directory / "breakwater" / "settings.toml", utc_now) as admin:
                return await work(admin)

        return asyncio.run(run())

    def audit(self, action: str) -> list[Row]:
        async def read(admin: Admin) -> list[Row]:
            return await admin.parts.stores.engine.fetch(_AUDIT, action=action)

        return self.open(read)

    def states(self) -> dict[str, str]:
        return {row["id"]: row["state"] for row in self.pki("status")["authorities"]}
