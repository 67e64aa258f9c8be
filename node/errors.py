"""Errors of the node, as the user sees them: exit code, stable code, text and next step.

    NodeError
    |-- VerificationFailed      a signed document that does not verify                  65
    |-- Unreachable             no answer, or none that proves anything                69
    |-- StateError              the state directory
    |   |-- StateUnsafe         others could change it, or it is not what it seems      2
    |   |-- StateBusy           another process owns it                                75
    |   |-- StateDamaged        a file is torn, truncated, edited or of another format 70
    |   |-- StateUnreadable     the system refuses to read it                          70
    |   `-- StateUnwritable     the system refuses to write it                         70
    |       `-- DiskFull        no space, quota or size limit                          70
    `-- those of one module, beside what raises them (link.api, config, licence, local.client, trust.errors, ...)

The TPM's errors are in `node/hwbind`. Rule: `text` reads "cannot ..." and names the thing; `next` says what to do;
`code` is never renamed. No secret, key or activation code is in any of them.
"""

from pathlib import Path

from node.exits import Exit


class NodeError(Exception):
    """An outcome that the user must hear of. What the caller decides on is a value instead.

    A subclass sets `exit`, `code` and, where its exit code's next step does not fit, `next`.
    """

    exit: Exit = Exit.INTERNAL
    code: str = "internal"
    next: str = ""

    def __init__(self, text: str, *, next_step: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.next = next_step or self.next or self.exit.next

    @classmethod
    def of(cls, text: str, *, exit: Exit, code: str, next: str = "") -> "NodeError":  # noqa: A002 (as the attributes)
        """An error of another tree (the TPM's) in this form."""
        error = cls(text, next_step=next or exit.next)
        error.exit, error.code = exit, code
        return error


class VerificationFailed(NodeError):
    exit = Exit.VERIFICATION
    code = "verification_failed"


class Unreachable(NodeError):
    """No answer, or one that proves nothing."""

    exit = Exit.UNREACHABLE
    code = "unreachable"


class StateError(NodeError):
    """About one path of the state directory."""

    code = "state"

    def __init__(self, path: Path, text: str, *, next_step: str = "") -> None:
        super().__init__(text, next_step=next_step)
        self.path = path


class StateUnsafe(StateError):
    exit = Exit.USAGE
    code = "state_unsafe"

    def __init__(self, path: Path, reason: str, *, next_step: str = "") -> None:
        super().__init__(path, f"cannot use {path}: it {reason}", next_step=next_step)


class StateBusy(StateError):
    exit = Exit.TRY_AGAIN
    code = "state_busy"
    next = "Ask the running agent instead (`cascadia status`), or stop it first."

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"cannot lock {path}: another process owns this state")


class StateDamaged(StateError):
    """Never followed by a fresh start: whoever reads the message decides."""

    code = "state_damaged"
    next = (
        "Nothing was changed. Check the disk; then put the file back from a backup of this machine, "
        "or activate the machine again: same machine, same seat."
    )

    def __init__(self, path: Path, reason: str, *, next_step: str = "") -> None:
        super().__init__(path, f"cannot trust {path}: {reason}", next_step=next_step)
        self.reason = reason


class StateUnreadable(StateError):
    code = "state_unreadable"
    next = "Check the disk and who owns the file."

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, f"cannot read {path}: {reason}")


class StateUnwritable(StateError):
    code = "state_unwritable"
    next = "What was there before is intact. Check the disk, its mount options and who owns the directory."

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, f"cannot write {path}: {reason}")


class DiskFull(StateUnwritable):
    code = "disk_full"

    def __init__(self, path: Path) -> None:
        super().__init__(path, "no space is left")
        self.next = f"What was there before is intact. Free space on the file system of {path.parent} and try again."
