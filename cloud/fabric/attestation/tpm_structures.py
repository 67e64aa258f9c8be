"""Pure functions: read the three TPM structures of evidence: `TPMT_PUBLIC`, `TPMS_ATTEST` and `TPMT_SIGNATURE`.

The functions read only forms that can be accepted: RSA and ECC publics, attestations of TPM2_Certify and TPM2_Quote,
ECDSA signatures. `ek_trust`, `evidence` and `pcr_quotes` check the values. Rule: the bytes must be exactly one
structure, to the last byte. The TSS library accepts trailing bytes and wrong sizes, and writes every refusal to stderr.
So bytes from outside are not given to it.

Source: TPM 2.0 Library Part 2, sections 9-12. Integers are big-endian. A TPM2B is a 16-bit size and that many bytes.
"""

import hashlib

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.limits import TPM_STRUCTURE_BYTES_MAX
from protocol.problems import Code

ALG_RSA = 0x0001
ALG_SHA256 = 0x000B
ALG_NULL = 0x0010
ALG_ECDSA = 0x0018
ALG_ECC = 0x0023
CURVE_P256 = 0x0003

GENERATED_VALUE = 0xFF544347
"""TPM_GENERATED_VALUE. A restricted key signs data that begin with it only if the TPM generated them."""
ST_ATTEST_CERTIFY = 0x8017
ST_ATTEST_QUOTE = 0x8018

DIGEST_BYTES_MAX = 64
NAME_BYTES_MAX = 2 + DIGEST_BYTES_MAX
RSA_BYTES_MAX = 512
COORDINATE_BYTES_MAX = 66
P256_BYTES = 32
PCR_BANKS_MAX = 16
"""TPML_PCR_SELECTION has room for this many banks (TPM2_NUM_PCR_BANKS of the TSS)."""
PCR_SELECT_BYTES_MAX = 4

_SCHEMES_WITHOUT_HASH = frozenset({ALG_NULL, 0x0015})
"""Schemes without details: no scheme, and RSAES."""
_SCHEME_ECDAA = 0x001A

FIXED_TPM = 1 << 1
FIXED_PARENT = 1 << 4
SENSITIVE_DATA_ORIGIN = 1 << 5
USER_WITH_AUTH = 1 << 6
ADMIN_WITH_POLICY = 1 << 7
NO_DA = 1 << 10
RESTRICTED = 1 << 16
DECRYPT = 1 << 17
SIGN = 1 << 18

_ATTRIBUTES = {
    FIXED_TPM: "fixedTPM",
    1 << 2: "stClear",
    FIXED_PARENT: "fixedParent",
    SENSITIVE_DATA_ORIGIN: "sensitiveDataOrigin",
    USER_WITH_AUTH: "userWithAuth",
    ADMIN_WITH_POLICY: "adminWithPolicy",
    1 << 8: "firmwareLimited",
    1 << 9: "svnLimited",
    NO_DA: "noDA",
    1 << 11: "encryptedDuplication",
    RESTRICTED: "restricted",
    DECRYPT: "decrypt",
    SIGN: "sign",
    1 << 19: "x509sign",
}


