"""Values: errors between the agent and its TPM. Each class has its own remedy.

    TpmError                 exit code 87 unless stated
      TctiRefused            (2)
      TpmAbsent
      TpmPermission          the system refuses the device
      TpmHierarchyPassword   a hierarchy has a password
      TpmHierarchyDisabled   a hierarchy is switched off
      TpmObjectPassword      an object of another owner has a password or a policy
      TpmObjectMissing       the TPM has no object at a handle
      TpmNvUnwritten         an NV index is defined and was never written
      TpmNvUnreadable        an NV index may not be read
      TpmNvFull              the TPM has no room for one more NV index
      TpmNvTaken             other programs use the NV indices of the floor counter
      TpmBusy
      TpmTimeout
      TpmLockout
      TpmIntegrity
      TpmNotOurs             (84)
        TpmCleared           (84) the chip of the activation
      TpmFailed

No error changes a licence state by itself. TpmNotOurs leads to the state `hardware-mismatch`
(`node.licensing.hardware`).
"""

from typing import ClassVar, Literal

Hierarchy = Literal["owner", "endorsement", "platform", "lockout", "null", ""]
"""A hierarchy of the TPM (TPM 2.0 Library Part 1, 13). The empty name is used when the TPM named none."""

_SWITCHES: dict[Hierarchy, str] = {"owner": "shEnable", "endorsement": "ehEnable"}
_SETTINGS: dict[Hierarchy, str] = {"owner": "tpm_owner_auth", "endorsement": "tpm_endorsement_auth"}


class TpmError(Exception):
    """A classified fault of the TPM. `code` is stable. `advice` is the next step. `detail` is the observed fault."""

    code: ClassVar[str] = "tpm-failed"
    exit_code: ClassVar[int] = 87
    summary: str = "cannot use the TPM"
    advice: str = "Read the TPM driver's messages in the system's journal."

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
    """The system refuses the device to this user."""

    code = "tpm-permission"
    summary = "cannot use the TPM: permission denied"
    advice = "Add the agent's user to the group that owns /dev/tpmrm0 (tss), and restart the agent."


class TpmHierarchyPassword(TpmError):
    """A hierarchy has a password, and the agent has no password or a wrong one. The refusal has no effect on lock-out.

    `hierarchy` is the hierarchy that refused.
    """

    code = "tpm-hierarchy-password"
    summary = "cannot use the TPM: a hierarchy has a password"
    advice = "Give the password of the owner hierarchy (`tpm_owner_auth`) or endorsement hierarchy to the agent."

    def __init__(self, detail: str, hierarchy: Hierarchy = "") -> None:
        self.hierarchy = hierarchy
        if hierarchy:
            self.summary = f"cannot use the TPM: the {hierarchy} hierarchy has a password"
        if setting := _SETTINGS.get(hierarchy):
            self.advice = (
                f"Write the password of the {hierarchy} hierarchy to a file that only the agent's user can read, and "
                f"name the file in the setting `{setting}`. Under systemd, use "
                f"`LoadCredential={setting.replace('_', '-')}:FILE` instead. Then restart the agent."
            )
        super().__init__(detail)


class TpmHierarchyDisabled(TpmError):
    """A hierarchy is switched off, until the TPM is reset or the firmware switches the hierarchy on."""

    code = "tpm-hierarchy-disabled"
    summary = "cannot use the TPM: a hierarchy is disabled"
    advice = "Enable the hierarchy in the firmware's settings, or switch the machine off and on."

    def __init__(self, detail: str, hierarchy: Hierarchy = "") -> None:
        self.hierarchy = hierarchy
        if hierarchy:
            self.summary = f"cannot use the TPM: the {hierarchy} hierarchy is disabled"
        if switch := _SWITCHES.get(hierarchy):
            self.advice = (
                f"Switch the machine off and on. If the {hierarchy} hierarchy stays disabled, enable it in the "
                f"firmware's settings. `tpm2_hierarchycontrol -C p {switch} set` enables it until the next reset."
            )
        super().__init__(detail)


class TpmObjectPassword(TpmError):
    """An object of another owner has a password or a policy. The agent does not try passwords on such an object."""

    code = "tpm-object-password"
    summary = "cannot use an object in the TPM: it has a password or a policy"
    advice = (
        "Provision a storage key without a password at 0x81000001. If it is there and is only missing the attribute "
        "noda, give the password of the owner hierarchy to the agent (`tpm_owner_auth`)."
    )


class TpmObjectMissing(TpmError):
    """The TPM has no object at a handle. Another program removed the object, or the resource manager lost it."""

    code = "tpm-object-missing"
    summary = "cannot use an object in the TPM: it is missing"
    advice = "Try again. If the error stays, provision the missing object again."


class TpmNvUnwritten(TpmError):
    """An NV index is defined, and no program has written the index."""

    code = "tpm-nv-unwritten"
    summary = "cannot read an NV index of the TPM: it is defined and was never written"
    advice = "Write the index with the maker's tool, or remove it with `tpm2_nvundefine`."


class TpmNvUnreadable(TpmError):
    """An NV index may not be read: it is locked, or has a password or a policy."""

    code = "tpm-nv-unreadable"
    summary = "cannot read an NV index of the TPM: the TPM refuses"
    advice = "Define the index with an attribute that allows reading (authread or ownerread), or remove it."


class TpmNvFull(TpmError):
    """The TPM has no room for one more NV index."""

    code = "tpm-nv-full"
    summary = "cannot make the floor counter: the NV memory of the TPM is full"
    advice = (
        "List the NV indices with `tpm2_getcap handles-nv-index`. Remove an index that no program uses with "
        "`tpm2_nvundefine`. The agent then makes the counter by itself."
    )


class TpmNvTaken(TpmError):
    """Other programs have defined every NV index where the floor counter may be."""

    code = "tpm-nv-taken"
    summary = "cannot make the floor counter: other programs use its NV indices"
    advice = "Remove one of these NV indices with `tpm2_nvundefine`. The agent then makes the counter by itself."


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
        "If the TPM or the mainboard was replaced, run `cascadia recover`: it gets the node back. If this is another "
        "machine, activate it with an activation code that has a free seat."
    )


class TpmCleared(TpmNotOurs):
    """The TPM is the one of the activation, and it cannot make the parent of the node's keys any more."""

    code = "tpm-cleared"
    summary = "cannot use the node's key: this TPM was cleared"
    advice = (
        "Run `cascadia recover` with a recovery code, or activate the machine again with an activation code. The same TPM "
        "stays the same node, in the same seat."
    )


class TpmFailed(TpmError):
    """Any other error of the TPM."""
