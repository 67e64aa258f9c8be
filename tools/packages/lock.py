"""Pure functions: which libraries of the hashed lock a package has.

The notes of pip-compile below each library (`# via`) say what required it. A requirement under a marker of another
platform or of an extra counts as well, so a list may have a library too many and never one too few.
"""

import re
import tomllib
from collections.abc import Collection, Iterable

_NAME = re.compile(r"([a-z0-9][a-z0-9._-]*)==([^\s\\]+)")
_VIA = re.compile(r"(?m)^    #(?: via)? {1,3}([a-z0-9][a-z0-9._-]*)")
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def canonical(name: str) -> str:
    """The name of a distribution as the lock writes it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(lock: str) -> dict[str, str]:
    """The text of each library in a lock, by name: version, hashes and notes."""
    found = ((_NAME.match(block), block) for block in re.split(r"(?m)^(?=\S)", lock))
    return {match[1]: block for match, block in found if match}


def versions(lock: str) -> dict[str, str]:
    """The version of each library in a lock."""
    return {name: match[2] for name, block in blocks(lock).items() if (match := _NAME.match(block))}


def hashes(block: str) -> list[str]:
    """The SHA-256 of each published file of a library, in hex."""
    return re.findall(r"--hash=sha256:([0-9a-f]{64})", block)


def required(project: str, extras: Iterable[str]) -> set[str]:
    """The libraries that pyproject.toml names: those of every installation, and those of some extras."""
    table = tomllib.loads(project)["project"]
    lines = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    return {canonical(match[0]) for line in lines if (match := _REQUIRED.match(line))}


def closure(lock: str, wanted: Collection[str]) -> list[str]:
    """The libraries of a lock that `wanted` are or require, sorted. Raises KeyError for one that the lock lacks."""
    via = {name: set(_VIA.findall(block)) for name, block in blocks(lock).items()}
    if missing := set(wanted) - via.keys():
        raise KeyError(f"the lock lacks {', '.join(sorted(missing))}")
    found = set(wanted)
    while more := {name for name, parents in via.items() if name not in found and parents & found}:
        found |= more
    return sorted(found)


def part(lock: str, names: Iterable[str]) -> str:
    """The lock with some of its libraries only."""
    every = blocks(lock)
    return "".join(every[name] for name in sorted(names))
