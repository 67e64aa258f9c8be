"""The true cause of a refusal: its class, and the hierarchy or the handle that the text names."""

import pytest
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_CC

from node.hwbind import errors
from node.hwbind.faults import Command, classify


def command(code: TPM2_CC, *handles: int) -> Command:
    """A command as it is sent: header, handles, and the size of its authorisation area."""
    body = b"".join(handle.to_bytes(4, "big") for handle in handles) + b"\0\0\0\x09" + bytes(9)
    return Command.of(b"\x80\x02" + (10 + len(body)).to_bytes(4, "big") + int(code).to_bytes(4, "big") + body)


OWNER, LOCKOUT, ENDORSEMENT, PLATFORM = 0x40000001, 0x4000000A, 0x4000000B, 0x4000000C
SRK, EK_INDEX, TRANSIENT = 0x81000001, 0x01C00002, 0x80000000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0xA000A, errors.TpmAbsent),
        (0xA0008, errors.TpmAbsent),
        (0xA0015, errors.TpmAbsent),
        (0x70007, errors.TpmAbsent),
        (0x902, errors.TpmBusy),
        (0xC0902, errors.TpmBusy),
        (0x922, errors.TpmBusy),
        (0x923, errors.TpmBusy),
        (0x921, errors.TpmLockout),
        (0x98E, errors.TpmHierarchyPassword),
        (0x9A2, errors.TpmHierarchyPassword),
        (0x185, errors.TpmHierarchyDisabled),
        (0x910, errors.TpmObjectMissing),
        (0x18B, errors.TpmObjectMissing),
        (0x14A, errors.TpmNvUnwritten),
        (0x148, errors.TpmNvUnreadable),
        (0x149, errors.TpmNvUnreadable),
        (0x12F, errors.TpmObjectPassword),
        (0x1DF, errors.TpmIntegrity),
        (0x120, errors.TpmFailed),
        (0x101, errors.TpmFailed),
        (0x1C4, errors.TpmFailed),
        (0x7000B, errors.TpmFailed),
    ],
)
def test_every_code_has_its_class_without_a_command(code: int, kind: type[errors.TpmError]) -> None:
    fault = classify(TSS2_Exception(code))
    assert type(fault) is kind
    assert f"{code:#x}" in str(fault)


@pytest.mark.parametrize(
    ("code", "refused", "kind", "named"),
    [
        (0x9A2, command(TPM2_CC.CreatePrimary, OWNER), errors.TpmHierarchyPassword, "the owner hierarchy"),
        (0x9A2, command(TPM2_CC.PolicySecret, ENDORSEMENT, TRANSIENT), errors.TpmHierarchyPassword, "endorsement"),
        (0x9A2, command(TPM2_CC.Clear, PLATFORM), errors.TpmHierarchyPassword, "the platform hierarchy"),
        (0x98E, command(TPM2_CC.Clear, LOCKOUT), errors.TpmHierarchyPassword, "the lockout hierarchy"),
        (0x185, command(TPM2_CC.CreatePrimary, ENDORSEMENT), errors.TpmHierarchyDisabled, "the endorsement hierarchy"),
        (0x98E, command(TPM2_CC.Load, SRK), errors.TpmObjectPassword, "0x81000001"),
        (0xAA2, command(TPM2_CC.ActivateCredential, TRANSIENT, SRK), errors.TpmObjectPassword, "0x81000001"),
        (0x18B, command(TPM2_CC.ReadPublic, SRK), errors.TpmObjectMissing, "0x81000001"),
        (0x911, command(TPM2_CC.Certify, TRANSIENT, SRK), errors.TpmObjectMissing, "0x81000001"),
        (0x14A, command(TPM2_CC.NV_Read, OWNER, EK_INDEX), errors.TpmNvUnwritten, "0x01c00002"),
        (0x149, command(TPM2_CC.NV_Read, OWNER, EK_INDEX), errors.TpmNvUnreadable, "0x01c00002"),
        (0x12F, command(TPM2_CC.NV_Read, EK_INDEX, EK_INDEX), errors.TpmNvUnreadable, "0x01c00002"),
        (0x9A2, command(TPM2_CC.NV_Read, EK_INDEX, EK_INDEX), errors.TpmNvUnreadable, "0x01c00002"),
        (0x9A2, command(TPM2_CC.NV_Read, OWNER, EK_INDEX), errors.TpmHierarchyPassword, "the owner hierarchy"),
        (0x12F, command(TPM2_CC.Load, SRK), errors.TpmObjectPassword, "0x81000001"),
    ],
)
def test_the_command_says_what_refused(code: int, refused: Command, kind: type[errors.TpmError], named: str) -> None:
    fault = classify(TSS2_Exception(code), refused)
    assert type(fault) is kind
    assert named in str(fault)


@pytest.mark.parametrize("marshalled", [b"", b"\x80\x01", b"\x80\x01\0\0\0\x0a\0\0\x01\x44", bytes(13)])
def test_a_command_without_handles_names_none(marshalled: bytes) -> None:
    short = Command.of(marshalled)
    assert (short.handles, short.handle(1), short.nv_index) == ((), None, None)
    assert isinstance(classify(TSS2_Exception(0x9A2), short), errors.TpmHierarchyPassword)
