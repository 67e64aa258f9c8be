"""Adapter: reads NV indices of the TPM. The functions run inside `Tpm.call`.

Rules:

- An index that is defined and not written, locked, or protected is skipped, and a note says why. Only a lost connection
  or a busy TPM ends the read.
- An index under dictionary-attack protection is never read with its own password: a wrong try would count as an attack,
  and the agent would lock the TPM. Such an index is read with the owner's authorisation, if its attributes allow that.
"""

import msgspec
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_CAP, TPMA_NV

from node.hwbind import faults
from node.hwbind.errors import TpmAbsent, TpmBusy

INDEX_BYTES_MAX = 4096
"""Largest index that is read. TPMs define at most 2048 bytes in one index, and a resource manager up to 4096."""
INDICES_MAX = 254
"""Most NV indices of which the TPM is asked. A response has room for 254 handles; a TPM has a few dozen indices."""
_CHUNK_BYTES = 512
"""Every TPM of the PC Client Profile returns this many bytes of an index in one response."""


class NvContent(msgspec.Struct, frozen=True):
    """An NV index: its content, or None and a note that says why the content is missing."""

    index: int
    content: bytes | None
    note: str = ""


def defined_indices(esys: ESAPI, first: int, last: int) -> tuple[int, ...]:
    """The NV indices from `first` to `last` that are defined, in rising order, at most `INDICES_MAX`."""
    _, capability = esys.get_capability(TPM2_CAP.HANDLES, first, INDICES_MAX)
    data = capability.data
    handles = data.handles
    found = (int(handles[at]) for at in range(handles.count))
    return tuple(index for index in found if first <= index <= last)


def read_index(esys: ESAPI, index: int) -> NvContent:
    """Read one NV index. Raises the library's error only if the connection is lost or the TPM is busy."""
    try:
        handle = esys.tr_from_tpmpublic(index)
    except TSS2_Exception as error:
        return NvContent(index, None, _note(error))
    try:
        public, _ = esys.nv_read_public(handle)
        area = public.nvPublic
        attributes, size = int(area.attributes), int(area.dataSize)
        if not attributes & TPMA_NV.WRITTEN:
            return NvContent(index, None, "it is defined and was never written")
        if size > INDEX_BYTES_MAX:
            return NvContent(index, None, f"it has {size} bytes, more than {INDEX_BYTES_MAX}")
        return _read(esys, index, handle, attributes, size)
    except TSS2_Exception as error:
        return NvContent(index, None, _note(error))
    finally:
        esys.tr_close(handle)


def _read(esys: ESAPI, index: int, handle: ESYS_TR, attributes: int, size: int) -> NvContent:
    """Read with the authorisation of the index itself, else with the owner's."""
    authorities = []
    if attributes & TPMA_NV.AUTHREAD and attributes & TPMA_NV.NO_DA:
        authorities.append(handle)
    if attributes & TPMA_NV.OWNERREAD:
        authorities.append(ESYS_TR.OWNER)
    note = "its attributes do not let the agent read it (neither ownerread, nor authread with no_da)"
    for authority in authorities:
        try:
            content = b""
            while len(content) < size:
                count = min(_CHUNK_BYTES, size - len(content))
                piece = bytes(esys.nv_read(handle, count, len(content), auth_handle=authority))
                if not piece:  # otherwise the read would never end
                    return NvContent(index, None, f"the TPM returns {len(content)} of its {size} bytes")
                content += piece
            return NvContent(index, content)
        except TSS2_Exception as error:
            note = _note(error)
    return NvContent(index, None, note)


def _note(error: TSS2_Exception) -> str:
    """Why an index was not read. Raises the error again if it says nothing about the index."""
    fault = faults.classify(error)
    if isinstance(fault, TpmAbsent | TpmBusy):
        raise error
    return str(fault)
