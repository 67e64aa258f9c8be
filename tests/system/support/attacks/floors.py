"""Steps: the floor record and the TPM's counter are deleted, edited, replaced."""

import shutil
from collections.abc import Callable

from node.hwbind import counter
from node.hwbind.tpm import Esys
from protocol.evidence import NvCounter
from tests.simulators import chip_memory
from tests.system.support.attacks.life import FIRST, LEASE_1, RECORD, Life, Step


def _without(*names: str) -> Callable[[Life], None]:
    def do(life: Life) -> None:
        life.put_file_back("active", *LEASE_1)
        for name in names:
            (life.state / name).unlink()

    return do


def _edited(life: Life) -> None:
    life.put_file_back("active", *LEASE_1)
    life.change_records(lambda data: data.replace(b".", b"-", 1))


def _of_another_node(life: Life) -> None:
    life.put_file_back("active", *LEASE_1)
    for name in RECORD:
        shutil.copy2(life.copies["neighbour"] / name, life.state / name)


def _counter_deleted(life: Life) -> None:
    life.call(lambda esys: chip_memory.forget_counters(esys, life.label))


def _put_back_and_deleted(life: Life) -> None:
    life.put_back("active")
    _counter_deleted(life)


def _first_and_deleted(life: Life) -> None:
    """The first lease, as if there had never been a record or a counter. The lease names the counter."""
    life.put_back(FIRST)
    for name in RECORD:
        (life.state / name).unlink()
    _counter_deleted(life)


def _put_back_and_created(life: Life) -> None:
    _put_back_and_deleted(life)
    life.call(lambda esys: counter.establish(esys, life.label))


def _put_back_and_ordinary_index(life: Life) -> None:
    """The owner defines an ordinary index with the value of the counter before the directory was put back."""
    life.put_back("active")
    index = counter.places(life.label)[0]
    found: list[NvCounter | None] = []
    life.call(lambda esys: found.append(counter.find(esys, life.label)))
    value = found[0].value if found[0] is not None else 1

    def replace(esys: Esys) -> None:
        chip_memory.forget_counters(esys, life.label)
        chip_memory.write(esys, index, value.to_bytes(8, "big"))

    life.call(replace)


FLOOR: dict[str, Step] = {
    "the lease put back, both records deleted": Step("suspended", _without(*RECORD)),
    "the lease put back, one record deleted": Step("suspended", _without(RECORD[0])),
    "the lease put back, both records edited": Step("suspended", _edited),
    "the lease put back, the records of another node": Step("suspended", _of_another_node, uses=("neighbour",)),
}
COUNTER: dict[str, Step] = {
    "the directory put back, the counter deleted": Step("suspended", _put_back_and_deleted),
    "the directory put back, the counter created again": Step("suspended", _put_back_and_created),
    "the directory put back, an ordinary index": Step("suspended", _put_back_and_ordinary_index),
    "the first lease alone, the counter deleted": Step("suspended", _first_and_deleted),
    "the counter deleted": Step("resumed", _counter_deleted, mended="active"),
}
"""These rows change the TPM. So they are the last ones of their stage."""
