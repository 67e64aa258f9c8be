"""Store: the renewal token of each generation, which the next session presents. The cloud makes it, and reads it alone.

A token has two files, which do not share a directory:

    licence/g-N/renewal-token.json
    identity/renewal-token-g-N.json

At reading the newer one counts. A file that cannot be read, or is damaged, counts as missing. No loss of a token stops a
node: after a lost write it presents an older token, and the cloud takes that for a machine that was put back.
"""

import logging
import re
from contextlib import suppress
from pathlib import Path

from node.disk.files import (
    StateFile,
    encode_state,
    ensure_private_dir,
    list_directory,
    read_state,
    remove_file,
    write_atomic,
)
from node.errors import StateError, StateUnwritable
from protocol.faults import fault_point

log = logging.getLogger("cascadia.state")

_COPY = re.compile(r"renewal-token-g-([1-9][0-9]{0,8})\.json", re.ASCII)


class RenewalTokenFile(StateFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A renewal token. `count` is higher in each later file of the generation."""

    generation: int
    count: int
    token: str


class RenewalTokens:
    """The renewal tokens of a state directory. A caller that stores holds the directory's lock."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._latest: dict[int, RenewalTokenFile] = {}

    def paths(self, generation: int) -> tuple[Path, Path]:
        """The files of a generation's token, whether or not they exist."""
        return (
            self._state_dir / "licence" / f"g-{generation}" / "renewal-token.json",
            self._state_dir / "identity" / f"renewal-token-g-{generation}.json",
        )

    def token(self, generation: int) -> str:
        """The last token of the generation, or "". It reads the disk at the first call for the generation."""
        if generation not in self._latest:
            found = [file for path in self.paths(generation) if (file := _read(path, generation)) is not None]
            latest = max(found, key=lambda file: file.count, default=None)
            self._latest[generation] = latest or RenewalTokenFile(generation=generation, count=0, token="")
        return self._latest[generation].token

    def store(self, generation: int, token: str) -> None:
        """Use a token from now on, and store it in both files. An empty token changes nothing.

        The token is in use also if a file cannot be written. Raises StateError for the first file that cannot.
        """
        if not token or token == self.token(generation):
            return
        latest = RenewalTokenFile(generation=generation, count=self._latest[generation].count + 1, token=token)
        self._latest = {generation: latest}
        first, second = self.paths(generation)
        failed: list[StateError] = []
        if latest.count == 1:
            self._forget_others(generation)
        try:
            self._ensure_folder(first)
            with fault_point("node.renewaltoken.write"):
                write_atomic(first, encode_state(latest))
        except StateError as error:
            failed.append(error)
        try:
            self._ensure_folder(second)
            with fault_point("node.renewaltoken.copy"):
                write_atomic(second, encode_state(latest))
        except StateError as error:
            failed.append(error)
        if failed:
            raise failed[0]

    def _forget_others(self, generation: int) -> None:
        """Remove the tokens of lower generations, which the cloud has closed. What cannot be removed stays."""
        with suppress(StateError):
            for name in list_directory(self._state_dir / "identity"):
                match = _COPY.fullmatch(name)
                if match is not None and int(match[1]) < generation:
                    for path in self.paths(int(match[1])):
                        remove_file(path)

    def _ensure_folder(self, path: Path) -> None:
        """Make the folder of a file. A fault of a folder above stops no file in a folder that exists."""
        with suppress(StateUnwritable):
            ensure_private_dir(self._state_dir)
            ensure_private_dir(self._state_dir / path.relative_to(self._state_dir).parts[0])
        ensure_private_dir(path.parent)


def _read(path: Path, generation: int) -> RenewalTokenFile | None:
    try:
        file = read_state(path, RenewalTokenFile, signed=True)
    except StateError as error:
        log.warning("%s; the cloud judges this machine without the renewal token in it", error.text)
        return None
    return file if file is not None and file.generation == generation else None
