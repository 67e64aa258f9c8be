"""Values: the errors that a user of the node sees. Each has an exit code, a stable code, a text and a next step.

    NodeError
    |-- VerificationFailed      a signed document does not verify                       65
    |-- Unreachable             the cloud did not answer, or its answer proves nothing  69
    |-- StateError              the state directory cannot be used
    |   |-- StateUnsafe         other users could change it, or it is no directory       2
    |   |-- StateBusy           another process owns it                                 75
    |   |-- StateDamaged        a file is torn, truncated, edited or of another format  70
    |   |-- StateUnreadable     the system refuses to read it                           70
    |   `-- StateUnwritable     the system refuses to write it                          70
    |       `-- DiskFull        no space, quota or size limit is left                   70
    `-- errors of one module, defined in the module (link.api, config, licence, local.client, trust.errors, ...)

The TPM's errors are in `node/hwbind/errors.py`. `text` begins with "cannot" and names the file, server or setting.
`next` says what to do. `code` is never renamed. No error contains a secret, a key or an activation code. Texts from
outside are escaped and bounded (`node.text.shown`).
"""

from pathlib import Path

from node.exits import Exit
from node.text import shown


class NodeError(Exception):
    """An outcome that is shown to the user. An outcome that the caller acts on is a returned value instead.

    A subclass sets `exit` and `code`. It sets `next` where the next step of the exit code does not fit.
    """

    exit: Exit = Exit.INTERNAL
    code: str = "internal"
    next: str = ""

    def __init__(self, text: str, *, next_step: str = "") -> None:
        self.text = shown(text)
        super().__init__(self.text)
        self.next = shown(next_step) or self.next or self.exit.next

    @classmethod
    def of(cls, text: str, *, exit: Exit, code: str, next: str = "") -> "NodeError":  # noqa: A002 (as the attributes)
        """An error of another tree, such as the TPM's, as a NodeError."""
        error = cls(text, next_step=next or exit.next)
        error.exit, error.code = exit, code
        return error


class VerificationFailed(NodeError):
    """A signed document or a certificate does not verify."""

    exit = Exit.VERIFICATION
    code = "verification_failed"


class Unreachable(NodeError):
    """The cloud or the agent did not answer, or its answer proves nothing."""

    exit = Exit.UNREACHABLE
    code = "unreachable"


class StateError(NodeError):
    """One path of the state directory cannot be used."""

    code = "state"

    def __init__(self, path: Path, text: str, *, next_step: str = "") -> None:
        super().__init__(text, next_step=next_step)
        self.path = path


class StateUnsafe(StateError):
    """Other users could change the path, or it is a symbolic link, or no directory."""

    exit = Exit.USAGE
    code = "state_unsafe"

    def __init__(self, path: Path, reason: str, *, next_step: str = "") -> None:
        super().__init__(path, f"cannot use {path}: it {reason}", next_step=next_step)
        self.reason = reason


class StateBusy(StateError):
    """Another process owns the state."""

    exit = Exit.TRY_AGAIN
    code = "state_busy"
    next = (
        "Another command or another agent uses the state. Wait until it has ended, or look for it with "
        "`fuser -v DIRECTORY/lock`."
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"cannot lock {path}: another process owns this state")


class StateDamaged(StateError):
    """A file of the state is torn, truncated, edited or of another format.

    The agent never replaces a damaged state with a new one. The administrator decides what to do.
    """

    code = "state_damaged"
    next = (
        "Nothing was changed. Check the disk. Then put the file back from a backup of this machine, "
        "or run `cascadia recover`, or activate the machine again; the same machine keeps its seat."
    )

    def __init__(self, path: Path, reason: str, *, next_step: str = "") -> None:
        super().__init__(path, f"cannot trust {path}: {reason}", next_step=next_step)
        self.reason = reason


class StateUnreadable(StateError):
    """The system refuses to read the path."""

    code = "state_unreadable"
    next = "Check the disk and who owns the file."

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, f"cannot read {path}: {reason}")


class StateUnwritable(StateError):
    """The system refuses to write the path. The old content is intact."""

    code = "state_unwritable"
    next = "The old content is intact. Check the disk, its mount options and who owns the directory."

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, f"cannot write {path}: {reason}")


class DiskFull(StateUnwritable):
    """No space, quota or file size is left. The old content is intact."""

    code = "disk_full"

    def __init__(self, path: Path) -> None:
        super().__init__(path, "no space is left")
        self.next = f"The old content is intact. Free space on the file system of {path.parent} and try again."
