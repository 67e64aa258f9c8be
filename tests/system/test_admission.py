"""A hostile node, code, secret, token and stranger at full speed for a moment: no honest caller is refused.

`make drills PART=admission` runs the same table for a minute each, on both engines, and counts rows.
"""

from collections.abc import Iterator

import pytest

from lab.processes import ended
from tests.system.support.greedy import GREEDY, Scene, attacked
from tests.system.support.harness import new_cloud

SECONDS = 0.4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("admission")
    cloud = new_cloud(directory).init()
    with ended(cloud):
        cloud.up()
        yield Scene(cloud, directory)


@pytest.mark.long(8, "admission")
@pytest.mark.parametrize("name", GREEDY)
def test_honest_callers_are_not_refused(scene: Scene, name: str) -> None:
    seen, noticed = attacked(scene, name, SECONDS, pause=0.1)
    assert noticed.refused == {}
    assert len(noticed.answers) == 11
    assert seen.total() > 0
    if name == "polls":
        # A second late: the polls that newer ones replaced.
        assert set(seen) <= {429}
    if name == "stranger":
        # Wrong secrets are refused at once, and late after too many.
        assert seen[401] > 0
