"""Pure functions: find a path from an EK certificate to a root that a tenant trusts (RFC 5280, 6.1).

A path consists of the tenant's certificates and of those that the node sent from the NV memory of its TPM. Only a
tenant's root ends a path. The caller of an activation can send anything, so the search has bounds: length of a path,
certificates that were sent, signatures that are checked.

Dates: the chip's certificate is never renewed, and makers' CA certificates end before those of their chips. So an
issuer must have begun, and must not have ended when it issued the certificate below it (docs/adr/0013).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from cloud.fabric.attestation.ek_roots import TrustedRoot, TrustError, read_ca, read_new_ca
from protocol.limits import EK_CHAIN_CERTIFICATES_MAX
from protocol.maker_certificates import MakerCertificate, Name, SignatureUnverified, verify_signature

INTERMEDIATES_MAX = 7
"""Most certificates between leaf and root. Intel's on-die CAs need five, other makers none to two."""
SIGNATURES_MAX = 32
"""Most signatures that one search checks. A path needs one for each of its certificates; namesakes need more."""


class NoPath(Exception):
    """No path to a root of the tenant verifies. `issuer_known` says whether the leaf's issuer is there at all."""

    def __init__(self, reason: str, *, issuer_known: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.issuer_known = issuer_known


def roots_above(
    leaf: MakerCertificate, roots: Sequence[TrustedRoot], sent: Sequence[bytes], now: datetime
) -> Iterator[TrustedRoot]:
    """Yield each root to which a path from `leaf` verifies. `sent` (DER) is not trusted. `now` is aware UTC.

    Raises NoPath after the last root, also if it has yielded roots before.
    """
    search = _Search(roots, sent, now)
    yield from search.above(leaf, ())
    raise NoPath(search.fault, issuer_known=search.has_issuer(leaf))


class _Search:
    """One search. `fault` is the first reason why a certificate did not continue a path."""

    def __init__(self, roots: Sequence[TrustedRoot], sent: Sequence[bytes], now: datetime) -> None:
        self._now = now
        self._signatures_left = SIGNATURES_MAX
        self._roots: dict[Name, list[tuple[MakerCertificate, TrustedRoot]]] = defaultdict(list)
        self._others: dict[Name, list[MakerCertificate]] = defaultdict(list)
        self.fault = "the root of its maker is not among the tenant's roots"
        self._faulty = False
        for root in roots:
            certificate = read_ca(root.certificate)
            self._roots[certificate.subject].append((certificate, root))
        stored = {der: None for root in roots for der in root.intermediates}
        for der in (*stored, *sent[:EK_CHAIN_CERTIFICATES_MAX]):
            try:
                # A certificate that was sent is not remembered, so that a caller cannot fill the memory.
                certificate = read_ca(der) if der in stored else read_new_ca(der)
            except TrustError:
                continue
            self._others[certificate.subject].append(certificate)

    def has_issuer(self, certificate: MakerCertificate) -> bool:
        return certificate.issuer in self._roots or certificate.issuer in self._others

    def above(self, certificate: MakerCertificate, below: tuple[MakerCertificate, ...]) -> Iterator[TrustedRoot]:
        """The roots above a certificate. `below` are the CA certificates of the path so far, from the leaf upwards."""
        for issuer, root in self._roots.get(certificate.issuer, ()):
            if self._issued(certificate, issuer, below):
                yield root
        if len(below) == INTERMEDIATES_MAX:
            self._note(f"a path has more than {INTERMEDIATES_MAX} certificates between chip and root")
            return
        for issuer in sorted(self._others.get(certificate.issuer, ()), key=lambda each: _unlikely(certificate, each)):
            if issuer not in below and self._issued(certificate, issuer, below):
                yield from self.above(issuer, (*below, issuer))

    def _issued(
        self, certificate: MakerCertificate, issuer: MakerCertificate, below: tuple[MakerCertificate, ...]
    ) -> bool:
        """Whether `issuer` may have issued `certificate` and has signed it."""
        counted = sum(not each.self_issued for each in below)
        if issuer.path_length is not None and counted > issuer.path_length:
            return self._note(f"{issuer.subject_text} may have only {issuer.path_length} CAs below it")
        if issuer.begins > self._now:
            return self._note(f"{issuer.subject_text} begins on {issuer.begins:%Y-%m-%d}")
        if issuer.ends < certificate.begins:
            return self._note(
                f"{issuer.subject_text} ended on {issuer.ends:%Y-%m-%d}, before it issued this certificate"
            )
        if not self._signatures_left:
            return self._note(f"more than {SIGNATURES_MAX} signatures would have to be checked")
        self._signatures_left -= 1
        try:
            verify_signature(certificate, issuer.key)
        except SignatureUnverified as error:
            what = "the endorsement certificate" if not below else certificate.subject_text
            return self._note(f"{what}: {error}")
        return True

    def _note(self, fault: str) -> bool:
        if not self._faulty:
            self.fault, self._faulty = fault, True
        return False


def _unlikely(certificate: MakerCertificate, issuer: MakerCertificate) -> bool:
    """Whether the key ids say that `issuer` is a namesake of the real issuer. It is tried last, as ids can be wrong."""
    known = certificate.authority_key_id
    return known is not None and issuer.subject_key_id is not None and known != issuer.subject_key_id
