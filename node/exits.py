"""Values: the exit codes of `cascadia`. Each outcome has one stable number, a text and a next step.

A number is never changed, and never reused for another outcome.
"""

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """One outcome. `text` completes "cascadia: ..."; `next` tells the user what to do, in one sentence."""

    text: str
    next: str

    def __new__(cls, number: int, text: str, next_step: str) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.text = text
        member.next = next_step
        return member

    OK = 0, "done", ""
    USAGE = 2, "cannot understand the command or its settings", "See `cascadia --help`."
    DENIED = 3, "the entitlement is denied", "See `cascadia status` for the licence's state."
    VERIFICATION = (
        65,
        "cannot verify what the cloud sent",
        "Get a new activation file from the operator. Use the present file only after its source is known.",
    )
    UNREACHABLE = (
        69,
        "cannot reach the cloud or the agent",
        "Check the network, check that the service runs, and try again.",
    )
    INTERNAL = 70, "cannot continue because of a fault", "Read the agent's journal and report its last messages."
    TRY_AGAIN = 75, "cannot do this at the moment", "Try again in a moment."
    REFUSED = 77, "the cloud refused", "Ask the operator; the message names the reason."
    UNACTIVATED = (
        80,
        "this machine is not activated",
        ("Run `cascadia activate FILE` with an activation file. If it was activated before, run `cascadia recover`."),
    )
    REVOKED = (
        81,
        "this machine's licence is revoked",
        "Ask the operator for an activation code that readmits this machine, then run `cascadia activate FILE`.",
    )
    SUSPENDED = 82, "the licence is suspended", "Ask the operator to resume it; the agent then resumes by itself."
    TERMINATED = (
        83,
        "the licence has ended by its date",
        "Connect the machine to the cloud; the agent asks for a new lease by itself.",
    )
    HARDWARE_MISMATCH = (
        84,
        "this machine is not the activated machine",
        (
            "Run `cascadia recover` if this machine was repaired. Otherwise use this state directory on the machine it was "
            "made on, or activate this machine with a new activation code."
        ),
    )
    STALE = (
        85,
        "there is no statement that can be trusted",
        "Connect the machine to the cloud; the agent asks for its current statement by itself.",
    )
    CLOCK = (
        86,
        "this machine's clock is wrong",
        "Set the clock of this machine (see `timedatectl`), or connect the machine to the cloud, which tells it the time.",
    )
    TPM = (
        87,
        "cannot use the TPM",
        "Follow the next step of the TPM's condition in `cascadia status`, which names the cause.",
    )
    PENDING = (
        88,
        "the activation is not approved or confirmed yet",
        (
            "Run `cascadia activate FILE` again with the same file, or `cascadia recover` again. Start the agent once the "
            "activation is approved."
        ),
    )
    CLONE = (
        89,
        "the cloud suspects that a copy of this machine runs too",
        "Ask the operator, who decides which machine is kept. If this machine was copied, stop the copy.",
    )


RUN_EXITS = frozenset({Exit.OK, Exit.USAGE, Exit.INTERNAL, Exit.TRY_AGAIN, Exit.UNACTIVATED, Exit.REVOKED, Exit.TPM})
"""The exit codes of `cascadia run`. The systemd unit matches on them (`RestartPreventExitStatus=80 81`). 75 says that
another process owns the state directory."""


def run_exit(code: Exit) -> Exit:
    """The exit code of `cascadia run` for an outcome. An outcome outside `RUN_EXITS` becomes 70 (INTERNAL)."""
    return code if code in RUN_EXITS else Exit.INTERNAL
