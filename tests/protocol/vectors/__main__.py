"""Make or verify `documents.json`."""

import json
import sys
from pathlib import Path

from protocol.encoding import json_encode
from protocol.signed.statements import Statement, payload_of
from tests.protocol.vectors import examples

FILE = Path(__file__).with_name("documents.json")


def made() -> dict[str, dict[str, str]]:
    """The vectors: name -> typ, signed payload, token."""
    documents = {}
    for name, (typ, key, value) in examples.DOCUMENTS.items():
        payload = payload_of(value) if isinstance(value, Statement) else json_encode(value)
        documents[name] = {"typ": typ, "payload": payload.decode(), "token": examples.seal(typ, key, payload)}
    return documents


def vectors() -> dict[str, dict[str, str]]:
    """The literal documents in `documents.json`."""
    kept: dict[str, dict[str, str]] = json.loads(FILE.read_text())
    return kept


def main(action: str) -> int:
    if action == "make":
        FILE.write_text(json.dumps(made(), indent=1) + "\n")
        return 0
    same = vectors() == made()
    sys.stdout.write(
        "the vectors are what the code makes\n" if same else "the vectors differ from what the code makes\n"
    )
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "verify"))
