"""Pure functions: derive the CA hierarchy from the rows: active CAs, trusted CAs, and the certificates of each chain.

Rule: Only the state of an authority decides whether it is trusted. The dates of its certificate do not.
"""

from collections.abc import Sequence

import msgspec
from cryptography import x509

from cloud.breakwater.errors import SignerError
from cloud.breakwater.keys.signer import issuer_of
from cloud.breakwater.pkix.profiles import CaName, Issuer
from cloud.breakwater.store.authorities import AuthorityRow, AuthorityState, CrossRow
from cloud.crypto.issued import is_issued_by
from cloud.mtls.peer import PeerTrust

TRUSTED: tuple[AuthorityState, ...] = ("prepared", "active", "old")
"""States in which an authority's certificates are trusted. A prepared authority is trusted before its activation, so
that a replica that has not noticed the activation accepts its first certificates."""


class Hierarchy(msgspec.Struct, frozen=True):
    """The hierarchy at one revision of the rows.

    `above` has, for each authority, the rest of the chain of its certificates: its own certificate (DER), then its
    root's cross-certificates. `trusted` are all trusted CA certificates (DER).
    """

    revision: int
    rows: tuple[AuthorityRow, ...]
    crosses: tuple[CrossRow, ...]
    issuers: dict[str, Issuer]
    active: dict[CaName, Issuer]
    above: dict[str, tuple[bytes, ...]]
    trust: PeerTrust
    trusted: tuple[bytes, ...]


def hierarchy_of(
    revision: int,
    rows: tuple[AuthorityRow, ...],
    crosses: tuple[CrossRow, ...],
    trust_domain: str,
    before: Hierarchy | None = None,
) -> Hierarchy:
    """Derive the hierarchy of these rows. Issuers and an unchanged trust are the same objects as in `before`.

    Raises:
        SignerError: there is no root, or no root signed a CA certificate.
    """
    roots = [row for row in rows if row.ca == "root"]
    if not roots:
        raise SignerError("cannot use this database: it has no root CA; `cascade init` makes one")
    parsed = {row.id: parse_ca(row.certificate) for row in rows}
    known = {} if before is None else before.issuers
    issuers = {row.id: known.get(row.id) or issuer_of(row.ca, row.id, parsed[row.id]) for row in rows}
    above: dict[str, tuple[bytes, ...]] = {}
    for row in rows:
        root = root_of(row, roots)
        if root is None:
            raise SignerError(f"cannot use the CA certificate of {row.id}: no root of this installation signed it")
        bridges = tuple(each.certificate for each in crosses if each.subject == root.id)
        above[row.id] = (row.certificate, *bridges)
    trusted = [row for row in rows if row.state in TRUSTED]
    trust = PeerTrust(
        trust_domain,
        tuple(parsed[row.id] for row in trusted if row.ca == "nodes"),
        tuple(parsed[row.id] for row in trusted if row.ca == "services"),
        tuple(parsed[row.id] for row in trusted if row.ca == "root"),
    )
    states = {row.id: row.state for row in rows}
    bridges = tuple(each.certificate for each in crosses if states.get(each.issuer) in TRUSTED)
    return Hierarchy(
        revision=revision,
        rows=rows,
        crosses=crosses,
        issuers=issuers,
        active={row.ca: issuers[row.id] for row in rows if row.state == "active"},
        above=above,
        trust=before.trust if before is not None and before.trust == trust else trust,
        trusted=(*(row.certificate for row in trusted), *bridges),
    )


def root_of(row: AuthorityRow, roots: Sequence[AuthorityRow]) -> AuthorityRow | None:
    """Return the first of `roots` that signed the authority's certificate; None if none did. Raises SignerError."""
    certificate = parse_ca(row.certificate)
    return next((root for root in roots if is_issued_by(certificate, parse_ca(root.certificate))), None)


def parse_ca(der: bytes) -> x509.Certificate:
    """Parse a certificate in DER. Raises SignerError."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise SignerError("not a certificate in DER") from error
