"""Simulator of TPM evidence in Python: right in every part, or wrong in exactly one part. It needs no TPM.

`PaperChip` has all parts of the evidence: EK with a maker's certificate, AK, certified node key, CSR. Only the
credential challenge needs a TPM, so tests can check every other rule of the verifier, with one mutation each. `Maker`
is a manufacturer's certificate authority. This module encodes public areas and attestations itself, from the TPM 2.0
Library, Part 2, and uses none of the code under test.
"""

import functools
import hashlib
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from protocol.evidence import EndorsementEvidence, KeyEvidence, PcrQuote, qualifying_data
from protocol.ids import ActivationId, RenewalId
from tests.simulators.primes import PRIMES

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACTIVATION = ActivationId("act_01jd8xk3v5e2r9qz7w4m6n8p0a")
SECRET = bytes(range(32))

EK_ATTRIBUTES = 0x000300B2
AK_ATTRIBUTES = 0x00050472
NODE_KEY_ATTRIBUTES = 0x00040472
FIXED_TPM, FIXED_PARENT, ORIGIN, USER_WITH_AUTH = 0x2, 0x10, 0x20, 0x40
NO_DA, RESTRICTED, DECRYPT, SIGN = 0x400, 0x10000, 0x20000, 0x40000

POLICY_A = hashlib.sha256(
    hashlib.sha256(bytes(32) + bytes.fromhex("000001514000000B")).digest()  # PolicySecret(TPM_RH_ENDORSEMENT)
).digest()
TCG_EK = x509.ObjectIdentifier("2.23.133.8.1")
GENERATED = 0xFF544347
CERTIFY, QUOTE = 0x8017, 0x8018


def sized(data: bytes) -> bytes:
    """TPM2B: a 16-bit size and that many bytes."""
    return struct.pack(">H", len(data)) + data


