"""Verdicts on a folder of real EK certificates, compared with the table in the folder's README.

The folder has `cas/*.pem` (makers' CA certificates), `leaves/*.der` (EK certificates as read from NV memory) and a
`README.md` with a table: file, right verdict. A verdict begins with `attested`, `refused as attested; tier tpm` or
`refused`. The folder stays outside of this repository.

The CA certificates are divided into requests, read and sorted as `cascade hardware` and Fabric do. A certificate is
cut from its padding as the agent does. Then it is judged for a tenant that admits `attested` only, and again for one
that admits `tpm` too. If the folder has no CA of a certificate's issuer, a stand-in for the CA signs the same bytes of
the certificate again. Then everything is judged except the maker's own signature; the line says so.

The makers of the CA certificates are recognised as `cascade hardware import-bundle` does, and counted in the figures.
"""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from cloud.cli.hardware.maker_bundles import read_bundles
from cloud.cli.hardware.pem_parts import blocks, parts, text_of
from cloud.fabric.attestation.ek_roots import parse_trust_pem, read_ca, trusted_roots
from cloud.fabric.attestation.ek_trust import TenantTrust, check_chip
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from protocol import asn1
from protocol.endorsement import DEFAULT_EK_TYPE, TEMPLATES, EkType
from protocol.evidence import EndorsementEvidence
from protocol.maker_certificates import (
    CertificateUnreadable,
    exact_certificate,
    read_certificate,
)
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.simulators import forged_evidence as forged
from tests.simulators.odd_certificates import Draft, tlv

USUAL_TIME = "1 s"
MINUTES_MAX = 5.0

JUDGED_AT = datetime(2026, 11, 30, tzinfo=UTC)
"""When the verdicts were written. Certificates of the collection end from 2028 on."""

_ROW = re.compile(r"^\|\s*`(leaves/[^`]+)`\s*\|\s*([^|]+?)\s*\|", re.MULTILINE)


class Verdict(msgspec.Struct, frozen=True):
    """A verdict: `attested`, `tpm` (refused as attested, tier tpm where allowed) or `refused`, and the reason."""

    kind: str
    reason: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folder, more CA certificates, and the time."""
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder of real certificates")
    parser.add_argument(
        "--more-cas", type=Path, action="append", default=[], metavar="PEM", help="more CA certificates"
    )
    parser.add_argument(
        "--at",
        type=datetime.fromisoformat,
        default=JUDGED_AT,
        metavar="TIME",
        help="time of the verdicts (%(default)s)",
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Judge every file of the README's table, and compare."""
    try:
        wanted = dict(_ROW.findall((options.dir / "README.md").read_text()))
        files = [*sorted((options.dir / "cas").glob("*.pem")), *options.more_cas]
        cas, findings = _read_cas(files)
        leaves = {name: exact_certificate((options.dir / name).read_bytes()) for name in wanted}
    except OSError as error:
        raise CannotRun(f"cannot read {options.dir}: {error}") from error
    if not wanted or not cas:
        raise CannotRun(f"cannot use {options.dir}: no table of leaves/*.der in README.md, or no certificate in cas/")
    figures: dict[str, Figure] = {"CA certificates": len(cas)}
    bundle = read_bundles(files)
    for count in bundle.counts(()):
        figures[f"CA certificates of {count.maker}"] = (
            f"{count.roots} roots, {count.intermediates} intermediates, {count.unusable} unusable"
        )
    partly = 0
    for name, said in wanted.items():
        found = judge(leaves[name], cas, options.at)
        note = ""
        if not _complete(leaves[name], cas, said):
            partly += 1
            again, root = stand_in(leaves[name])
            found = judge(again, {root: DEFAULT_EK_TYPE}, options.at)
            note = ", under a stand-in for its CA, which the folder does not have"
        agrees = _agrees(found, said)
        figures[name] = f"{found.kind} ({found.reason}{note}); README: {said}"
        say(f"{'agrees ' if agrees else 'DIFFERS'} {name}: {figures[name]}")
        if not agrees:
            findings.append(f"{name}: {figures[name]}")
    return Outcome({**figures, "judged under a stand-in for their CA": partly}, tuple(findings))


