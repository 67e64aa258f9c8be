"""Pure: to-be-signed bytes that passed every rule, good for one signature. The signer accepts nothing else.

Rule: only the two modules that hold the rules (`lint.py` for certificates, `crl.py` for revocation lists) make a
`Linted`, by `passed`; a test reads every module for it.
"""

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.profiles import Issuer
from cloud.crypto.der import bit_string, oid, sequence

_SEAL = object()


class Linted:
    """To-be-signed bytes that passed every rule, good for one signature by the issuer they name."""

    __slots__ = ("_redeemed", "issuer", "tbs")

    def __init__(self, tbs: bytes, issuer: Issuer, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only a clean lint makes a Linted")
        self.tbs = tbs
        self.issuer = issuer
        self._redeemed = False

    def redeem(self) -> bytes:
        """The bytes, once. Raises LintError the second time: a record is signed once or never."""
        if self._redeemed:
            raise LintError("redeemed", "these bytes were signed already")
        self._redeemed = True
        return self.tbs


def passed(tbs: bytes, issuer: Issuer) -> Linted:
    """For `lint` and `lint_crl` alone, as their last line: every rule holds."""
    return Linted(tbs, issuer, _SEAL)


_ECDSA_SHA256 = sequence(oid("1.2.840.10045.4.3.2"))
_ECDSA_SHA384 = sequence(oid("1.2.840.10045.4.3.3"))


def algorithm_der(curve: str) -> bytes:
    """The AlgorithmIdentifier that a CA on this curve signs with (RFC 5758 section 3.2)."""
    return _ECDSA_SHA384 if curve == "secp384r1" else _ECDSA_SHA256


def assemble(tbs: bytes, curve: str, signature: bytes) -> bytes:
    """A Certificate or CertificateList (RFC 5280 section 4.1.1, 5.1.1) of these very bytes and an ECDSA signature.

    Done by hand because no library signs bytes that were recorded before: it would build them again.
    """
    return sequence(tbs, algorithm_der(curve), bit_string(signature))
