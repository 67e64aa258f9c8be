"""Errors between the agent and its TPM, classified by what a person can do about them.

    TpmError                 exit code 87 unless stated
      TctiRefused            (2)
      TpmAbsent
      TpmPermission
      TpmBusy
      TpmTimeout
      TpmLockout
      TpmIntegrity
      TpmNotOurs             (84)
      TpmFailed

None of them moves a licence state by itself; TpmNotOurs is what `hardware-mismatch` is made from.
"""

from typing import ClassVar


class TpmError(Exception):
    """A classified fault. `code` is stable, `advice` says what to do next, `detail` what was seen."""

    code: ClassVar[str] = "tpm-failed"
    exit_code: ClassVar[int] = 87
    summary: ClassVar[str] = "cannot use the TPM"
    advice: ClassVar[str] = "see the system's journal for messages of the TPM driver"

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.summary}: {detail}")
        self.detail = detail


class TctiRefused(TpmError):
    """The configuration names a connection that its mode does not allow."""

    code = "tpm-connection-refused"
    exit_code = 2
    summary = "cannot use this TPM connection"
    advice = 'production uses device:/dev/tpmrm0 only; another connection needs mode = "development"'


class TpmAbsent(TpmError):
    """No device, no resource manager, or an unknown kind of connection."""

    code = "tpm-absent"
    summary = "cannot find a TPM"
    advice = "switch the TPM 2.0 on in the firmware's settings, or start its resource manager, then try again"


class TpmPermission(TpmError):
    """The device or an authorisation is refused to this user."""

    code = "tpm-permission"
    summary = "cannot use the TPM: permission denied"
    advice = (
        "the agent's user must be in the group that owns /dev/tpmrm0 (tss); where the owner hierarchy has a password, "
        "provision a storage key at 0x81000001"
    )


class TpmBusy(TpmError):
    """Out of slots, testing itself, or held by somebody else."""

    code = "tpm-busy"
    summary = "cannot use the TPM now: it is busy"
    advice = "use the resource manager /dev/tpmrm0, end programs that hold the TPM, and try again"


class TpmTimeout(TpmError):
    """No answer within the bound; the command may still be under way in the chip."""

    code = "tpm-timeout"
    summary = "cannot use the TPM: no answer in time"
    advice = "try again; if it stays so, switch the machine off and on, for a restart does not reset every TPM"


class TpmLockout(TpmError):
    """Dictionary-attack lock-out. Our keys are exempt (NoDA), so something else was asked for."""

    code = "tpm-lockout"
    summary = "cannot use the TPM: it is locked out after wrong authorisations"
    advice = "find the program that gives wrong passwords; the lock-out ends by itself, or by tpm2_dictionarylockout"


class TpmIntegrity(TpmError):
    """A stored or received structure is damaged, or meant for another key."""

    code = "tpm-integrity"
    summary = "cannot use this key or challenge: it is damaged, or made for another key"
    advice = "if the state directory was edited or restored, activate the node again"


class TpmNotOurs(TpmError):
    """The TPM answers, but the stored keys are of another chip, or of this one before it was cleared."""

    code = "tpm-not-ours"
    exit_code = 84
    summary = "cannot use the node's key: it does not belong to this TPM"
    advice = "this is another machine, or its TPM was cleared: activate the node again with an open code"


class TpmFailed(TpmError):
    """Any other error of the TPM."""
