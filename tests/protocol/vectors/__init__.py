"""Literal examples of every signed document, and the script that makes and re-verifies them.

`python -m tests.protocol.vectors make` writes `documents.json` anew, `... verify` holds every token in it against the
code. Signing is deterministic (RFC 6979) with keys that are public, so a run changes nothing unless the wire changed:
a changed vector is a new version of that document.
"""
