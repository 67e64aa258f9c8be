"""`node.hwbind.nv`: what can be read is read, everything else has a note, and no read counts as an attack."""

import pytest
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import TPM2_CAP, TPM2_PT, TPMA_NV

from node.hwbind import errors, nv
from node.hwbind.tpm import Tpm
from tests.simulators import chip_memory
from tests.simulators.chip_memory import MAKERS

INDEX = 0x01C000F0
OWNERS = MAKERS & ~TPMA_NV.AUTHREAD
PASSWORD = b"of another program"


def lockout_counter(esys: ESAPI) -> int:
    _, found = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 1)
    data = found.data
    properties = data.tpmProperties
    return int(properties[0].value)


@pytest.mark.parametrize(
    ("attributes", "password", "readable", "note"),
    [
        (MAKERS, b"", True, ""),
        (MAKERS, PASSWORD, True, ""),
        (OWNERS, b"", True, ""),
        (MAKERS & ~TPMA_NV.OWNERREAD, b"", True, ""),
        (MAKERS & ~TPMA_NV.OWNERREAD, PASSWORD, False, "cannot"),
        (MAKERS & ~TPMA_NV.OWNERREAD & ~TPMA_NV.NO_DA, PASSWORD, False, "neither ownerread, nor authread"),
        (OWNERS & ~TPMA_NV.OWNERREAD, b"", False, "neither ownerread"),
    ],
)
def test_an_index_is_read_as_its_attributes_allow(
    tpm: Tpm, attributes: int, password: bytes, readable: bool, note: str
) -> None:
    before = tpm.call(lockout_counter)
    tpm.call(lambda esys: chip_memory.write(esys, INDEX, b"c" * 1300, attributes, password))
    try:
        found = tpm.call(lambda esys: nv.read_index(esys, INDEX))
        assert (found.content == b"c" * 1300, note in found.note) == (readable, True)
        assert INDEX in tpm.call(lambda esys: nv.defined_indices(esys, 0x01C00000, 0x01C000FF))
    finally:
        tpm.call(lambda esys: chip_memory.remove(esys, INDEX))
    assert tpm.call(lockout_counter) == before
    assert tpm.call(lambda esys: nv.read_index(esys, INDEX)).content is None
    assert INDEX not in tpm.call(lambda esys: nv.defined_indices(esys, 0x01C00000, 0x01C000FF))


def test_an_index_without_content_has_a_note(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    tpm.call(lambda esys: chip_memory.define(esys, INDEX, 40))
    try:
        assert tpm.call(lambda esys: nv.read_index(esys, INDEX)).note == "it is defined and was never written"
    finally:
        tpm.call(lambda esys: chip_memory.remove(esys, INDEX))
    tpm.call(lambda esys: chip_memory.write(esys, INDEX, b"c" * 40))
    monkeypatch.setattr(nv, "INDEX_BYTES_MAX", 39)
    try:
        assert tpm.call(lambda esys: nv.read_index(esys, INDEX)).note == "it has 40 bytes, more than 39"
    finally:
        tpm.call(lambda esys: chip_memory.remove(esys, INDEX))


def test_a_lost_connection_ends_the_read(tpm: Tpm) -> None:
    def lost(esys: ESAPI) -> nv.NvContent:
        class Lost:
            def tr_from_tpmpublic(self, index: int) -> None:
                raise TSS2_Exception(0xA000A)

        return nv.read_index(Lost(), INDEX)

    with pytest.raises(errors.TpmAbsent):
        tpm.call(lost)


def test_a_read_ends_although_the_tpm_returns_no_bytes(tpm: Tpm) -> None:
    class Short:
        """A TPM that returns half of an index, and then nothing."""

        def __init__(self, esys: ESAPI) -> None:
            self._esys = esys

        def __getattr__(self, name: str) -> object:
            return getattr(self._esys, name)

        def nv_read(self, handle: object, count: int, offset: int, auth_handle: object) -> bytes:
            return b"c" * (20 - offset)

    tpm.call(lambda esys: chip_memory.write(esys, INDEX, b"c" * 40))
    try:
        found = tpm.call(lambda esys: nv.read_index(Short(esys), INDEX))
    finally:
        tpm.call(lambda esys: chip_memory.remove(esys, INDEX))
    assert (found.content, found.note) == (None, "the TPM returns 20 of its 40 bytes")
