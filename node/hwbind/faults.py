"""Pure functions: the true cause of a TPM's refusal, from its response code and the command that it refused.

A response code says which handle, session or parameter of the command is at fault, by its number. Only the command says
which object has this number. So the port keeps the last command.
"""

from typing import Final

import msgspec
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import TPM2_CAP

from node.hwbind.errors import (
    Hierarchy,
    TpmAbsent,
    TpmBusy,
    TpmError,
    TpmFailed,
    TpmHierarchyDisabled,
    TpmHierarchyPassword,
    TpmIntegrity,
    TpmLockout,
    TpmNvFull,
    TpmNvTaken,
    TpmNvUnreadable,
    TpmNvUnwritten,
    TpmObjectMissing,
    TpmObjectPassword,
)

# TPM response codes and layers: TPM 2.0 Library Part 2, 6.6; TSS 2.0 Overview, 3.12.
TCTI_IO_ERROR: Final = 0xA000A
LOST: Final = frozenset({TCTI_IO_ERROR, 0xA0008, 0xA0007, 0x80007, 0x70007})
"""Codes of a connection that is lost for good."""

_TPM_LAYERS = frozenset({0x0, 0xB, 0xC})
_LOCKOUT = 0x921
FULL = frozenset({0x902, 0x903, 0x904, 0x905, 0x906})
"""No room for an object or a session (TPM 2.0 Library Part 2, 6.6.3). A flush that failed leaves its object loaded."""
_LOCKOUT_COUNTER = 0x20E
"""TPM_PT_LOCKOUT_COUNTER. MAX_AUTH_FAIL and LOCKOUT_INTERVAL follow it (TPM 2.0 Library Part 2, 6.13)."""
_BUSY = frozenset({0x902, 0x903, 0x904, 0x905, 0x906, 0x908, 0x909, 0x90A, 0x920, 0x922, 0x923})
_REFERENCES = range(0x910, 0x917)
"""TPM_RC_REFERENCE_H0 to H6: the handle of this number is not loaded."""
_NV_UNWRITTEN = 0x14A
_NV_SPACE = 0x14B
_NV_DEFINED = 0x14C
_NV_REFUSED = frozenset({0x148, 0x149})
_AUTH_UNAVAILABLE = 0x12F

_FORMAT_ONE = 0x080
_PARAMETER = 0x040
_ABOUT_PARAMETER = _FORMAT_ONE | _PARAMETER
_HIERARCHY = 0x05
_HANDLE = 0x0B
_AUTHORISATION = frozenset({0x0E, 0x1D, 0x22})
_INTEGRITY = 0x1F

_HIERARCHIES: dict[int, Hierarchy] = {
    0x40000001: "owner",
    0x40000007: "null",
    0x4000000A: "lockout",
    0x4000000B: "endorsement",
    0x4000000C: "platform",
}
_NV_INDEX = 0x01
"""The first byte of the handle of an NV index."""
_HEADER_BYTES = 10
_HANDLES_MAX = 3


class Command(msgspec.Struct, frozen=True):
    """A marshalled command: its code, and its first handles. A number may follow that is a parameter and no handle."""

    code: int
    handles: tuple[int, ...]

    @classmethod
    def of(cls, marshalled: bytes) -> "Command":
        """The command of its bytes (TPM 2.0 Library Part 1, 18)."""
        area = marshalled[_HEADER_BYTES : _HEADER_BYTES + 4 * _HANDLES_MAX]
        handles = tuple(int.from_bytes(area[at : at + 4], "big") for at in range(0, len(area) - 3, 4))
        return cls(int.from_bytes(marshalled[6:10], "big"), handles)

    def handle(self, number: int) -> int | None:
        """The handle with this number, counted from 1. Handles that need a session come first, in their order."""
        return self.handles[number - 1] if 0 < number <= len(self.handles) else None

    @property
    def nv_index(self) -> int | None:
        """The first NV index among the handles."""
        return next((handle for handle in self.handles if handle >> 24 == _NV_INDEX), None)