class EvidenceRefused(Exception):
    """The evidence fails a check.

    `step` is the number of the check (see `ek_trust` and `evidence`). `code` is the problem code. `reason` is a text
    for the operator; it never contains an endorsement key or its name.
    """

    def __init__(self, step: int, code: Code, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.code = code
        self.reason = reason


class StructureError(ValueError):
    """The bytes are not exactly one structure of the expected kind. The text says where."""


class PublicArea(msgspec.Struct, frozen=True):
    """`TPMT_PUBLIC`. `size` is the number of bits of an RSA key, or the number of the ECC curve. `parameters` are the
    raw bytes from the symmetric algorithm up to `unique`. `unique` is (modulus,) or (x, y)."""

    kind: int
    name_algorithm: int
    attributes: int
    policy: bytes
    size: int
    parameters: bytes
    unique: tuple[bytes, ...]


class Attestation(msgspec.Struct, frozen=True):
    """`TPMS_ATTEST`. Only the kinds ST_ATTEST_CERTIFY and ST_ATTEST_QUOTE are read to their end.

    `certified_name` is empty for other kinds than the first; `pcr_selection` (`TPML_PCR_SELECTION`, marshalled) and
    `pcr_digest` are empty for other kinds than the second.
    """

    magic: int
    kind: int
    extra_data: bytes
    certified_name: bytes
    pcr_selection: bytes = b""
    pcr_digest: bytes = b""


class Signature(msgspec.Struct, frozen=True):
    """`TPMT_SIGNATURE` of ECDSA with SHA-256."""

    r: int
    s: int


class _Reader:
    """Reads bytes from front to end. Raises StructureError if there are too few bytes, or `end` finds some left."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) > TPM_STRUCTURE_BYTES_MAX:
            raise StructureError(f"it has {len(raw)} bytes, more than the limit of {TPM_STRUCTURE_BYTES_MAX}")
        self._raw = raw
        self.offset = 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self._raw):
            raise StructureError("it ends early")
        part = self._raw[self.offset : end]
        self.offset = end
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def sized(self, bytes_max: int) -> bytes:
        size = self.number(2)
        if size > bytes_max:
            raise StructureError(f"a field has {size} bytes, more than the limit of {bytes_max}")
        return self.take(size)

    def since(self, offset: int) -> bytes:
        return self._raw[offset : self.offset]

    def end(self) -> None:
        if self.offset != len(self._raw):
            raise StructureError("bytes follow its end")


def read_public(raw: bytes) -> PublicArea:
    """`TPMT_PUBLIC` of an RSA or ECC key (Part 2, 12.2.4). Raises StructureError."""
    reader = _Reader(raw)
    kind = reader.number(2)
    if kind not in (ALG_RSA, ALG_ECC):
        raise StructureError("it is neither an RSA key nor an ECC key")
    name_algorithm = reader.number(2)
    attributes = reader.number(4)
    policy = reader.sized(DIGEST_BYTES_MAX)
    begin = reader.offset
    _skip_symmetric(reader)
    _skip_scheme(reader)
    size = reader.number(2)
    if kind == ALG_RSA:
        reader.number(4)
        parameters = reader.since(begin)
        unique: tuple[bytes, ...] = (reader.sized(RSA_BYTES_MAX),)
    else:
        _skip_scheme(reader)
        parameters = reader.since(begin)
        unique = (reader.sized(COORDINATE_BYTES_MAX), reader.sized(COORDINATE_BYTES_MAX))
    reader.end()
    return PublicArea(kind, name_algorithm, attributes, policy, size, parameters, unique)


def _skip_symmetric(reader: _Reader) -> None:
    """`TPMT_SYM_DEF_OBJECT`: algorithm, and for a block cipher key bits and mode."""
    if reader.number(2) != ALG_NULL:
        reader.take(4)


def _skip_scheme(reader: _Reader) -> None:
    """`TPMT_RSA_SCHEME`, `TPMT_ECC_SCHEME` or `TPMT_KDF_SCHEME`: an algorithm, for most a hash, for ECDAA a count."""
    scheme = reader.number(2)
    if scheme not in _SCHEMES_WITHOUT_HASH:
        reader.take(4 if scheme == _SCHEME_ECDAA else 2)


def read_attestation(raw: bytes) -> Attestation:
    """`TPMS_ATTEST` (Part 2, 10.12.12). Raises StructureError."""
    reader = _Reader(raw)
    magic = reader.number(4)
    kind = reader.number(2)
    reader.sized(NAME_BYTES_MAX)  # qualifiedSigner is not needed: the signature identifies the AK
    extra_data = reader.sized(DIGEST_BYTES_MAX + 2)
    reader.take(8 + 4 + 4)  # clock, resetCount, restartCount
    if reader.number(1) > 1:
        raise StructureError("a yes-or-no field has another value")
    reader.take(8)  # firmwareVersion
    certified_name, selection, digest = b"", b"", b""
    if kind == ST_ATTEST_CERTIFY:
        certified_name = reader.sized(NAME_BYTES_MAX)
        reader.sized(NAME_BYTES_MAX)  # qualifiedName
        reader.end()
    elif kind == ST_ATTEST_QUOTE:
        begin = reader.offset
        _skip_pcr_selection(reader)
        selection = reader.since(begin)
        digest = reader.sized(DIGEST_BYTES_MAX)
        reader.end()
    return Attestation(magic, kind, extra_data, certified_name, selection, digest)


def _skip_pcr_selection(reader: _Reader) -> None:
    """`TPML_PCR_SELECTION`: a count of banks, and of each the hash algorithm and a bit map (Part 2, 10.9.7)."""
    count = reader.number(4)
    if count > PCR_BANKS_MAX:
        raise StructureError(f"it selects {count} PCR banks, more than the limit of {PCR_BANKS_MAX}")
    for _ in range(count):
        reader.take(2)
        size = reader.number(1)
        if size > PCR_SELECT_BYTES_MAX:
            raise StructureError(f"a field has {size} bytes, more than the limit of {PCR_SELECT_BYTES_MAX}")
        reader.take(size)


def read_signature(raw: bytes) -> Signature:
    """`TPMT_SIGNATURE` of ECDSA with SHA-256 on P-256 (Part 2, 11.3.4). Raises StructureError."""
    reader = _Reader(raw)
    if reader.number(2) != ALG_ECDSA or reader.number(2) != ALG_SHA256:
        raise StructureError("it is not ECDSA with SHA-256")
    r, s = reader.sized(P256_BYTES), reader.sized(P256_BYTES)
    reader.end()
    return Signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def object_name(public: bytes) -> bytes:
    """The TPM name of an object whose nameAlg is SHA-256 (Part 1, 16). `public` is its marshalled `TPMT_PUBLIC`."""
    return ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(public).digest()


def p256_key(unique: tuple[bytes, ...]) -> ec.EllipticCurvePublicKey:
    """The key at a point of P-256. Raises StructureError for a point that is not on the curve."""
    x, y = unique
    if len(x) > P256_BYTES or len(y) > P256_BYTES:
        raise StructureError("a coordinate is longer than those of the curve")
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
    try:
        return numbers.public_key()
    except ValueError as error:
        raise StructureError("its point is not on the curve") from error


def attribute_fault(attributes: int, wanted: int) -> str | None:
    """How `attributes` differ from `wanted`, with the names of Part 2, 8.3; None if they are equal."""
    faults = [f"{name} is missing" for bit, name in _ATTRIBUTES.items() if wanted & ~attributes & bit]
    faults += [f"{name} is set" for bit, name in _ATTRIBUTES.items() if attributes & ~wanted & bit]
    if attributes & ~sum(_ATTRIBUTES):
        faults.append("a reserved attribute is set")
    return ", ".join(faults) or None
