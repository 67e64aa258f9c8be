"""`make real-ek`: the verdicts on a small folder of certificates, compared with its README."""

import argparse
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from protocol.asn1 import BIT_STRING, SEQUENCE
from tests.drills import real_ek
from tests.drills.frame import CannotRun, Outcome
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.forged_evidence import maker
from tests.simulators.odd_certificates import Draft, tlv

CERTIFICATE = maker().certify(forged.rsa2048("ek").public_key())


def by_rsa_ca() -> bytes:
    """An EK certificate of a CA with an RSA key."""
    sound = Draft.of(maker("RSA").certify(forged.rsa2048("ek").public_key()))
    algorithm = tlv(SEQUENCE, bytes.fromhex("06092a864886f70d01010b"), b"\5\0")
    signed = tlv(SEQUENCE, *sound.with_field(2, lambda _: algorithm).fields)
    signature = forged.rsa2048("RSA CA").sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return tlv(SEQUENCE, signed, algorithm, tlv(BIT_STRING, b"\0", signature))


ROWS = {
    "sound.der": (CERTIFICATE, "attested"),
    "odd.der": (
        odd.faulty(CERTIFICATE, maker().intermediate.key, odd.FAULTS["GeneralizedTime before 2050"]) + b"\xff" * 50,
        "attested after the node has cut it",
    ),
    "ecc.der": (maker().certify(forged.p256("ek").public_key()), "refused"),
    "signing.der": (
        maker().certify(forged.rsa2048("ek").public_key(), usage=forged.key_usage(digital_signature=True)),
        "refused",
    ),
    "unknown.der": (
        maker("Other").certify(forged.rsa2048("ek").public_key()),
        "refused as attested; tier tpm where allowed",
    ),
    "far.der": (maker("Other").certify(forged.rsa2048("ek").public_key()), "attested"),
    "far-rsa.der": (by_rsa_ca(), "attested"),
    "header.der": (b"\x10\x01\x00" + CERTIFICATE, "refused"),
}


def judged(folder: Path, rows: dict[str, tuple[bytes, str]], cas: bytes) -> tuple[Outcome, list[str]]:
    (folder / "cas").mkdir()
    (folder / "leaves").mkdir()
    (folder / "cas" / "all.pem").write_bytes(cas)
    for name, (raw, _) in rows.items():
        (folder / "leaves" / name).write_bytes(raw)
    table = "".join(f"| `leaves/{name}` | {said} | what it is |\n" for name, (_, said) in rows.items())
    (folder / "README.md").write_text(f"| File | Right verdict | What |\n|---|---|---|\n{table}")
    lines: list[str] = []
    options = argparse.Namespace(dir=folder, more_cas=[], at=forged.NOW)
    return real_ek.run(options, lines.append), lines


def test_a_folder_that_agrees(tmp_path: Path) -> None:
    outcome, lines = judged(tmp_path, ROWS, maker().root.pem + maker().intermediate.pem)
    assert outcome.findings == ()
    assert all(line.startswith("agrees") for line in lines)
    assert ["stand-in" in line for line in lines] == [name.startswith("far") for name in ROWS]
    assert outcome.figures["CA certificates"] == 2
    assert outcome.figures["judged under a stand-in for their CA"] == 2


def test_a_difference_and_an_unusable_ca_are_findings(tmp_path: Path) -> None:
    said = {
        name: (raw, "refused" if verdict.startswith("attested") else "attested")
        for name, (raw, verdict) in ROWS.items()
    }
    del said["unknown.der"], said["far.der"], said["far-rsa.der"]
    bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    outcome, lines = judged(tmp_path, said, maker().root.pem + maker().intermediate.pem + bad)
    assert all(line.startswith("DIFFERS") for line in lines)
    assert len(outcome.findings) == len(said) + 1
    assert outcome.findings[0].startswith("all.pem, line ")


def test_a_folder_without_certificates(tmp_path: Path) -> None:
    options = argparse.Namespace(dir=tmp_path, more_cas=[], at=forged.NOW)
    with pytest.raises(CannotRun, match="cannot read"):
        real_ek.run(options, print)
    with pytest.raises(CannotRun, match="no table"):
        judged(tmp_path, {}, b"")
