"""Literal examples of every signed document, and the script that makes and re-verifies them.

`python -m tests.protocol.vectors make` writes `documents.json`. `... verify` verifies every token in it with the code.
Signing is deterministic (RFC 6979), and the keys are fixed and public. So `make` changes the file only if a document's
encoding has changed, and a changed vector is a new version of its document.
"""
