"""Store: statements and tombstones on disk, by generation. A later statement replaces the file; a tombstone stays.

A statement has several records, which do not share a directory:

    licence/g-N/statement.json        the current statement
    identity/statement-g-N.json       a copy of it
    tombstones/g-N.json               a revocation; written first

Each record is written on its own, so a directory that cannot be used loses no statement. At reading, a revocation in
any record counts; otherwise the latest statement counts. `node.licensing.acceptance` decides which statements are
stored. `node.licensing.verdict` judges them. `load` verifies every token with the given keys. A file that does not
verify is reported; it is never deleted and never treated as missing.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from node.disk.files import (
    StateFile,
    encode_state,
    ensure_private_dir,
    list_directory,
    read_state,
    remove_file,
    rename_file,
    write_atomic,
)
from node.errors import StateError, StateUnreadable, StateUnwritable, VerificationFailed
from node.licensing.acceptance import Accept, StoredEvidence, voids_lower_generations
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.signed.envelope import EnvelopeError, KeyRing, peek_typ
from protocol.signed.statements import (
    TYP_REVOCATION,
    Holder,
    Lease,
    Revocation,
    StatementError,
    Verified,
    position,
    verify_statement,
)

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]

_NEXT = "Nothing was changed. Connect the machine to the cloud; the agent asks for its current statement by itself."
_RECORD = re.compile(r"(?:g-|statement-g-)([1-9][0-9]{0,8})(?:\.json)?", re.ASCII)
"""The name of a record or of its directory, with the number of the generation."""


class StatementFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`licence/g-N/statement.json` and its copy: the current statement.

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
    """The licence files of a state directory. A caller that writes holds the directory's lock; reading needs no lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def statement_path(self, generation: int) -> Path:
        """The file of a generation's statement, whether or not it exists."""
        return self._state_dir / "licence" / f"g-{generation}" / "statement.json"

    def copy_path(self, generation: int) -> Path:
        """The copy of a generation's statement, whether or not it exists. It is beside the identity."""
        return self._state_dir / "identity" / f"statement-g-{generation}.json"

    def tombstone_path(self, generation: int) -> Path:
        """The file of a generation's tombstone, whether or not it exists."""
        return self._state_dir / "tombstones" / f"g-{generation}.json"

    # Reading

    def load(self, holder: Holder, ring: KeyRing) -> StoredEvidence:
        """The stored evidence of a generation that verifies with `ring`. It reports damaged files; none is raised."""
        damaged: list[str] = []
        found: list[tuple[Verified, datetime]] = []
        for path in (self.statement_path(holder.generation), self.copy_path(holder.generation)):
            try:
                if loaded := _load_statement(path, holder, ring):
                    found.append(loaded)
            except (StateError, VerificationFailed) as error:
                damaged.append(error.text)
        current = max(found, key=_precedence, default=None)
        tombstone, doubtful = None, False
        try:
            tombstone = self._load_tombstone(holder, ring)
        except (StateError, VerificationFailed) as error:
            damaged.append(error.text)
            # A place that cannot be read says nothing about a revocation, and both other records deny one. A file that
            # can be read was written for a revocation, even if the file is damaged.
            doubtful = not (isinstance(error, StateUnreadable) and len(found) == 2)
        if current is None:
            return StoredEvidence(None, tombstone, None, tuple(damaged), doubtful, partial=tombstone is not None)
        ended = isinstance(current[0].statement, Revocation)
        partial = len(found) < 2 or found[0][0].token != found[1][0].token or ended != (tombstone is not None)
        return StoredEvidence(current[0], tombstone, current[1], tuple(damaged), doubtful, partial)

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

    def load_later(self, holder: Holder, ring: KeyRing) -> Verified | None:
        """The statement of the node's highest confirmed generation, if it is above `holder`'s; otherwise None.

        Only a statement that verifies counts. A directory, a certificate or `current.json` proves no confirmation.
        """
        for generation in sorted(self.generations(), reverse=True):
            if generation <= holder.generation:
                break
            stored = self.load(holder.of_generation(generation), ring)
            for verified in (stored.tombstone, stored.statement):
                if verified is not None and voids_lower_generations(verified.statement):
                    return verified
        return None

    def leases_until(self, holder: Holder, ring: KeyRing, generations: Collection[int]) -> datetime | None:
        """The largest `terminate_at` of the node's stored leases of these generations; None without a lease.

        Every record counts, also an older one or one beside a tombstone: root can delete the other records.
        """
        ends = []
        for generation in generations:
            of_generation = holder.of_generation(generation)
            for path in (self.statement_path(generation), self.copy_path(generation)):
                try:
                    loaded = _load_statement(path, of_generation, ring)
                except (StateError, VerificationFailed):
                    continue
                if loaded is not None and isinstance(loaded[0].statement, Lease):
                    ends.append(loaded[0].statement.terminate_at)
        return max(ends, default=None)

    def latest_token(self) -> str:
        """The token of a statement of the highest generation that has one, unverified; "" without one.

        It names the node to a cloud that verifies the token, when the files of the identity are lost.
        """
        for generation in sorted(self.generations(), reverse=True):
            for path in (self.statement_path(generation), self.copy_path(generation)):
                with suppress(StateError):
                    stored = read_state(path, StatementFile, signed=True)
                    if stored is not None:
                        return stored.token
        return ""

    def generations(self) -> set[int]:
        """The generations with a record. A directory that cannot be read has none; each record has a place of its own."""
        return {int(match[1]) for name in self._names() if (match := _RECORD.fullmatch(name))}

    def _names(self) -> Iterator[str]:
        for folder in ("licence", "identity", "tombstones"):
            try:
                yield from list_directory(self._state_dir / folder)
            except StateError:
                continue

    # Writing

    def records(self, verified: Verified) -> tuple[Path, ...]:
        """The paths of a statement's records, in the order in which they are written."""
        generation = verified.statement.generation
        paths = (self.statement_path(generation), self.copy_path(generation))
        return (self.tombstone_path(generation), *paths) if isinstance(verified.statement, Revocation) else paths

    def to_write(self, accepted: Accept) -> tuple[Path, ...]:
        """The paths that `record` writes or renames: the records, and the doubtful tombstone that the statement settles."""
        aside = (self.tombstone_path(accepted.statement.statement.generation),) if accepted.settles else ()
        return tuple(dict.fromkeys((*self.records(accepted.statement), *aside)))

    def record(self, accepted: Accept, at: datetime, only: Collection[Path] | None = None) -> dict[Path, StateError]:
        """Store an accepted statement in its records. Repeating it is harmless.

        `at` is the wall clock's time now. `only` limits the records. Every record is tried; an error at one stops no
        other, and leaves its earlier file intact. Returns the error of each record that was not written.
        """
        verified = accepted.statement
        records = self.records(verified)
        failed: dict[Path, StateError] = {}
        for path in self.to_write(accepted) if only is None else only:
            try:
                self._write(path, verified, at)
            except StateError as error:
                failed[path] = error
        if not set(records) <= set(failed):
            try:
                self._forget_lower(verified)
            except StateError as error:
                failed[error.path] = error
        return failed

    def _write(self, path: Path, verified: Verified, at: datetime) -> None:
        generation = verified.statement.generation
        if path == self.copy_path(generation):
            self.write_copy(verified, at)
        elif path == self.statement_path(generation):
            self.write_statement(verified, at)
        elif path == self.tombstone_path(generation) and isinstance(verified.statement, Revocation):
            self.write_tombstone(verified, at)
        elif path == self.tombstone_path(generation):
            self._set_tombstone_aside(generation)

    def write_statement(self, verified: Verified, received_at: datetime) -> None:
        """Replace the stored statement of the statement's generation. Raises DiskFull, StateUnwritable, StateUnsafe."""
        path = self.statement_path(verified.statement.generation)
        self._ensure_folders(path.parent.parent, path.parent)
        data = encode_state(StatementFile(kid=verified.kid, token=verified.token, received_at=received_at))
        with fault_point("node.statement.write"):
            write_atomic(path, data)

    def write_copy(self, verified: Verified, received_at: datetime) -> None:
        """Replace the copy of the statement. Raises as `write_statement`."""
        path = self.copy_path(verified.statement.generation)
        self._ensure_folders(path.parent)
        data = encode_state(StatementFile(kid=verified.kid, token=verified.token, received_at=received_at))
        with fault_point("node.statement.copy"):
            write_atomic(path, data)

    def write_tombstone(self, verified: Verified, at: datetime) -> None:
        """Store the tombstone of a revocation. Raises as `write_statement`; ValueError if it is no revocation."""
        revocation = verified.statement
        if not isinstance(revocation, Revocation):
            raise ValueError("only a revocation makes a tombstone")
        path = self.tombstone_path(revocation.generation)
        self._ensure_folders(path.parent)
        tombstone = TombstoneFile(
            kid=verified.kid, node=revocation.node, generation=revocation.generation, token=verified.token, at=at
        )
        with fault_point("node.tombstone.write"):
            write_atomic(path, encode_state(tombstone))

    def _ensure_folders(self, *folders: Path) -> None:
        """Make the folders of a record. A fault of the state directory itself stops no record in a folder that exists."""
        with suppress(StateUnwritable):
            ensure_private_dir(self._state_dir)
        for folder in folders:
            ensure_private_dir(folder)

    def _set_tombstone_aside(self, generation: int) -> None:
        """Rename a tombstone that does not verify. The cloud has just signed a statement for the live generation."""
        path = self.tombstone_path(generation)
        if path.name in list_directory(path.parent):
            rename_file(path, f"{path.name}.unreadable")

    def _forget_lower(self, verified: Verified) -> None:
        """Remove the leases and suspensions of generations that this statement voids. Revocations stay.

        Without its lease, a lower generation cannot be run again by an edit of `current.json`. Raises StateUnwritable.
        """
        if not voids_lower_generations(verified.statement):
            return
        for generation in sorted(self.generations()):
            if generation >= verified.statement.generation:
                break
            for path in (self.statement_path(generation), self.copy_path(generation)):
                if _is_void(path, verified):
                    with fault_point("node.statement.prune"):
                        remove_file(path)


