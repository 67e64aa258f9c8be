"""Adapter: the floor counter, an NV index of the TPM that only counts up. The functions run inside `Tpm.call`.

Each node has a counter of its own, because two clouds can use one chip. The handle follows from the node's id, and the
index carries a digest of the node's id as its policy. So a reinstalled agent finds the counter of its node again.

Rules:

- The index has an empty password of its own and no dictionary-attack protection. So a password of the owner that is
  set later, or a lock-out, does not stop the counter. Only the definition needs the owner's authorisation.
- The policy is a digest that no policy session can reach, and no attribute allows a policy. It only marks the index.
- The *name* of the index identifies the counter. The owner can remove the index and define an ordinary one with any
  value at the same handle; that index has another name.
- The first value of a counter is above every value of every counter that this TPM has removed, also after `TPM2_Clear`
  (TPM 2.0 Library Part 3, 31.3). So a record of an earlier counter never fits a later one.
- Work of the TPM can be repeated. `advance` counts to a value, and never further.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_NT, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

from node.hwbind import faults, nv
from node.hwbind.errors import TpmError, TpmNvTaken
from protocol.encoding import sha256
from protocol.evidence import NvCounter

FIRST_INDEX = 0x01A00000
INDICES = 0x00100000
"""The handles of counters: a part of the range that the TCG leaves to owners of machines and to component makers. The
TCG's assignments are conventions, so a foreign index at a handle is no error: the next place is used."""
PLACES = 4
"""How many handles are tried. Two nodes of one chip share a handle with a probability of one in a million."""

_COUNTER_BYTES = 8
_TYPE = int(TPM2_NT.COUNTER) << int(TPMA_NV.TPM2_NT_SHIFT)
_ATTRIBUTES = int(TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.OWNERREAD | TPMA_NV.NO_DA) | _TYPE
_LABEL = b"cascadia floor counter of "


def places(holder: str) -> tuple[int, ...]:
    """The handles of the counter of `holder`, the first choice first. `holder` is trust domain and node id."""
    start = int.from_bytes(_tag(holder)[:4], "big")
    return tuple(FIRST_INDEX + (start + at) % INDICES for at in range(PLACES))


def name_of(index: int, holder: str) -> str:
    """The name in hex of the written counter of `holder` at `index` (TPM 2.0 Library Part 1, 16). Asks no TPM."""
    area = _area(index, holder, int(TPMA_NV.WRITTEN))
    return (b"\x00\x0b" + hashlib.sha256(bytes(area.marshal())).digest()).hex()


def read(esys: ESAPI, index: int, holder: str) -> NvCounter | None:
    """The counter of `holder` at `index`, or whatever is in its place; None if no index is there.

    An index with another name than `name_of` has the value 0, and its content is not read. Two commands. Raises the
    library's error.
    """
    with _opened(esys, index) as opened:
        if opened is None:
            return None
        handle, name = opened
        # A counter that was never advanced has another name, and no value.
        value = _value(esys, handle) if name == name_of(index, holder) else 0
        return NvCounter(index, name, value)


def find(esys: ESAPI, holder: str) -> NvCounter | None:
    """The counter of `holder` at any of its places; None if this TPM has none. Raises the library's error.

    One command, and two more for each index that is at a place.
    """
    wanted = places(holder)
    defined = nv.defined_indices(esys, min(wanted), max(wanted))
    for index in (one for one in wanted if one in defined):
        found = read(esys, index, holder)
        if found is not None and found.name == name_of(index, holder):
            return found
    return None


def is_counter_of(esys: ESAPI, index: int, holder: str) -> bool:
    """Whether the index is the counter of `holder`, with or without a value. One command. Raises the library's error."""
    with _opened(esys, index) as opened:
        return opened is not None and opened[1] in (name_of(index, holder), _unwritten_name(index, holder))


def establish(esys: ESAPI, holder: str) -> NvCounter:
    """Find the counter of `holder`, or define it at the first free place. It has a value afterwards.

    Raises TpmNvTaken if other programs use every place; the library's error, such as TPM_RC_NV_SPACE.
    """
    for index in places(holder):
        with _opened(esys, index) as opened:
            if opened is None:
                handle = esys.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=_area(index, holder)), ESYS_TR.OWNER)
                try:
                    return _begun(esys, handle, index)
                finally:
                    esys.tr_close(handle)
            handle, name = opened
            if name == name_of(index, holder):
                return NvCounter(index, name, _value(esys, handle))
            if name == _unwritten_name(index, holder):  # an interruption came between definition and first increment
                return _begun(esys, handle, index)
    raise TpmNvTaken(f"{places(holder)[0]:#010x} and the {PLACES - 1} after it are defined, and none is this counter")


def advance(esys: ESAPI, counter: NvCounter, to: int) -> int:
    """Increment the counter if its value is `to` - 1. Returns the value that it has then.

    A repeat changes nothing. Raises the library's error.
    """
    with _opened(esys, counter.index) as opened:
        if opened is None or opened[1] != counter.name:
            return 0
        handle = opened[0]
        value = _value(esys, handle)
        if value != to - 1:
            return value
        esys.nv_increment(handle, auth_handle=handle)
        return _value(esys, handle)


def answer(esys: ESAPI, holder: str, index: int | None) -> NvCounter | TpmError | None:
    """As `read`, or as `find` without `index`. A refusal of the TPM is returned as its error.

    Raises the library's error if the connection is lost, so that the port repeats the work.
    """
    try:
        return find(esys, holder) if index is None else read(esys, index, holder)
    except TSS2_Exception as error:
        if int(error.rc) in faults.LOST:
            raise
        return faults.classify(error)


def _tag(holder: str) -> bytes:
    return sha256(_LABEL + holder.encode())


def _area(index: int, holder: str, more: int = 0) -> TPMS_NV_PUBLIC:
    return TPMS_NV_PUBLIC(
        nvIndex=index,
        nameAlg=TPM2_ALG.SHA256,
        attributes=TPMA_NV(_ATTRIBUTES | more),
        authPolicy=_tag(holder),
        dataSize=_COUNTER_BYTES,
    )


def _unwritten_name(index: int, holder: str) -> str:
    return (b"\x00\x0b" + hashlib.sha256(bytes(_area(index, holder).marshal())).digest()).hex()


@contextmanager
def _opened(esys: ESAPI, index: int) -> Iterator[tuple[ESYS_TR, str] | None]:
    """ESAPI's handle of an NV index and its name in hex; None if no index is there. One command."""
    try:
        handle = esys.tr_from_tpmpublic(index)
    except TSS2_Exception as error:
        if not faults.no_such_handle(error):
            raise
        yield None
        return
    try:
        yield handle, bytes(esys.tr_get_name(handle)).hex()
    finally:
        esys.tr_close(handle)


def _begun(esys: ESAPI, handle: ESYS_TR, index: int) -> NvCounter:
    """The counter after its first increment, which gives it a value and its final name."""
    esys.nv_increment(handle, auth_handle=handle)
    return NvCounter(index, bytes(esys.tr_get_name(handle)).hex(), _value(esys, handle))


def _value(esys: ESAPI, handle: ESYS_TR) -> int:
    return int.from_bytes(bytes(esys.nv_read(handle, _COUNTER_BYTES, 0, auth_handle=handle)), "big")
