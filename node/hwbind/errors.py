"""Values: errors between the agent and its TPM. Each class has its own remedy.

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

No error changes a licence state by itself. TpmNotOurs leads to the state `hardware-mismatch`
(`node.licensing.hardware`).
"""

from typing import ClassVar


class TpmError(Exception):
    """A classified fault of the TPM. `code` is stable. `advice` is the next step. `detail` is the observed fault."""

    code: ClassVar[str] = "tpm-failed"
    exit_code: ClassVar[int] = 87
    summary: ClassVar[str] = "cannot use the TPM"
    advice: ClassVar[str] = "Read the TPM driver's messages in the system's journal."

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.summary}: {detail}")
        self.detail = detail


class TctiRefused(TpmError):
    """The settings name a TPM connection that their mode does not allow."""

    code = "tpm-connection-refused"
    exit_code = 2
    summary = "cannot use this TPM connection"
    advice = 'Use device:/dev/tpmrm0. Another connection needs `mode = "development"` in the settings.'


class TpmAbsent(TpmError):
    """No device, no resource manager, or an unknown kind of connection."""

    code = "tpm-absent"
    summary = "cannot find a TPM"
    advice = "Enable the TPM 2.0 in the firmware's settings, or start its resource manager; then try again."


class TpmPermission(TpmError):
    """The system refuses the device to this user, or the TPM refuses an authorisation."""

    code = "tpm-permission"
    summary = "cannot use the TPM: permission denied"
    advice = (
        "Add the agent's user to the group that owns /dev/tpmrm0 (tss). If the owner hierarchy has a password, "
        "provision a storage key at 0x81000001."
    )


class TpmBusy(TpmError):
    """The TPM has no free slot, runs its self-test, or is held by another program."""

    code = "tpm-busy"
    summary = "cannot use the TPM now: it is busy"
    advice = "Use the resource manager /dev/tpmrm0, end the programs that hold the TPM, and try again."


class TpmTimeout(TpmError):
    """The TPM did not answer within the bound. The chip may still be working on the command."""

    code = "tpm-timeout"
    summary = "cannot use the TPM: no answer in time"
    advice = "Try again. If the error stays, switch the machine off and on; a restart alone does not reset every TPM."


class TpmLockout(TpmError):
    """Dictionary-attack lock-out. The agent's keys are exempt (NoDA), so another object was used."""

    code = "tpm-lockout"
    summary = "cannot use the TPM: it is locked out after wrong authorisations"
    advice = (
        "Find the program that sends wrong passwords. The lock-out ends by itself, or with `tpm2_dictionarylockout`."
    )


class TpmIntegrity(TpmError):
    """A stored or received structure is damaged, or was made for another key."""

    code = "tpm-integrity"
    summary = "cannot use this key or challenge: it is damaged, or was made for another key"
    advice = "If the state directory was edited or restored, activate the machine again."


class TpmNotOurs(TpmError):
    """The TPM answers, but the stored keys belong to another chip, or to this chip before it was cleared."""

    code = "tpm-not-ours"
    exit_code = 84
    summary = "cannot use the node's key: it does not belong to this TPM"
    advice = (
        "This is another machine, or its TPM was cleared. Activate the machine again with an activation code that "
        "has a free seat."
    )


class TpmFailed(TpmError):
    """Any other error of the TPM."""
