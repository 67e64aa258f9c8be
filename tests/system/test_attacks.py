"""The attacks of docs/threat-model.md, one or two rows of most kinds. `make drills PART=attacks` takes every row."""

from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from lab.cloud import Cloud
from lab.processes import ended
from tests.shared_chips import shared_chip
from tests.system.support.attacks.site import Site
from tests.system.support.attacks.table import ATTACKS, Attack
from tests.system.support.attacks.take import QUICK_GROUPS, taken
from tests.system.support.harness import new_cloud

QUICK = tuple(attack for attack in ATTACKS if attack.quick)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, installation: Cloud) -> Iterator[Site]:
    """One cloud for the rows of all kinds."""
    directory = tmp_path_factory.mktemp("attacks")
    cloud = new_cloud(directory / "site").copy_from(installation)
    with ended(cloud):
        cloud.up()
        yield Site(directory, cloud, partial(shared_chip, tmp_path_factory), whole=False)


def _groups() -> Sequence[object]:
    """The rows of the kinds that share a machine, as the parameter of one test."""
    found = []
    for kinds, _ in QUICK_GROUPS:
        rows = tuple(attack for attack in QUICK if attack.kind in kinds)
        if rows:
            names = " ".join(dict.fromkeys(attack.kind for attack in rows))
            found.append(pytest.param(rows, id=names, marks=pytest.mark.long(6, "attacks")))
    return found


@pytest.mark.parametrize("rows", _groups())
def test_an_attack_ends_in_its_defence(site: Site, rows: tuple[Attack, ...]) -> None:
    wrong = [f"{attack}: {found}" for attack, found in taken(rows, site) if found]
    assert wrong == []
