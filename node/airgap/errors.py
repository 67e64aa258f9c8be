"""Values: why a request cannot be made or an answer is refused, as the user of the node sees it. Nothing was changed.

NodeError
|-- AirgapRefused         a refusal of `protocol.airgap`, with its code and its next step
|-- RequestOutstanding    another request is outstanding                               2
|-- AgentInTheWay         an activation needs the state that the agent owns           75
`-- NoChip                a machine without a TPM cannot activate without a network    2
"""

from node.errors import NodeError
from node.exits import Exit
from protocol.airgap.errors import AirgapError

_AGAIN = "Make another request with `cascadia request --new`, and have it answered."
_CHECK = "Nothing was changed. Correct the named lines, or carry the file again."
_STEPS: dict[str, tuple[Exit, str]] = {
    "airgap_damaged": (Exit.VERIFICATION, _CHECK),
    "airgap_too_large": (Exit.VERIFICATION, "Nothing was changed. Check that this is the file of the cloud."),
    "airgap_wrong_document": (
        Exit.USAGE,
        "Use the file that `cascade airgap answer` wrote for this machine's request.",
    ),
    "airgap_unknown_format": (Exit.VERIFICATION, "Update the agent of this machine, then import the file again."),
    "airgap_answer_unverified": (
        Exit.VERIFICATION,
        f"Nothing was changed. Check that the answer is from the cloud of this machine. {_AGAIN}",
    ),
    "airgap_answer_expired": (Exit.VERIFICATION, f"Nothing was changed. {_AGAIN}"),
    "airgap_answer_used": (Exit.VERIFICATION, "There is nothing to do. `cascadia status` shows the licence."),
    "airgap_answer_outdated": (
        Exit.VERIFICATION,
        "Nothing was changed. Import the answer to the present request; `cascadia request` shows that request again.",
    ),
    "airgap_answer_for_other": (
        Exit.VERIFICATION,
        "Nothing was changed. Import the file on the machine that made the request.",
    ),
    "airgap_nothing_requested": (Exit.USAGE, "Make a request first: `cascadia request`."),
    "airgap_seal_unopened": (
        Exit.HARDWARE_MISMATCH,
        "Nothing was changed. Only the chip that made the request opens the answer. Use the machine of the request.",
    ),
}


class AirgapRefused(NodeError):
    """A file is refused."""

    code = "airgap_refused"
    exit = Exit.VERIFICATION

    @classmethod
    def of_error(cls, error: AirgapError, task: str) -> "AirgapRefused":
        """The refusal for the user. `task` completes "cannot ..."."""
        exit_code, step = _STEPS.get(error.code, (Exit.VERIFICATION, "Nothing was changed."))
        refused = cls(f"cannot {task}: {error.text}", next_step=step)
        refused.code, refused.exit = error.code, exit_code
        return refused


class RequestOutstanding(NodeError):
    """A request of another kind, or for another activation file, is outstanding."""

    exit = Exit.USAGE
    code = "airgap_request_outstanding"
    next = (
        "Have that request answered and import the answer. Or run the same command with `--new`, which abandons that "
        "request; an answer to it is refused afterwards."
    )


class AgentInTheWay(NodeError):
    """An activation is stored by the command itself, and the running agent owns the state."""

    exit = Exit.TRY_AGAIN
    code = "airgap_agent_running"
    next = "Run `cascadia license import FILE` as root; the command borrows the state."


class NoChip(NodeError):
    """A machine without a TPM cannot activate without a network."""

    exit = Exit.USAGE
    code = "airgap_needs_tpm"
    next = (
        "Connect the machine to the cloud once and run `cascadia activate FILE --software`. Later requests and answers "
        "work without a network."
    )