def judge(raw: bytes, cas: dict[bytes, EkType], now: datetime) -> Verdict:
    """The verdict on an EK certificate (DER) for a tenant that trusts `cas`."""
    evidence = EndorsementEvidence(_ek_public(raw), b"", raw)
    roots = trusted_roots(cas.items())
    try:
        chip = check_chip(evidence, TenantTrust(roots, frozenset(), frozenset({"attested"})), now)
    except EvidenceRefused as refused:
        reason = f"step {refused.step}: {refused.reason}"
    else:
        return Verdict(chip.tier, f"EK type {chip.ek_type}")
    try:
        return Verdict(
            check_chip(evidence, TenantTrust(roots, frozenset(), frozenset({"attested", "tpm"})), now).tier, reason
        )
    except EvidenceRefused:
        return Verdict("refused", reason)


def _ek_public(raw: bytes) -> bytes:
    """The EK of the chip: the key of the certificate in the default template; some RSA key if it cannot be read."""
    try:
        key = read_certificate(raw).key
    except CertificateUnreadable:
        return TEMPLATES[DEFAULT_EK_TYPE].public(1 << 2047)
    if isinstance(key, rsa.RSAPublicKey):
        return TEMPLATES["rsa2048"].public(key.public_numbers().n)
    numbers = key.public_numbers()
    return TEMPLATES["ecc_p384" if key.key_size == 384 else "ecc_p256"].public(numbers.x, numbers.y)


def _complete(raw: bytes, cas: dict[bytes, EkType], said: str) -> bool:
    """Whether the folder has the CA of the certificate, or the right verdict needs none."""
    try:
        issuer = read_certificate(raw).issuer
    except CertificateUnreadable:
        return True
    return not said.startswith("attested") or any(read_ca(der).subject == issuer for der in cas)


def stand_in(raw: bytes) -> tuple[bytes, bytes]:
    """The certificate (DER) signed again by a stand-in for its issuer, and the stand-in's root certificate.

    The signed bytes are those of the maker. Raises CannotRun for another signature than RSA or ECDSA with SHA-256.
    """
    signed, algorithm, _ = asn1.children(asn1.read_whole(raw, asn1.SEQUENCE))
    issuer = asn1.children(signed)[3].whole  # after version, serial number and algorithm
    kind = read_certificate(raw).signature_kind
    sign: Callable[[bytes], bytes]
    if kind == "1.2.840.113549.1.1.11":
        rsa_key = forged.rsa2048("stand-in")
        public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = rsa_key.public_key()
        sign = partial(rsa_key.sign, padding=padding.PKCS1v15(), algorithm=hashes.SHA256())
    elif kind == "1.2.840.10045.4.3.2":
        ec_key = forged.p256("stand-in")
        public = ec_key.public_key()
        sign = partial(ec_key.sign, signature_algorithm=ec.ECDSA(hashes.SHA256()))
    else:
        raise CannotRun(f"cannot make a stand-in for a CA whose signature is of the kind {kind}")
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fields = list(Draft.of(forged.authority("stand-in").der).fields)
    fields[2], fields[3], fields[5], fields[6] = algorithm.whole, issuer, issuer, spki

    def issued(body: bytes) -> bytes:
        return tlv(asn1.SEQUENCE, body, algorithm.whole, tlv(asn1.BIT_STRING, b"\0", sign(body)))

    return issued(signed.whole), issued(tlv(asn1.SEQUENCE, *fields))


def _agrees(found: Verdict, said: str) -> bool:
    if said.startswith("attested"):
        return found.kind == "attested"
    if said.startswith("refused as attested"):
        return found.kind == "tpm"
    return said.startswith("refused") and found.kind in {"refused", "tpm"}


def _read_cas(files: list[Path]) -> tuple[dict[bytes, EkType], list[str]]:
    """The CA certificates of the files (DER), as a tenant would trust them, and a finding for each refused one."""
    found: dict[bytes, EkType] = {}
    findings: list[str] = []
    for file in files:
        for part in parts(blocks(text_of(file.read_bytes()))):
            read = parse_trust_pem("".join(block.text for block in part).encode())
            findings += [f"{file.name}, line {part[each.number - 1].line}: {each.reason}" for each in read.refused]
            found |= dict.fromkeys((*read.roots, *read.intermediates), DEFAULT_EK_TYPE)
    return found, findings
