"""Store: statements and tombstones on disk, by generation. A later statement replaces the file; a tombstone stays.

`node.licensing.acceptance` decides which statements are stored. `node.licensing.verdict` judges them. `load` verifies
every token with the given keys. A file that does not verify is reported; it is never deleted and never treated as
missing. The tombstone of a revocation is written before the statement.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from node.disk.files import StateFile, encode_state, ensure_private_dir, exists, read_state, rename_file, write_atomic
from node.errors import StateError, VerificationFailed
from node.licensing.acceptance import Accept, StoredEvidence
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.signed.envelope import EnvelopeError, KeyRing
from protocol.signed.statements import Holder, Revocation, StatementError, Verified, verify_statement

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

_NEXT = "Nothing was changed. Connect the machine to the cloud; the agent asks for its current statement by itself."


class StatementFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`licence/g-N/statement.json`: the current statement.

    `kid` is the id of the signing key. `received_at` is the wall clock's time at which the statement came.
    """

    kid: str
    token: str
    received_at: AwareTime


class TombstoneFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tombstones/g-N.json`: the revocation that ended a generation. `at` is the wall clock's time when it came."""

    kid: str
    node: NodeId
    generation: int
    token: str
    at: AwareTime


class LicenceStore:
    """The licence files of a state directory. A caller that writes holds the directory's lock; `load` needs no lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def statement_path(self, generation: int) -> Path:
        """The file of a generation's statement, whether or not it exists."""
        return self._state_dir / "licence" / f"g-{generation}" / "statement.json"

    def tombstone_path(self, generation: int) -> Path:
        """The file of a generation's tombstone, whether or not it exists."""
        return self._state_dir / "tombstones" / f"g-{generation}.json"

    def load(self, holder: Holder, ring: KeyRing) -> StoredEvidence:
        """The stored evidence of a generation that verifies with `ring`. It reports damaged files; none is raised."""
        damaged: list[str] = []
        statement = tombstone = received_at = None
        try:
            if loaded := self._load_statement(holder, ring):
                statement, received_at = loaded
        except (StateError, VerificationFailed) as error:
            damaged.append(error.text)
        try:
            tombstone = self._load_tombstone(holder, ring)
            doubtful = False
        except (StateError, VerificationFailed) as error:
            damaged.append(error.text)
            doubtful = True
        return StoredEvidence(statement, tombstone, received_at, tuple(damaged), doubtful)

    def _load_statement(self, holder: Holder, ring: KeyRing) -> tuple[Verified, datetime] | None:
        path = self.statement_path(holder.generation)
        stored = read_state(path, StatementFile, _NEXT, signed=True)
        if stored is None:
            return None
        return _verified(path, stored.token, stored.kid, holder, ring), stored.received_at

    def _load_tombstone(self, holder: Holder, ring: KeyRing) -> Verified | None:
        path = self.tombstone_path(holder.generation)
        stored = read_state(path, TombstoneFile, _NEXT, signed=True)
        if stored is None:
            return None
        verified = _verified(path, stored.token, stored.kid, holder, ring)
        if not isinstance(verified.statement, Revocation):
            raise VerificationFailed(f"cannot trust {path}: it holds no revocation", next_step=_NEXT)
        if (stored.node, stored.generation) != (holder.node, holder.generation):
            raise VerificationFailed(f"cannot trust {path}: it names another node or generation", next_step=_NEXT)
        return verified

    def record(self, accepted: Accept, at: datetime) -> None:
        """Store an accepted statement. Repeating it is harmless. `at` is the wall clock's time now.

        Raises DiskFull, StateUnwritable, StateUnsafe. After an error the earlier files are intact. After an error at a
        revocation the tombstone may already be stored, and the tombstone alone ends the generation.
        """
        if isinstance(accepted.statement.statement, Revocation):
            self.write_tombstone(accepted.statement, at)
        self.write_statement(accepted.statement, at, settles=accepted.settles)

    def write_statement(self, verified: Verified, received_at: datetime, *, settles: bool = False) -> None:
        """Replace the stored statement of the statement's generation. With `settles` rename a doubtful tombstone.

        Raises as `record`.
        """
        generation = verified.statement.generation
        path = self.statement_path(generation)
        for directory in (self._state_dir, path.parent.parent, path.parent):
            ensure_private_dir(directory)
        data = encode_state(StatementFile(kid=verified.kid, token=verified.token, received_at=received_at))
        with fault_point("node.statement.write"):
            write_atomic(path, data)
            if settles and not isinstance(verified.statement, Revocation):
                self._set_tombstone_aside(generation)

    def write_tombstone(self, verified: Verified, at: datetime) -> None:
        """Store the tombstone of a revocation. Raises as `record`; ValueError if the statement is no revocation."""
        revocation = verified.statement
        if not isinstance(revocation, Revocation):
            raise ValueError("only a revocation makes a tombstone")
        path = self.tombstone_path(revocation.generation)
        for directory in (self._state_dir, path.parent):
            ensure_private_dir(directory)
        tombstone = TombstoneFile(
            kid=verified.kid, node=revocation.node, generation=revocation.generation, token=verified.token, at=at
        )
        with fault_point("node.tombstone.write"):
            write_atomic(path, encode_state(tombstone))

    def _set_tombstone_aside(self, generation: int) -> None:
        """Rename a tombstone that does not verify. The cloud has just signed a statement for the live generation."""
        path = self.tombstone_path(generation)
        if exists(path.parent):
            rename_file(path, f"{path.name}.unreadable")


def _verified(path: Path, token: str, kid: str, holder: Holder, ring: KeyRing) -> Verified:
    """Verify a stored token. Raises VerificationFailed.

    1. It verifies as a statement. 2. Its `kid` is the stored one. 3. It is for this node and generation.
    """
    try:
        verified = verify_statement(token, ring, holder.trust_domain)
    except (EnvelopeError, StatementError) as error:
        raise VerificationFailed(f"cannot trust {path}: {error}", next_step=_NEXT) from error
    if verified.kid != kid:
        raise VerificationFailed(f"cannot trust {path}: it names another signing key", next_step=_NEXT)
    if not holder.holds(verified.statement):
        raise VerificationFailed(f"cannot trust {path}: it is for another node or generation", next_step=_NEXT)
    return verified
