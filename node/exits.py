"""The exit codes of `cascadia`: one stable number for each outcome, with its text and the next step.

A number is never changed or given to another outcome. Clock (86) and clone (89) come with their states.
"""

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """Section 6 of the design; `text` completes "cascadia: ...", `next` is one sentence for whoever reads it."""

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
        "Get a new activation file from the operator; do not use this one until its source is known.",
    )
    UNREACHABLE = 69, "cannot reach the cloud or the agent", "Check the network and that the service runs; try again."
    INTERNAL = 70, "cannot go on because of a fault", "Read the journal of the agent; report what it says."
    TRY_AGAIN = 75, "cannot do this just now", "Try again in a moment."
    REFUSED = 77, "the cloud refused", "Ask the operator; the message names the reason."
    UNACTIVATED = 80, "this machine is not activated", "Run `cascadia activate FILE` with an activation file."
    REVOKED = (
        81,
        "this machine's licence is revoked",
        "Ask the operator for an activation code made to readmit it, then run `cascadia activate FILE`.",
    )
    SUSPENDED = 82, "the licence is suspended", "Ask the operator to resume it; the agent notices by itself."
    TERMINATED = (
        83,
        "the licence has ended by its date",
        "Connect the machine to the cloud; the agent asks for a new lease by itself.",
    )
    HARDWARE_MISMATCH = (
        84,
        "this TPM is not the one that was activated",
        "Start the state directory on its own machine, or activate this one with a code of its own.",
    )
    STALE = (
        85,
        "no statement at hand can be trusted",
        "Connect the machine to the cloud; the agent asks for its current statement by itself.",
    )
    TPM = (
        87,
        "cannot use the TPM",
        "Check that /dev/tpmrm0 exists, that the agent's user is in the group tss, and that nothing else holds it.",
    )
    PENDING = (
        88,
        "the activation is not confirmed yet",
        "Run `cascadia activate FILE` again with the same file, or start the agent with the cloud in reach.",
    )


RUN_EXITS = frozenset({Exit.OK, Exit.USAGE, Exit.INTERNAL, Exit.UNACTIVATED, Exit.REVOKED, Exit.TPM})
"""All that `cascadia run` may exit with: units match on these numbers (`RestartPreventExitStatus=80 81`)."""


def run_exit(code: Exit) -> Exit:
    """The number `cascadia run` exits with: any other outcome that ends it is a fault of its surroundings, 70."""
    return code if code in RUN_EXITS else Exit.INTERNAL
