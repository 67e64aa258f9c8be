"""Store: the floor record on disk, in two copies that do not share a directory.

    licence/floors.json     written first
    identity/floors.json    the copy

Each copy is replaced in one durable step, so a crash leaves the old or the new record in each. `node.licensing.floors`
decides which record counts. A copy that cannot be used is reported; it is never treated as missing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from node.disk.files import StateFile, encode_state, ensure_private_dir, read_state, write_atomic
from node.errors import StateError, StateUnwritable
from node.licensing.floors import FloorError, Found, Record, open_record
from protocol.faults import fault_point
from protocol.signed.statements import Holder


class FloorFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A copy of the floor record. `token` is the JWS that the node key has signed."""

    token: str


class FloorStore:
    """The floor record of a state directory. A caller that writes holds the directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.paths = (state_dir / "licence" / "floors.json", state_dir / "identity" / "floors.json")

    def load(
        self,
        holder: Holder,
        node_key: ec.EllipticCurvePublicKey,
        others: Callable[[], Iterable[ec.EllipticCurvePublicKey]] = tuple,
    ) -> Found:
        """Read both copies. Damage is reported; none is raised.

        `node_key` has usually signed them. `others` gives the other node keys of this node; it is called if need be.
        """
        records: list[Record] = []
        damaged: list[str] = []
        for path in self.paths:
            try:
                stored = read_state(path, FloorFile, signed=True)
                if stored is not None:
                    records.append(open_record(stored.token, holder, _keys(node_key, others)))
            except StateError as error:
                damaged.append(error.text)
            except FloorError as error:
                damaged.append(f"cannot trust {path}: {error}")
        return Found(tuple(records), tuple(damaged))

    def write(self, token: str, only: Collection[Path] | None = None) -> dict[Path, StateError]:
        """Replace the copies, or those in `only`. Every copy is tried. Returns the error of each that was not written."""
        data = encode_state(FloorFile(token=token))
        failed: dict[Path, StateError] = {}
        for path in self.paths if only is None else only:
            try:
                self._write(path, data)
            except StateError as error:
                failed[path] = error
        return failed

    def _write(self, path: Path, data: bytes) -> None:
        with suppress(StateUnwritable):
            ensure_private_dir(self._state_dir)
        ensure_private_dir(path.parent)
        if path == self.paths[0]:
            with fault_point("node.floor.write"):
                write_atomic(path, data)
        else:
            with fault_point("node.floor.copy"):
                write_atomic(path, data)


def _keys(
    node_key: ec.EllipticCurvePublicKey, others: Callable[[], Iterable[ec.EllipticCurvePublicKey]]
) -> Iterator[ec.EllipticCurvePublicKey]:
    yield node_key
    yield from others()
