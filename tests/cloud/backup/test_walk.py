"""The walk of backup and restore: killed at each fault point, the next run makes a whole one.

The kill is an exception that no handler of the code expects. It unwinds `finally` blocks, which a SIGKILL does not. The
drill `backup_walk` kills processes, before and after each point, on both engines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud.backup.contents import Installation, read_installation
from cloud.process.settings import SettingsError
from protocol.faults import Stage
from tests.cloud.backup.support import (
    back_up,
    content_of,
    databases_of,
    names_in,
    order_of,
    points_of_a_restore,
    restored,
    unchanged,
)
from tests.fault_hooks import hooked
from tests.system.support.fault_points import points_in_code


class Killed(BaseException):
    """The process would be killed here."""


@contextmanager
def killed_at(point: str, stage: Stage) -> Iterator[None]:
    """Raise Killed at the first passage of a fault point, and check that it is passed."""

    def hook(name: str, at: str) -> None:
        if (name, at) == (point, stage):
            raise Killed

    with hooked(hook), pytest.raises(Killed):
        yield


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("point", points_in_code("backup"))
async def test_a_backup_that_is_killed_leaves_a_whole_file_or_none(
    installed: Installation, tmp_path: Path, point: str, stage: Stage
) -> None:
    out = tmp_path / "b"
    with killed_at(point, stage):
        await back_up(installed, out)
    is_made = (point, stage) == ("backup.file.publish", "after")
    assert names_in(tmp_path) == (["b"] if is_made else [])


async def test_a_restore_that_is_killed_is_repeated(
    installed: Installation, backup: Path, pin: str, tmp_path: Path
) -> None:
    """Killed at each point in turn, in one directory. No service starts until the last run has ended."""
    directory = tmp_path / "new"
    order = order_of(backup, directory, pin)
    points = await points_of_a_restore(order_of(backup, tmp_path / "clean", pin))
    assert set(points) == set(points_in_code("restore"))
    for point in points:
        with killed_at(point, "before"):
            await restored(order)
        if directory.exists() and point != points[0]:
            with pytest.raises(SettingsError):
                read_installation(directory)
    await restored(order)
    before = await content_of(databases_of(installed))
    assert unchanged(before) == unchanged(await content_of(databases_of(read_installation(directory))))
    assert names_in(directory) == ["breakwater", "fabric", "operator", "secrets"]
