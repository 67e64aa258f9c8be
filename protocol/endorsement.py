"""Values: the endorsement keys (EK) by which a chip may be known, with their default templates. For node and cloud.

Source: TCG EK Credential Profile for TPM Family 2.0, v2.5 (`profile`), 2.2.1 (NV indices), annexes B.3 and B.4
(templates L-1, L-2 and H-3). An EK is made again from its template at any time, and is always the same key.
"""

import hashlib
import re
from typing import Literal

import msgspec

EkType = Literal["rsa2048", "ecc_p256", "ecc_p384"]
"""The types of endorsement keys that a chip may have. One EK identifies the chip."""

DEFAULT_EK_TYPE: EkType = "rsa2048"
"""The type of EK that identifies a chip, unless a maker's root names another type. Every maker certifies this type."""

EkHash = Literal["public", "spki", "certificate"]
"""What a SHA-256 in an allow-list is over: the `TPMT_PUBLIC` of the EK, its SubjectPublicKeyInfo in DER, or its
certificate in DER. All three are known at an activation."""

_IDENTIFIER = re.compile(r"000b[0-9a-f]{64}|(?:spki|certificate):[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_HASHES = {b"\x00\x0b": hashlib.sha256, b"\x00\x0c": hashlib.sha384, b"\x00\x0d": hashlib.sha512}


class Template(msgspec.Struct, frozen=True):
    """A default template.

    Args:
        kind: the algorithm of the key (TPM_ALG_ID).
        size: bits of an RSA key, or the number of an ECC curve.
        head: the bytes of `TPMT_PUBLIC` up to `unique`: type, hash, attributes, PolicySecret(TPM_RH_ENDORSEMENT), AES in
            CFB mode, no scheme; then key bits and exponent 0 (which means 65537), or curve and no KDF.
        unique_bytes: the size of each part of `unique` in the key.
        asked_unique: `unique` in the template, marshalled, without a nonce.
        certificate_index: NV index of the certificate.
        nonce_index: NV index of the nonce, None if the type has none.
        template_index: NV index of a template that replaces the default one.
        label: the words for people.
    """

    kind: int
    size: int
    head: bytes
    unique_bytes: tuple[int, ...]
    asked_unique: bytes
    certificate_index: int
    nonce_index: int | None
    template_index: int
    label: str

    def public(self, *values: int) -> bytes:
        """`TPMT_PUBLIC` of the EK with this modulus, or with these coordinates. Raises OverflowError for a longer value."""
        parts = zip(values, self.unique_bytes, strict=True)
        return self.head + b"".join(count.to_bytes(2, "big") + value.to_bytes(count, "big") for value, count in parts)


TEMPLATES: dict[EkType, Template] = {
    "rsa2048": Template(
        kind=0x0001,
        size=2048,
        head=bytes.fromhex(
            "0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
            "0006008000430010080000000000"
        ),
        unique_bytes=(256,),
        asked_unique=b"\x01\x00" + bytes(256),
        certificate_index=0x01C00002,
        nonce_index=0x01C00003,
        template_index=0x01C00004,
        label="RSA 2048",
    ),
    "ecc_p256": Template(
        kind=0x0023,
        size=0x0003,
        head=bytes.fromhex(
            "0023000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
            "000600800043001000030010"
        ),
        unique_bytes=(32, 32),
        asked_unique=(b"\x00\x20" + bytes(32)) * 2,
        certificate_index=0x01C0000A,
        nonce_index=0x01C0000B,
        template_index=0x01C0000C,
        label="ECC NIST P-256",
    ),
    "ecc_p384": Template(
        kind=0x0023,
        size=0x0004,
        head=bytes.fromhex(
            "0023000c000300f20030b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca"
            "cb47ba09699646150f9fc000f3f80e12000601000043001000040010"
        ),
        unique_bytes=(48, 48),
        asked_unique=bytes(4),
        certificate_index=0x01C00016,
        nonce_index=None,
        template_index=0x01C00017,
        label="ECC NIST P-384",
    ),
}


def name_of(public: bytes) -> bytes:
    """The TPM name of an EK: its hash algorithm, and the hash of `TPMT_PUBLIC` (TPM 2.0 Library Part 1, 16).

    An unknown hash algorithm counts as SHA-256. The templates have SHA-256 and SHA-384 only.
    """
    algorithm = public[2:4] if public[2:4] in _HASHES else b"\x00\x0b"
    return algorithm + _HASHES[algorithm](public).digest()


def ek_identifier(text: str, kind: EkHash = "public") -> str:
    """The identifier of an RSA 2048 EK in an allow-list, in its one form.

    The forms are `000b` and a SHA-256 (the TPM name of the EK), `spki:` and a SHA-256, `certificate:` and a SHA-256, in
    hex. `text` has one of them, or a SHA-256 alone, of the kind `kind`. Colons and spaces between digits, capitals, and
    a prefix `sha256:` or `0x` are accepted. Raises ValueError with the reason.
    """
    plain = "".join(text.split()).lower()
    if _IDENTIFIER.fullmatch(plain):
        return plain
    digits = plain.removeprefix("sha256:").removeprefix("0x").replace(":", "").replace("-", "")
    if _IDENTIFIER.fullmatch(digits):
        return digits
    if _DIGEST.fullmatch(digits):
        return f"000b{digits}" if kind == "public" else f"{kind}:{digits}"
    if not digits or set(digits) - set("0123456789abcdef"):
        raise ValueError("it is no number in hex")
    hint = "; a SHA-1 is not accepted" if len(digits) == 40 else ""
    hint = "; only EKs of the type RSA 2048 are allowed by name" if digits.startswith("000c") else hint
    raise ValueError(f"it has {len(digits)} digits: a SHA-256 has 64, an EK name 68 (000b and a SHA-256){hint}")
