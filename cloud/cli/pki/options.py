"""The options of `cascade pki`: what an operator does to the issuer, on its own host."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from cloud.contracts.breakwater import RevocationReason

Add = Callable[..., argparse.ArgumentParser]


def add_pki_commands(add: Add) -> None:
    """Add the actions; `add(name, summary, text="")` makes the parser of one."""
    _place(add("status", "authorities, certificates, CRLs: what there is and what is due"))
    issue = _place(
        add(
            "issue",
            "make a one-time secret for a service's first certificate",
            "The service shows it once over EST (simpleenroll). Writes it to a file of mode 0600; only its hash is kept.",
        )
    )
    issue.add_argument("service", metavar="SERVICE", help="whose certificate")
    issue.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write the secret to")
    issue.add_argument("--hours", type=float, default=24.0, help="how long it can be used (default 24)")
    issue.add_argument("--host", action="append", default=[], metavar="HOST", help="a name or address of its listener")
    revoke = _place(
        add(
            "revoke",
            "revoke a service's certificates, for good",
            "Peers refuse them from their next request on, OCSP and CRL show them at once. Nodes are revoked with "
            "`cascade node revoke`.",
        )
    )
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("--serial", metavar="HEX", help="one certificate")
    which.add_argument("--certificate", type=Path, metavar="PEM", help="the certificate in this file")
    which.add_argument("--service", metavar="SERVICE", help="every certificate of this service")
    revoke.add_argument(
        "--reason", choices=get_args(RevocationReason), default="unspecified", help="RFC 5280 section 5.3.1"
    )
    renew = _place(
        add(
            "renew",
            "give a service of this installation a new certificate now",
            "For a new key: for a service that was off for longer than its certificate lives, or whose certificate was "
            "revoked. A running one renews by itself, and takes this one at its next start.",
        )
    )
    renew.add_argument("service", metavar="SERVICE", help="fabric or breakwater")
    rotate = add(
        "rotate",
        "replace an authority, step by step",
        "request -> (ceremony) -> import -> `cascade trust sign` and `publish` -> activate -> (adoption) -> taint or "
        "revoke. docs/pki.md has the whole with its commands.",
    )
    _rotate_options(rotate)
    crl = _place(add("crl", "the CRLs as published"))
    crl.add_argument("--out", type=Path, metavar="DIR", help="also write them as files")
    crl.add_argument("--publish", action="store_true", help="make new ones first")
    check = _place(
        add(
            "check",
            "walk everything issued: lint, chains, records, CRLs",
            "Exit code 65 when something is wrong. Reads a running issuer's database and changes nothing.",
        )
    )
    check.add_argument("--pkilint", type=int, default=0, metavar="N", help="have pkilint look at N random certificates")
    check.add_argument(
        "--certificates", type=Path, action="append", default=[], metavar="PEM", help="these must be on record too"
    )
    export = _place(add("export", "write authorities, CRLs and an inventory as files"))
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    export.add_argument("--certificates", action="store_true", help="every certificate too")


def _rotate_options(rotate: argparse.ArgumentParser) -> None:
    rotate.add_argument("--dir", type=Path, metavar="DIR", help="directory of the installation; after the step too")
    steps = rotate.add_subparsers(dest="step", required=True, metavar="STEP")

    def step(name: str, summary: str) -> argparse.ArgumentParser:
        made = steps.add_parser(name, help=summary, description=summary)
        # Here too, as after every other command; not given, they leave what stood before the step.
        made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
        made.add_argument(
            "--dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="directory of the installation"
        )
        return made

    request = step("request", "make the next key of a class, and a request for the ceremony")
    request.add_argument("ca", choices=["nodes", "services"], metavar="CLASS", help="nodes or services")
    request.add_argument("--out", type=Path, required=True, metavar="FILE", help="PKCS#10 request to write")
    imported = step("import", "take in what the ceremony made: a root, an issuing CA, a cross-certificate")
    imported.add_argument("certificate", type=Path, metavar="PEM")
    activate = step("activate", "issue from this authority; the one before becomes old")
    taint = step("taint", "believe an old authority no more; it still signs its CRLs")
    revoke = step("revoke", "end an authority: it signs nothing any more")
    for each in (activate, taint, revoke):
        each.add_argument("authority", metavar="AUTHORITY", help="for example nodes-2")
        each.add_argument("--reason", default="", help="kept in the audit")
        each.add_argument(
            "--override", action="store_true", help="although not everybody has adopted; needs a --reason"
        )
        each.add_argument("--url", metavar="URL", help="repository of the installation (CASCADE_URL)")
        each.add_argument("--trust", metavar="PIN", help="trust pin (CASCADE_TRUST)")
        each.add_argument("--token-file", type=Path, metavar="FILE", help="operator's token (CASCADE_TOKEN_FILE)")


def _place(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the installation")
    return command
