"""Real part: changes the NV memory of a software TPM, as its maker or its owner would."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_NT, TPM2_RC, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

from node.hwbind import counter
from node.hwbind.nv import read_index
from node.hwbind.tpm import Tpm
from tests.off_loop import off_loop

MAKERS = (
    TPMA_NV.PPWRITE | TPMA_NV.PPREAD | TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA | TPMA_NV.PLATFORMCREATE
)
"""The attributes that makers give to the index of a certificate."""
COUNTERS = MAKERS | TPM2_NT.COUNTER << TPMA_NV.TPM2_NT_SHIFT
"""The attributes of a counter. A chip keeps room for some counters when other indices have taken the rest."""

_CHUNK_BYTES = 512
_CODE = 0xFFF
"""The bits of a response code that are not those of the layer which reports it (TPM 2.0 Library Part 2, 6.6)."""


def define(esys: ESAPI, index: int, size: int, attributes: int = MAKERS, password: bytes = b"") -> ESYS_TR:
    public = TPMS_NV_PUBLIC(nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=TPMA_NV(attributes), dataSize=size)
    return esys.nv_define_space(password, TPM2B_NV_PUBLIC(nvPublic=public), auth_handle=ESYS_TR.PLATFORM)


def write(esys: ESAPI, index: int, content: bytes, attributes: int = MAKERS, password: bytes = b"") -> None:
    """Define an index with this content."""
    handle = define(esys, index, len(content), attributes, password)
    for at in range(0, len(content), _CHUNK_BYTES):
        esys.nv_write(handle, content[at : at + _CHUNK_BYTES], at, auth_handle=ESYS_TR.PLATFORM)
    esys.tr_close(handle)


def remove(esys: ESAPI, index: int) -> None:
    """Remove an index, if it is there."""
    try:
        handle = esys.tr_from_tpmpublic(index)
    except TSS2_Exception:
        return
    esys.nv_undefine_space(handle, auth_handle=ESYS_TR.PLATFORM)


def has_room(esys: ESAPI, index: int, size: int, attributes: int = MAKERS) -> bool:
    """Define an index of `size` bytes, if the chip has room for it. Returns whether it had."""
    try:
        esys.tr_close(define(esys, index, size, attributes))
    except TSS2_Exception as error:
        if error.rc & _CODE == TPM2_RC.NV_SPACE:
            return False
        raise
    return True


def forget_counters(esys: ESAPI, label: str) -> None:
    """Remove the floor counter of this label (`node.hwbind.counter`). A later one starts above it."""
    for index in counter.places(label):
        remove(esys, index)


@contextmanager
def memory(tpm: Tpm, contents: Mapping[int, bytes | None]) -> Iterator[None]:
    """The chip with these NV contents; None removes an index. Afterwards the indices are as they were."""

    def read() -> dict[int, bytes | None]:
        return {index: tpm.call(partial(read_index, index=index)).content for index in contents}

    def put(wanted: Mapping[int, bytes | None]) -> None:
        for index, content in wanted.items():
            tpm.call(partial(remove, index=index))
            if content is not None:
                tpm.call(partial(write, index=index, content=content))

    before = off_loop(read)
    off_loop(lambda: put(contents))
    try:
        yield
    finally:
        off_loop(lambda: put(before))
