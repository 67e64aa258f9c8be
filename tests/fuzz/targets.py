"""Fuzz targets: functions that parse the inputs that an unauthenticated caller can send, files that operators load, and
the inputs of an agent and its command line.

A target suppresses the errors that its parser documents. Any other error is a finding. The seeds are valid inputs, so
that a mutation reaches deep into the parser. The corpus beside this file has the inputs that earlier runs added.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509 import ocsp as library_ocsp

from cloud.breakwater.errors import CsrRefused
from cloud.breakwater.pkix import ocsp
from cloud.breakwater.pkix.csr import NODE_CURVES, open_csr
from cloud.cli.hardware.pem_parts import blocks, parts, text_of
from cloud.fabric.attestation.ek_roots import TrustError, parse_trust_pem, trusted_roots
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust, check_chip
from cloud.fabric.attestation.evidence import verify_key
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from node.cli.show import human_entitlement, human_license, human_status
from node.config import ConfigError, parse_file
from node.exchanges.activation_file import ActivationFileInvalid, parse_activation_file
from node.licensing.verdict import STATES
from node.local.client import AgentRefused, AgentUnusable, Reply, expect
from node.local.documents import EntitlementDocument, LicenseDocument, StatusDocument, license_document
from protocol.airgap.errors import AirgapError
from protocol.airgap.forms import printed, qr_text, read_answer, read_request, to_file
from protocol.airgap.request import open_request
from protocol.codes import make_secret
from protocol.encoding import json_decode, json_encode
from protocol.evidence import EndorsementEvidence, KeyEvidence, OtherEndorsement
from protocol.maker_certificates import (
    CertificateUnreadable,
    SignatureUnverified,
    exact_certificate,
    read_certificate,
    split_certificates,
    verify_signature,
)
from protocol.messages.activation import ActivationFile, TrustPin
from protocol.messages.est import (
    EstError,
    decode_base64,
    decode_certs_only,
    encode_base64,
    encode_certs_only,
    media_type,
)
from tests.protocol.airgap.examples import an_activation, an_answer, opened, signed_request
from tests.simulators import forged_evidence as forged
from tests.simulators import odd_certificates as odd
from tests.simulators.licensed import AT, SimulatedAgent

CORPUS = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX = 16 * 1024
"""The services refuse longer inputs by their size alone, as tests/system/test_bad_input.py shows."""


class Target(msgspec.Struct, frozen=True):
    """A parser under test, and valid inputs for it."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]

    def corpus(self) -> list[bytes]:
        """The seeds, and the inputs that earlier runs added."""
        kept = [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]
        return [*self.seeds(), *kept]


# Certificate requests


def _csr(data: bytes) -> None:
    with suppress(CsrRefused):
        open_csr(data, NODE_CURVES)


def _requests() -> Iterator[bytes]:
    key = forged.p256("fuzz")
    yield forged.request(key)
    wishes = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzz")])
    )
    wishes = wishes.add_extension(x509.SubjectAlternativeName([x509.DNSName("fuzz.test")]), critical=False)
    wishes = wishes.add_attribute(x509.ObjectIdentifier("1.2.840.113549.1.9.7"), b"challenge")
    yield wishes.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# EST bodies


def _est(data: bytes) -> None:
    with suppress(EstError, CsrRefused):
        open_csr(decode_base64(data), NODE_CURVES)
    with suppress(EstError):
        decode_certs_only(data)
    media_type(data.decode("latin-1"))


def _bodies() -> Iterator[bytes]:
    certificate = forged.authority("fuzz").certificate.public_bytes(serialization.Encoding.DER)
    yield encode_certs_only((certificate,))
    yield from (encode_base64(request) for request in _requests())


# OCSP requests


def _ocsp(data: bytes) -> None:
    with suppress(ocsp.OcspRefused):
        ocsp.parse_request(data)


def _questions() -> Iterator[bytes]:
    authority = forged.authority("fuzz").certificate
    for algorithm in (hashes.SHA1(), hashes.SHA256()):  # noqa: S303  RFC 6960 clients name issuers by SHA-1
        builder = library_ocsp.OCSPRequestBuilder().add_certificate(authority, authority, algorithm)
        yield builder.build().public_bytes(serialization.Encoding.DER)
        builder = builder.add_extension(x509.OCSPNonce(bytes(16)), critical=False)
        yield builder.build().public_bytes(serialization.Encoding.DER)


# Activation evidence

_PARTS = 10


def _split(data: bytes) -> list[bytes]:
    """Ten parts, each after its length in two bytes. A missing part is empty."""
    parts = []
    for _ in range(_PARTS):
        size = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 0
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


