"""Values: `Linted`, to-be-signed bytes that passed every lint rule. The signer accepts only a `Linted`.

Rule: Only `lint.py` (certificates) and `crl.py` (revocation lists) call `passed` and so make a `Linted`. A test
searches every module for other callers.
"""

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.profiles import Issuer
from cloud.crypto.der import bit_string, oid, sequence

_SEAL = object()


class Linted:
    """To-be-signed bytes (DER) that passed every rule, and the issuer that may sign them once."""

    __slots__ = ("_redeemed", "issuer", "tbs")

    def __init__(self, tbs: bytes, issuer: Issuer, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only the lint makes a Linted")
        self.tbs = tbs
        self.issuer = issuer
        self._redeemed = False

    def redeem(self) -> bytes:
        """Return the bytes. Raises LintError at the second call, because a record is signed at most once."""
        if self._redeemed:
            raise LintError("redeemed", "these bytes were already passed to the signer")
        self._redeemed = True
        return self.tbs


def passed(tbs: bytes, issuer: Issuer) -> Linted:
    """Make a `Linted`. Only `lint`, `lint_crl` call this, after every rule has passed."""
    return Linted(tbs, issuer, _SEAL)


_ECDSA_SHA256 = sequence(oid("1.2.840.10045.4.3.2"))
_ECDSA_SHA384 = sequence(oid("1.2.840.10045.4.3.3"))


def algorithm_der(curve: str) -> bytes:
    """Return the AlgorithmIdentifier (DER) of a CA's signatures: ECDSA with the curve's hash (RFC 5758 section 3.2)."""
    return _ECDSA_SHA384 if curve == "secp384r1" else _ECDSA_SHA256


def assemble(tbs: bytes, curve: str, signature: bytes) -> bytes:
    """Return a Certificate or CertificateList in DER (RFC 5280 sections 4.1.1 and 5.1.1).

    `tbs` are the to-be-signed bytes and appear unchanged; `signature` is an ECDSA signature in DER. We encode this
    ourselves because the library cannot take recorded bytes: it would build new ones.
    """
    return sequence(tbs, algorithm_der(curve), bit_string(signature))
