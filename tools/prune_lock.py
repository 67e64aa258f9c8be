"""Command `python -m tools.prune_lock LOCK NAME...`: takes libraries, and those that only they require, out.

The notes of pip-compile below each library (`# via`) decide. The command prints the names that it took out.
"""

import re
import sys
from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(?===)")


def pruned(lock: str, names: set[str]) -> tuple[str, list[str]]:
    """The lock without `names` and without libraries that only they require; and the names that were taken out."""
    blocks = re.split(r"(?m)^(?=\S)", lock)
    reasons: dict[str, set[str]] = {}
    for block in blocks:
        if found := _NAME.match(block):
            reasons[found[0]] = set(re.findall(r"(?m)^    #(?: via)? {1,3}([a-z0-9][a-z0-9._-]*)", block))
    gone = names & reasons.keys()
    while more := {name for name, via in reasons.items() if name not in gone and via and via <= gone}:
        gone |= more
    kept = "".join(block for block in blocks if not ((found := _NAME.match(block)) and found[0] in gone))
    return re.sub(rf"(?m)^    #   ({'|'.join(map(re.escape, sorted(gone)))})\n", "", kept), sorted(gone)


def main(arguments: list[str]) -> int:
    """The program; see the module's docstring."""
    path, names = Path(arguments[0]), set(arguments[1:])
    text, gone = pruned(path.read_text("utf-8"), names)
    path.write_text(text, "utf-8")
    print(f"lock: left out: {' '.join(gone)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
