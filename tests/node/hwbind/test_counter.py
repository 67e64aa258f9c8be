"""`node.hwbind.counter`: a counter of each node that is found again, counts up only, and is known by its name."""

import hashlib
from collections.abc import Iterator
from functools import partial

import pytest
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR
from tpm2_pytss.types import TPM2B_NV_PUBLIC

from lab.tpm import SoftTpm
from node.hwbind import counter
from node.hwbind.errors import TpmHierarchyPassword, TpmNvFull, TpmNvTaken
from node.hwbind.tpm import Password, Tpm
from protocol.evidence import NvCounter
from tests.simulators import chip_memory

HOLDER = "cascade.internal/node_0" + "7" * 25


@pytest.fixture(autouse=True)
def no_counter(tpm: Tpm) -> Iterator[None]:
    def remove(esys: ESAPI) -> None:
        for index in counter.places(HOLDER):
            chip_memory.remove(esys, index)

    tpm.call(remove)
    yield
    tpm.call(remove)


def established(tpm: Tpm) -> NvCounter:
    return tpm.call(lambda esys: counter.establish(esys, HOLDER))


def test_a_counter_is_made_found_again_and_advanced_once(tpm: Tpm) -> None:
    assert tpm.call(lambda esys: counter.find(esys, HOLDER)) is None
    made = established(tpm)
    assert made.index == counter.places(HOLDER)[0]
    assert made.name == counter.name_of(made.index, HOLDER)
    assert established(tpm) == made
    assert tpm.call(lambda esys: counter.find(esys, HOLDER)) == made
    to = made.value + 1
    assert tpm.call(lambda esys: counter.advance(esys, made, to)) == to
    assert tpm.call(lambda esys: counter.advance(esys, made, to)) == to, "a repeat changes nothing"
    assert tpm.call(lambda esys: counter.advance(esys, made, to + 5)) == to, "a value further ahead is not reached"
    assert tpm.call(lambda esys: counter.read(esys, made.index, HOLDER)) == NvCounter(made.index, made.name, to)


def test_an_interrupted_definition_is_continued(tpm: Tpm) -> None:
    """A kill between definition and first increment leaves an index without a value."""
    index = counter.places(HOLDER)[0]

    def define(esys: ESAPI) -> None:
        area = counter._area(index, HOLDER)
        esys.tr_close(esys.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=area), ESYS_TR.OWNER))

    tpm.call(define)
    assert tpm.call(lambda esys: counter.find(esys, HOLDER)) is None
    assert established(tpm).index == index


def test_a_removed_counter_comes_back_above(tpm: Tpm) -> None:
    made = established(tpm)
    tpm.call(lambda esys: counter.advance(esys, made, made.value + 1))
    tpm.call(lambda esys: chip_memory.remove(esys, made.index))
    assert tpm.call(lambda esys: counter.read(esys, made.index, HOLDER)) is None
    assert tpm.call(lambda esys: counter.advance(esys, made, made.value + 2)) == 0
    again = established(tpm)
    assert (again.index, again.name) == (made.index, made.name)
    assert again.value > made.value + 1


def test_an_ordinary_index_in_its_place_has_another_name(tpm: Tpm) -> None:
    made = established(tpm)
    tpm.call(lambda esys: chip_memory.remove(esys, made.index))
    content = (made.value).to_bytes(8, "big")
    tpm.call(lambda esys: chip_memory.write(esys, made.index, content))
    found = tpm.call(lambda esys: counter.read(esys, made.index, HOLDER))
    assert found is not None
    assert (found.name != made.name, found.value) == (True, 0)
    assert tpm.call(lambda esys: counter.advance(esys, made, made.value + 1)) == 0
    assert established(tpm).index == counter.places(HOLDER)[1], "the next place is used"


def test_foreign_indices_at_every_place_are_told_apart(tpm: Tpm) -> None:
    for index in counter.places(HOLDER):
        tpm.call(partial(chip_memory.write, index=index, content=b"x" * 8))
    with pytest.raises(TpmNvTaken, match="none is this counter"):
        established(tpm)


def test_a_full_memory_is_told_apart(tpm: Tpm) -> None:
    class Full:
        """A TPM without room for one NV index."""

        def __init__(self, esys: ESAPI) -> None:
            self._esys = esys

        def __getattr__(self, name: str) -> object:
            return getattr(self._esys, name)

        def nv_define_space(self, *_: object) -> None:
            raise TSS2_Exception(0x14B)

    with pytest.raises(TpmNvFull) as caught:
        tpm.call(lambda esys: counter.establish(Full(esys), HOLDER))
    assert "tpm2_nvundefine" in caught.value.advice


@pytest.mark.slow
def test_an_owners_password_set_later_does_not_matter(tpm: Tpm, chip: SoftTpm) -> None:
    made = established(tpm)
    other = HOLDER[::-1]
    given = Tpm(chip.tcti, passwords=lambda: {"owner": Password(b"later", "a file")})
    tpm.call(lambda esys: esys.hierarchy_change_auth(ESYS_TR.OWNER, b"later"))
    try:
        assert tpm.call(lambda esys: counter.advance(esys, made, made.value + 1)) == made.value + 1
        with pytest.raises(TpmHierarchyPassword):
            tpm.call(lambda esys: counter.establish(esys, other))
        second = given.call(lambda esys: counter.establish(esys, other))
        given.call(lambda esys: chip_memory.remove(esys, second.index))
    finally:
        given.call(lambda esys: esys.hierarchy_change_auth(ESYS_TR.OWNER, b""))
        given.close()


def test_the_handles_are_a_function_of_the_node() -> None:
    assert counter.places(HOLDER) == counter.places(HOLDER)
    assert counter.places(HOLDER) != counter.places(HOLDER[:-1] + "8")
    start = int.from_bytes(hashlib.sha256(b"cascadia floor counter of " + HOLDER.encode()).digest()[:4], "big")
    assert counter.places(HOLDER)[0] == 0x01A00000 + start % 0x00100000
