"""`node.hwbind.counter_removal`: the counter of a node goes, and every other index stays."""

import trio
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR
from tpm2_pytss.types import TPM2B_NV_PUBLIC

from lab.tpm import SoftTpm
from node.hwbind import counter, nv
from node.hwbind.counter_removal import Left, remove, remove_counters
from node.hwbind.tpm import Password, Tpm
from tests.simulators import chip_memory

HOLDER = "cascade.internal/node_0" + "6" * 25
OTHER = "cascade.internal/node_0" + "5" * 25


def defined(esys: ESAPI) -> tuple[int, ...]:
    return nv.defined_indices(esys, counter.FIRST_INDEX, counter.FIRST_INDEX + counter.INDICES)


async def test_the_counters_of_the_named_nodes_are_removed(tpm: Tpm) -> None:
    before = await tpm.run(defined)
    other = await tpm.run(lambda esys: counter.establish(esys, OTHER))
    await tpm.run(lambda esys: counter.establish(esys, HOLDER))
    assert await remove_counters(tpm, (HOLDER, "a.domain/node_without")) == ()
    assert await tpm.run(lambda esys: counter.find(esys, HOLDER)) is None
    assert await tpm.run(lambda esys: counter.find(esys, OTHER)) == other
    assert await remove_counters(tpm, (HOLDER, OTHER)) == (), "a repeat finds nothing, and that is no error"
    after = await tpm.run(defined)
    assert after == before


def test_a_counter_without_a_value_is_removed_and_a_foreign_index_is_not(tpm: Tpm) -> None:
    first, second = counter.places(HOLDER)[:2]

    def prepare(esys: ESAPI) -> None:
        area = TPM2B_NV_PUBLIC(nvPublic=counter._area(second, HOLDER))
        esys.tr_close(esys.nv_define_space(b"", area, ESYS_TR.OWNER))
        chip_memory.write(esys, first, b"foreign")

    tpm.call(prepare)
    try:
        tpm.call(lambda esys: remove(esys, HOLDER))
        left = tpm.call(defined)
        assert first in left
        assert second not in left
    finally:
        tpm.call(lambda esys: chip_memory.remove(esys, first))


def test_a_counter_that_the_owner_protects_is_reported_with_its_place(tpm: Tpm, chip: SoftTpm) -> None:
    made = tpm.call(lambda esys: counter.establish(esys, HOLDER))
    given = Tpm(chip.tcti, passwords=lambda: {"owner": Password(b"later", "a file")})
    tpm.call(lambda esys: esys.hierarchy_change_auth(ESYS_TR.OWNER, b"later"))
    try:
        (left,) = trio.run(remove_counters, tpm, (HOLDER,))
        assert (left.holder, left.index) == (HOLDER, f"{made.index:#010x}")
        assert "owner" in left.reason
        assert trio.run(remove_counters, given, (HOLDER,)) == ()
    finally:
        given.call(lambda esys: esys.hierarchy_change_auth(ESYS_TR.OWNER, b""))
        given.close()


async def test_without_a_tpm_the_counter_is_reported_without_a_place() -> None:
    (left,) = await remove_counters(Tpm("device:/nonexistent"), (HOLDER,))
    assert left == Left(HOLDER, "", left.reason)
    assert "/nonexistent" in left.reason
