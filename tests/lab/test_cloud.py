"""`lab.cloud`: make, copy, start and stop a cloud, with the installed command line and with a forked one."""

from pathlib import Path

import pytest

from lab.cloud import PORTS, Cloud
from lab.processes import StepFailed, accepts, ended
from tests.system.support.harness import new_cloud

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cloud:
    return new_cloud(tmp_path_factory.mktemp("made")).init()


def test_an_installation_is_made_and_reported(made: Cloud) -> None:
    assert made.made["trust_pin"].startswith("1:")
    assert made.env["XDG_CACHE_HOME"].endswith("cache")
    assert made.rows("fabric", "SELECT count(*) FROM tenant") == [(0,)]


def test_a_copy_is_a_separate_installation_at_the_same_addresses(made: Cloud, tmp_path: Path) -> None:
    copy = Cloud(tmp_path).copy_from(made)
    assert copy.port == made.port
    assert str(made.directory) not in str(copy.env)
    with ended(copy):
        process = copy.up()
        assert process.running, process.report()
        assert all(accepts(port) for port in range(copy.port, copy.port + PORTS))
        tenant = copy.run("tenant", "create", "acme")["id"]
        assert copy.rows("fabric", "SELECT id FROM tenant") == [(tenant,)]
        assert copy.code(tenant).exists()
        with pytest.raises(StepFailed, match="cascade exited"):
            copy.run("tenant", "create", "acme", "too much")
        copy.down()
        assert process.wait() == 0
    assert made.rows("fabric", "SELECT count(*) FROM tenant") == [(0,)]


def test_starting_a_broken_cloud_returns_when_it_ends(made: Cloud, tmp_path: Path) -> None:
    copy = new_cloud(tmp_path).copy_from(made)
    (copy.directory / "fabric" / "settings.toml").write_text("nonsense")
    with ended(copy):
        assert not copy.up().running