def _join(parts: list[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)


def chip_of(data: bytes) -> Chip:
    """The chip of the evidence in `data`, checked. Raises EvidenceRefused."""
    ek_public, ek_certificate, ak_public, *_, other_public, other_certificate, intermediate = _split(data)
    others = (OtherEndorsement(other_public, other_certificate),) if other_public else ()
    evidence = EndorsementEvidence(ek_public, ak_public, ek_certificate or None, others, (intermediate,))
    return check_chip(evidence, _TRUST, forged.NOW)


def _evidence(data: bytes) -> None:
    with suppress(EvidenceRefused):
        chip_of(data)
    _, _, ak_public, public, attestation, signature, csr, *_ = _split(data)
    with suppress(EvidenceRefused):
        verify_key(KeyEvidence(public, attestation, signature), ak_public, forged.SECRET, forged.ACTIVATION, csr)


def _proofs() -> Iterator[bytes]:
    endorsement, proof = forged.endorsement(), forged.PaperChip().prove()
    parts = [endorsement.ek_public, endorsement.ek_certificate or b"", proof.ak_public]
    parts += [proof.key.public, proof.key.attestation, proof.key.signature, proof.csr]
    yield _join(parts)
    # The first EK has no certificate. The other EK has a certificate of a CA that the chip stores.
    key, in_chip = forged.p256("fuzz EK").public_key(), forged.authority("CA in the chip", forged.maker().root)
    certificate = forged.maker().certify(key, issuer=in_chip)
    yield _join([parts[0], b"", *parts[2:], forged.ecc_ek_public(key), certificate, in_chip.der])


# Certificates of TPM makers, and files of them


def _certificate(data: bytes) -> None:
    for raw in (data, exact_certificate(data), *split_certificates(data, 4)):
        with suppress(CertificateUnreadable, SignatureUnverified):
            found = read_certificate(raw)
            verify_signature(found, found.key)


def _certificates() -> Iterator[bytes]:
    maker = forged.maker()
    sound = maker.certify(forged.rsa2048("fuzz").public_key())
    yield from (odd.faulty(sound, maker.intermediate.key, fault) for fault in odd.FAULTS.values())
    yield maker.root.der + maker.intermediate.der + b"\xff" * 40
    key = forged.rsa2048("fuzz CA")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzz")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, forged.NOW, forged.NOW)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    yield builder.sign(key, hashes.SHA256(), rsa_padding=pss).public_bytes(serialization.Encoding.DER)


def _bundle(data: bytes) -> None:
    with suppress(TrustError):
        parse_trust_pem(data)
    for part in parts(blocks(text_of(data))):
        with suppress(TrustError):
            parse_trust_pem("".join(block.text for block in part).encode())


def _bundles() -> Iterator[bytes]:
    maker = forged.maker()
    yield b"text\r\n" + maker.root.pem + b"-----BEGIN X-----\nAAAA\n-----END X-----\n" + maker.intermediate.pem
    yield maker.root.der


# Settings and activation file of the agent, and the answers of its socket


def _settings(data: bytes) -> None:
    with suppress(ConfigError):
        parse_file(data, Path("fuzz.toml"))


def _settings_files() -> Iterator[bytes]:
    yield (
        b'# Comment\nstate_dir = "/a"\nsocket = "/b"\ntpm = \'device:/dev/tpmrm0\'\nmode = "production"\n'
        b"heartbeat_seconds = 0x258\nsettle_seconds = 20\n"
    )
    yield b'a.b."c" = [{x = 1979-05-27T07:32:00Z}, 1e9, nan]\n[[d]]\ne = """\\U0001F600"""\n'


def _activation_file(data: bytes) -> None:
    with suppress(ActivationFileInvalid):
        parse_activation_file(data, Path("fuzz.json"))


def _activation_files() -> Iterator[bytes]:
    code = make_secret("cac", bytes(20))
    yield json_encode(ActivationFile(1, "http://[::1]:80/a", TrustPin(1, "0" * 64), code, forged.NOW))


def _socket_answer(data: bytes) -> None:
    try:
        document = json_decode(data, dict[str, Any])
    except msgspec.MsgspecError:
        return
    with suppress(AgentUnusable, AgentRefused):
        human_status(expect(Reply(200, document), {200}, StatusDocument))
    with suppress(AgentUnusable, AgentRefused):
        human_license(expect(Reply(200, document), {200}, LicenseDocument))
    with suppress(AgentUnusable, AgentRefused):
        human_entitlement(expect(Reply(403, document), {200, 403}, EntitlementDocument))


def _socket_answers() -> Iterator[bytes]:
    agent = SimulatedAgent()
    for _ in STATES:
        yield json_encode(agent.status())
    yield json_encode(license_document(agent.snapshot()))
    yield json_encode(EntitlementDocument(1, "vision", False, "active", "because", AT))


def _trust() -> TenantTrust:
    maker = forged.maker()
    cas = [ca.certificate.public_bytes(serialization.Encoding.DER) for ca in (maker.root, maker.intermediate)]
    return TenantTrust(
        roots=trusted_roots((ca, ek_type) for ca in cas for ek_type in ("rsa2048", "ecc_p256")),
        allowed_ek_names=frozenset(),
        tiers=frozenset(("attested", "tpm")),
    )


_TRUST = _trust()

# Files of nodes without a network


def _carried(data: bytes) -> None:
    with suppress(AirgapError):
        open_request(read_request(data))
    with suppress(AirgapError):
        read_answer(data)


def _carried_files() -> Iterator[bytes]:
    request, answer = signed_request(an_activation()), an_answer(opened())
    for document in (request, answer):
        yield from (to_file(document), printed(document).encode(), qr_text(document).encode())


TARGETS = {
    target.name: target
    for target in (
        Target("csr", _csr, _requests),
        Target("est", _est, _bodies),
        Target("ocsp", _ocsp, _questions),
        Target("evidence", _evidence, _proofs),
        Target("certificate", _certificate, _certificates),
        Target("bundle", _bundle, _bundles),
        Target("settings", _settings, _settings_files),
        Target("activation-file", _activation_file, _activation_files),
        Target("socket-answer", _socket_answer, _socket_answers),
        Target("carried", _carried, _carried_files),
    )
}

__all__ = ["CORPUS", "INPUT_BYTES_MAX", "TARGETS", "Target", "chip_of"]