def classify(error: TSS2_Exception, command: Command | None = None) -> TpmError:
    """The `TpmError` for an error code of the TSS or the TPM.

    `command` is the refused command. Without it the error names no hierarchy and no handle.
    """
    code = int(error.rc)
    detail = f"{error} ({code_of(error)})"
    if code in LOST or code >> 16 == 0xA:
        return TpmAbsent(detail)
    if code >> 16 not in _TPM_LAYERS:
        return TpmFailed(detail)
    base = code & 0xFFFF
    return _format_one(base, detail, command) if base & _FORMAT_ONE else _format_zero(base, detail, command)


def code_of(error: TSS2_Exception) -> str:
    """The code of an error, in the form of the TCG's documents."""
    return f"{int(error.rc):#x}"


def wrong_parent(error: TSS2_Exception) -> bool:
    """Whether a storage key refuses a wrapped key: another key wrapped it, or it is damaged."""
    return bool(error.rc & _PARAMETER) and error.rc & 0x3F == _INTEGRITY and bool(error.rc & _FORMAT_ONE)


def about_parameter(error: TSS2_Exception) -> bool:
    """Whether the TPM refuses a parameter of the command."""
    return bool(error.rc & _ABOUT_PARAMETER == _ABOUT_PARAMETER)


def password_wanted(error: TSS2_Exception) -> bool:
    """Whether the TPM refuses the password of the command's first object."""
    return int(error.rc) & 0xFFFF in (0x98E, 0x9A2)


def no_such_handle(error: TSS2_Exception) -> bool:
    """Whether the TPM has no object at the first handle of the command."""
    return int(error.rc) & 0xFFFF == 0x18B


def _format_zero(base: int, detail: str, command: Command | None) -> TpmError:
    index = command.nv_index if command is not None else None
    if base == _LOCKOUT:
        return TpmLockout(detail)
    if base in _BUSY:
        return TpmBusy(detail)
    if base in _REFERENCES:
        return TpmObjectMissing(_about(command.handle(base - 0x910 + 1) if command else None, detail))
    if base == _NV_UNWRITTEN:
        return TpmNvUnwritten(_about(index, detail))
    if base == _NV_SPACE:
        return TpmNvFull(detail)
    if base == _NV_DEFINED:
        return TpmNvTaken(detail)
    if base in _NV_REFUSED or (base == _AUTH_UNAVAILABLE and index is not None):
        return TpmNvUnreadable(_about(index, detail))
    if base == _AUTH_UNAVAILABLE:
        return TpmObjectPassword(_about(command.handle(1) if command else None, detail))
    return TpmFailed(detail)


def _format_one(base: int, detail: str, command: Command | None) -> TpmError:
    number = base & 0x3F
    if base & _PARAMETER:
        return TpmIntegrity(detail) if number == _INTEGRITY else TpmFailed(detail)
    # Sessions are numbered from 1 behind bit 11. The session of a number authorises the handle of the number.
    handle = command.handle(base >> 8 & 0x7) if command is not None else None
    hierarchy = _HIERARCHIES.get(handle, "") if handle is not None else ""
    if number == _HIERARCHY:
        return TpmHierarchyDisabled(detail, hierarchy)
    if number == _HANDLE:
        return TpmObjectMissing(_about(handle, detail))
    if number == _INTEGRITY:
        return TpmIntegrity(detail)
    if number not in _AUTHORISATION:
        return TpmFailed(detail)
    if handle is None or hierarchy:
        return TpmHierarchyPassword(detail, hierarchy)
    if command is not None and command.nv_index is not None:
        return TpmNvUnreadable(_about(command.nv_index, detail))
    return TpmObjectPassword(_about(handle, detail))


def _about(handle: int | None, detail: str) -> str:
    return detail if handle is None else f"{handle:#010x}: {detail}"


def lockout_end(context: ESAPI) -> str:
    """When the lock-out ends, as a part of a sentence; empty if the TPM does not say."""
    try:
        _, capability = context.get_capability(TPM2_CAP.TPM_PROPERTIES, _LOCKOUT_COUNTER, 3)
    except TSS2_Exception:
        return ""
    listed = capability.data.tpmProperties
    values = [int(listed[at].value) for at in range(min(len(listed), 3))]
    if len(values) < 3 or not values[2]:
        return ""
    failures, failures_max, seconds = values
    ends = max(failures - failures_max + 1, 1) * seconds
    return f"; {failures} failures of {failures_max}, and the lock-out ends after {ends} s with the machine on"