def _is_void(path: Path, verified: Verified) -> bool:
    """Whether the file is an undamaged record of another statement than a revocation."""
    try:
        stored = read_state(path, StatementFile, signed=True)
        return stored is not None and peek_typ(stored.token) != TYP_REVOCATION
    except (StateError, EnvelopeError):
        return False


def _precedence(loaded: tuple[Verified, datetime]) -> tuple[bool, tuple[int, int]]:
    statement = loaded[0].statement
    return isinstance(statement, Revocation), position(statement)


def _load_statement(path: Path, holder: Holder, ring: KeyRing) -> tuple[Verified, datetime] | None:
    stored = read_state(path, StatementFile, _NEXT, signed=True)
    if stored is None:
        return None
    return _verified(path, stored.token, stored.kid, holder, ring), stored.received_at


def _verified(path: Path, token: str, kid: str, holder: Holder, ring: KeyRing) -> Verified:
    """Verify a stored token. Raises VerificationFailed.

    1. It verifies as a statement. 2. Its `kid` is the stored one. 3. It is for this node and generation, and a lease
    for its key and chip.
    """
    try:
        verified = verify_statement(token, ring, holder.trust_domain)
    except (EnvelopeError, StatementError) as error:
        raise VerificationFailed(f"cannot trust {path}: {error}", next_step=_NEXT) from error
    if verified.kid != kid:
        raise VerificationFailed(f"cannot trust {path}: it names another signing key", next_step=_NEXT)
    if not holder.holds(verified.statement):
        raise VerificationFailed(
            f"cannot trust {path}: it is for another node, generation, node key or chip", next_step=_NEXT
        )
    return verified
