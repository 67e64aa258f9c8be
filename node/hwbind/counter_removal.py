"""Adapter: removes the floor counters of a node from the TPM, the one thing that the agent makes persistent there.

Keys are in files, wrapped, so the TPM keeps none. The persistent storage key (0x81000001) and the endorsement keys
belong to the machine: the agent uses them and never makes them.
"""

from functools import partial

import msgspec
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR

from node.hwbind import counter, faults
from node.hwbind.errors import TpmError
from node.hwbind.tpm import Tpm
from protocol.faults import fault_point


class Left(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A counter that the TPM did not remove. `index` is its place in hex, empty if it is not known."""

    holder: str
    index: str
    reason: str


async def remove_counters(tpm: Tpm, holders: tuple[str, ...]) -> tuple[Left, ...]:
    """Remove the counters of these holders. Returns those that are left, each with the reason. Raises nothing."""
    left: list[Left] = []
    for holder in holders:
        try:
            with fault_point("node.counter.remove"):
                await tpm.run(partial(remove, holder=holder))
        except TpmError as error:
            left.append(Left(holder, await _place(tpm, holder), f"{error}"))
    return tuple(left)


def remove(esys: ESAPI, holder: str) -> None:
    """Remove the counter of `holder` at each of its places. Other indices stay. Raises the library's error.

    The index has no attribute for a removal by its own authority, so the TPM wants the owner's.
    """
    for index in counter.places(holder):
        if not counter.is_counter_of(esys, index, holder):
            continue
        handle = esys.tr_from_tpmpublic(index)
        try:
            esys.nv_undefine_space(handle, auth_handle=ESYS_TR.OWNER)
        except TSS2_Exception:
            esys.tr_close(handle)
            raise


async def _place(tpm: Tpm, holder: str) -> str:
    """The index of the counter in hex; "" if the TPM does not say it, or has none."""

    def find(esys: ESAPI) -> str:
        for index in counter.places(holder):
            try:
                if counter.is_counter_of(esys, index, holder):
                    return f"{index:#010x}"
            except TSS2_Exception as error:
                if int(error.rc) in faults.LOST:
                    raise
        return ""

    try:
        return await tpm.run(find)
    except TpmError:
        return ""