def ek_public(
    key: rsa.RSAPublicKey, *, attributes: int = EK_ATTRIBUTES, policy: bytes = POLICY_A, exponent: int = 0
) -> bytes:
    """`TPMT_PUBLIC` of an RSA EK by template L-1."""
    return (
        struct.pack(">HHI", 0x0001, 0x000B, attributes)
        + sized(policy)
        + struct.pack(">HHHHHI", 0x0006, 128, 0x0043, 0x0010, key.key_size, exponent)
        + sized(key.public_numbers().n.to_bytes(key.key_size // 8, "big"))
    )


def ecc_ek_public(key: ec.EllipticCurvePublicKey) -> bytes:
    """`TPMT_PUBLIC` of an ECC EK by template L-2 (P-256), or the same on P-384."""
    curve = {256: 3, 384: 4}[key.key_size]
    return (
        struct.pack(">HHI", 0x0023, 0x000B, EK_ATTRIBUTES)
        + sized(POLICY_A)
        + struct.pack(">HHHHHH", 0x0006, 128, 0x0043, 0x0010, curve, 0x0010)
        + point(key)
    )


def signing_public(
    key: ec.EllipticCurvePublicKey,
    attributes: int,
    *,
    policy: bytes = b"",
    parameters: str = "0010 0018000b 0003 0010",
    name_algorithm: int = 0x000B,
) -> bytes:
    """`TPMT_PUBLIC` of an ECC signing key: an AK or a node key."""
    head = struct.pack(">HHI", 0x0023, name_algorithm, attributes) + sized(policy)
    return head + bytes.fromhex(parameters) + point(key)


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers, size = key.public_numbers(), (key.key_size + 7) // 8
    return sized(numbers.x.to_bytes(size, "big")) + sized(numbers.y.to_bytes(size, "big"))


def name_of(public: bytes) -> bytes:
    return b"\x00\x0b" + hashlib.sha256(public).digest()


def attestation(name: bytes, extra_data: bytes, *, magic: int = GENERATED, kind: int = CERTIFY) -> bytes:
    """`TPMS_ATTEST`. For a quote, the name is in the place of the PCR selection."""
    signer = sized(b"\x00\x0b" + bytes(32))
    clock = struct.pack(">QIIB", 123456, 7, 1, 1) + bytes(8)
    return struct.pack(">IH", magic, kind) + signer + sized(extra_data) + clock + sized(name) + signer


PCRS = tuple(bytes([number]) * 32 for number in range(8))
"""Values of the PCRs 0 to 7 of a paper machine."""
SELECTION = bytes.fromhex("00000001000b03ff0000")
"""`TPML_PCR_SELECTION`: the PCRs 0 to 7 of the SHA-256 bank."""


def pcr_quote(  # the options are the mutations
    ak: ec.EllipticCurvePrivateKey,
    challenge: bytes,
    values: tuple[bytes, ...] = PCRS,
    *,
    selection: bytes = SELECTION,
    digest: bytes | None = None,
    magic: int = GENERATED,
    kind: int = QUOTE,
) -> PcrQuote:
    """A quote (TPM2_Quote) of PCR values for a challenge."""
    extra = hashlib.sha256(b"cascade-pcr-quote-1\n" + challenge).digest()
    head = struct.pack(">IH", magic, kind) + sized(b"\x00\x0b" + bytes(32)) + sized(extra)
    clock = struct.pack(">QIIB", 123456, 7, 1, 1) + bytes(8)
    attest = head + clock + selection + sized(digest or hashlib.sha256(b"".join(values)).digest())
    return PcrQuote(attestation=attest, signature=tpm_signature(ak, attest), values=values)


def tpm_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """`TPMT_SIGNATURE` of ECDSA with SHA-256."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return bytes.fromhex("0018000b") + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))


def request(key: ec.EllipticCurvePrivateKey, algorithm: hashes.SHA256 | hashes.SHA384 | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def request_with_bad_signature(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A CSR for `key` with a signature by another key."""
    other = ec.generate_private_key(ec.SECP256R1())
    mine, theirs = x509.load_der_x509_csr(request(key)), x509.load_der_x509_csr(request(other))
    body = mine.tbs_certrequest_bytes + bytes.fromhex("300a06082a8648ce3d040302")
    body += b"\x03" + bytes([len(theirs.signature) + 1, 0]) + theirs.signature
    return b"\x30\x81" + bytes([len(body)]) + body  # 128 to 255 bytes: one byte of length


_PAIRS = itertools.combinations(PRIMES, 2)


@functools.cache
def p256(label: str) -> ec.EllipticCurvePrivateKey:
    """The key of this name; the same key for the whole test run."""
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa2048(label: str) -> rsa.RSAPrivateKey:
    """The RSA key of this name; the same key for the whole test run. Finding new primes would take a tenth of a second.

    Keys of two names are different, but they may share a prime.
    """
    pair = next(_PAIRS, None)
    if pair is None:
        return rsa.generate_private_key(65537, 2048)
    p, q = pair
    d = rsa.rsa_recover_private_exponent(65537, p, q)
    public = rsa.RSAPublicNumbers(65537, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@dataclass(frozen=True)
class Authority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def authority(  # the options are the mutations
    name: str,
    issuer: Authority | None = None,
    *,
    not_before: datetime = NOW - timedelta(days=3650),
    not_after: datetime = NOW + timedelta(days=3650),
    ca: bool = True,
    path_length: int | None = None,
    may_sign: bool = True,
    extra: Sequence[x509.ExtensionType] = (),
) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(subject_name=subject, public_key=key.public_key())
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(key_usage(key_cert_sign=may_sign), critical=True)
    )
    for value in extra:
        builder = builder.add_extension(value, critical=True)
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def key_usage(
    *,
    key_cert_sign: bool = False,
    key_encipherment: bool = False,
    key_agreement: bool = False,
    digital_signature: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


UNKNOWN_EXTENSION = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


@dataclass(frozen=True)
class Maker:
    """A manufacturer of TPMs: root CA, intermediate CA, and its EK certificates."""

    root: Authority
    intermediate: Authority

    @classmethod
    def new(cls, name: str = "Maker") -> "Maker":
        root = authority(f"{name} Root")
        return cls(root, authority(f"{name} Issuing", root))

    def certify(
        self,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        *,
        issuer: Authority | None = None,
        not_before: datetime = NOW - timedelta(days=400),
        not_after: datetime = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        purposes: Sequence[x509.ObjectIdentifier] = (TCG_EK,),
        ca: bool = False,
        may_sign: bool = False,
        extra: Sequence[x509.ExtensionType] = (),
        usage: x509.KeyUsage | None = None,
    ) -> bytes:
        """An EK certificate after the TCG EK Credential Profile: empty subject, critical SAN with the TPM's model."""
        signer = issuer or self.intermediate
        model = x509.Name(
            [
                x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.1"), "id:43415343"),
                x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.2"), "Paper"),
                x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.3"), "id:00010000"),
            ]
        )
        builder = (
            x509.CertificateBuilder(subject_name=x509.Name([]), public_key=key)
            .issuer_name(signer.certificate.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(model)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage or key_usage(key_encipherment=True, key_cert_sign=may_sign), critical=True)
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        for value in extra:
            builder = builder.add_extension(value, critical=True)
        return builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@functools.cache
def maker(name: str = "Maker") -> Maker:
    """The maker of this name; the same maker for the whole test run."""
    return Maker.new(name)


def endorsement(label: str = "ek") -> EndorsementEvidence:
    """Valid endorsement evidence of a paper chip of `maker()`."""
    public = rsa2048(label).public_key()
    return EndorsementEvidence(
        ek_public=ek_public(public),
        ak_public=signing_public(p256("ak").public_key(), AK_ATTRIBUTES),
        ek_certificate=maker().certify(public),
    )


@dataclass(frozen=True)
class Proof:
    """The arguments of `verify_key`."""

    key: KeyEvidence
    ak_public: bytes
    secret: bytes = SECRET
    activation: ActivationId = ACTIVATION
    csr: bytes = b""

    def with_key(self, **parts: bytes) -> "Proof":
        old = self.key
        return replace(
            self,
            key=KeyEvidence(
                public=parts.get("public", old.public),
                attestation=parts.get("attestation", old.attestation),
                signature=parts.get("signature", old.signature),
            ),
        )


@dataclass(frozen=True)
class PaperChip:
    """A proof made of parts. A test can replace a part, and `prove` builds the later parts on the replacement."""

    ak: ec.EllipticCurvePrivateKey = field(default_factory=lambda: p256("ak"))
    node_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: p256("node"))
    ak_public: bytes | None = None
    node_public: bytes | None = None
    name: bytes | None = None
    magic: int = GENERATED
    kind: int = CERTIFY
    nonce_secret: bytes = SECRET
    nonce_activation: ActivationId | RenewalId = ACTIVATION
    nonce_csr: bytes | None = None
    extra_data: bytes | None = None
    signer: ec.EllipticCurvePrivateKey | None = None
    csr: bytes | None = None

    def prove(self) -> Proof:
        ak_public = self.ak_public or signing_public(self.ak.public_key(), AK_ATTRIBUTES)
        public = self.node_public or signing_public(self.node_key.public_key(), NODE_KEY_ATTRIBUTES)
        csr = self.csr if self.csr is not None else request(self.node_key)
        extra = self.extra_data
        if extra is None:
            extra = qualifying_data(self.nonce_secret, self.nonce_activation, self.nonce_csr or csr)
        attest = attestation(self.name or name_of(public), extra, magic=self.magic, kind=self.kind)
        signature = tpm_signature(self.signer or self.ak, attest)
        return Proof(KeyEvidence(public=public, attestation=attest, signature=signature), ak_public, csr=csr)
