"""Use case: import and publish the CRLs of roots. A ceremony signs them, because the root's key is offline.

Rules: A CRL is published only if a root of this installation signed it, it is valid now, and its number is higher than
the last one's. It was signed no earlier than the last one, and contains every certificate that the last one contained,
because a root's revocations are permanent. The comparisons with the last CRL run in the transaction of the import.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.audit import AuditEntries
from cloud.breakwater.errors import Conflict, ValueRefused
from cloud.breakwater.revocation.crl_shards import root_crl_path
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.root_crls import RootCrlRow, RootCrlStore
from protocol.limits import CLOCK_SKEW

ROOT_CRL_LIFE = timedelta(days=400)
"""How long the first CRL of a root is valid. A new one is signed once a year, so 35 days are left for delays."""
ROOT_CRL_SOON = timedelta(days=60)
"""Warn this long before a root's CRL ends. A ceremony needs people and a date."""
READABLE = ("prepared", "active", "old", "tainted")
"""States of a root whose CRL has to be current. A revoked root signs nothing any more."""

Found = tuple[str, str, str, bool]
"""The name of the check, the object, the fault, and whether it is only a warning."""


class Rows(Protocol):
    """Port: the authorities. `cloud.breakwater.authorities.Authorities` is the adapter."""

    def rows(self) -> Sequence[AuthorityRow]: ...


class RootCrls:
    """The roots' CRLs of one issuer."""

    def __init__(
        self,
        store: RootCrlStore,
        authorities: Rows,
        entries: AuditEntries[AuditRow],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._entries = entries
        self._now = now

    async def newest(self, authority: str) -> RootCrlRow | None:
        """Return the published CRL of a root; None if there is none. Raises StorageError."""
        return await self._store.newest(authority)

    async def current(self) -> dict[str, RootCrlRow]:
        """Return the published CRL of each root that has one, by the root's id. Raises StorageError."""
        ids = [row.id for row in self._authorities.rows() if row.ca == "root" and row.state in READABLE]
        found = {authority: await self._store.newest(authority) for authority in ids}
        return {authority: row for authority, row in found.items() if row is not None}

    async def faults(self) -> list[Found]:
        """Check the published CRL of each root. Raises StorageError."""
        return faults(self._authorities.rows(), (await self.current()).values(), self._now())

    async def import_crl(self, caller: str, content: bytes) -> tuple[RootCrlRow, bool]:
        """Publish a CRL (PEM or DER). Return it, and False if it was published before.

        Raises:
            ValueRefused: no root of this installation signed it, it is not valid now, it lacks a revoked certificate, or
                it was signed before the published CRL.
            Conflict: a CRL with this number or a higher one is published.
        """
        crl = _parse(content)
        roots = [row for row in self._authorities.rows() if row.ca == "root" and is_signed_by(crl, row)]
        if not roots:
            raise ValueRefused("no root of this installation signed this CRL")
        row = _row_of(crl, roots[0].id)
        now = self._now()
        if not row.this_update - CLOCK_SKEW <= now < row.next_update:
            raise ValueRefused(f"the CRL is valid from {row.this_update} to {row.next_update}, and not now")
        before = await self._store.newest(row.authority)
        if before is not None and before.data == row.data:
            return before, False
        serials = serials_of(row.data)

        def check(published: RootCrlRow) -> None:
            if forgotten := serials_of(published.data) - serials:
                raise ValueRefused(f"the CRL lacks the serial {min(forgotten):x}, which the published one contains")
            if row.this_update < published.this_update:
                raise ValueRefused(f"the CRL is of {row.this_update}, the published one of {published.this_update}")

        detail = f"number {row.number}, {row.entries} entries"
        entry = self._entries.make(caller, "authority.crl", row.authority, detail=detail)
        if not await self._store.add(row, entry, check):
            raise Conflict(f"the published CRL of {row.authority} has this number or a higher one")
        return row, True


def is_signed_by(crl: x509.CertificateRevocationList, root: AuthorityRow) -> bool:
    """Whether a root issued and signed a CRL."""
    try:
        certificate = x509.load_der_x509_certificate(root.certificate)
        key = certificate.public_key()
    except ValueError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.subject != crl.issuer:
        return False
    return crl.is_signature_valid(key)


def serials_of(der: bytes) -> set[int]:
    """Return the serials of the revoked certificates in a CRL (DER)."""
    return {entry.serial_number for entry in x509.load_der_x509_crl(der)}


def faults(rows: Sequence[AuthorityRow], crls: Iterable[RootCrlRow], now: datetime) -> list[Found]:
    """Check the published CRL of each root that is not revoked, against the CA certificates below the root."""
    published = {crl.authority: crl for crl in crls}
    found: list[Found] = []
    for root in rows:
        if root.ca != "root" or root.state not in READABLE:
            continue
        named = [row for row in rows if names_crl_of(row, root.id)]
        crl = published.get(root.id)
        if crl is None:
            if named:
                names = ", ".join(row.id for row in named)
                found.append(("crl.root_missing", root.id, f"{names} name its CRL, and none is published", False))
            continue
        found += _faults_of(root, crl, named, now)
    return found


def _faults_of(root: AuthorityRow, crl: RootCrlRow, named: list[AuthorityRow], now: datetime) -> list[Found]:
    try:
        parsed = x509.load_der_x509_crl(crl.data)
    except ValueError as error:
        return [("crl.unreadable", root.id, str(error), False)]
    found: list[Found] = []
    if not is_signed_by(parsed, root):
        found.append(("crl.signature", root.id, f"not signed by {root.id}", False))
    if _row_of(parsed, root.id) != crl:
        found.append(("crl.number", root.id, "number, dates or entries of the CRL differ from its row", False))
    if crl.next_update <= now:
        found.append(("crl.stale", root.id, f"its next update was due at {crl.next_update}", False))
    elif crl.next_update - now < ROOT_CRL_SOON:
        found.append(("crl.root_expiring", root.id, f"ends {crl.next_update}; hold a ceremony of type `crl`", True))
    listed = {entry.serial_number for entry in parsed}
    for row in named:
        serial = x509.load_der_x509_certificate(row.certificate).serial_number
        if row.state in ("tainted", "revoked") and serial not in listed:
            text = f"is {row.state}, but the CRL of {root.id} does not contain it; hold a ceremony of type `crl`"
            found.append(("crl.root_omits", row.id, text, True))
    return found


def names_crl_of(row: AuthorityRow, root: str) -> bool:
    """Whether the certificate of an authority contains the address of the root's CRL."""
    try:
        extensions = x509.load_der_x509_certificate(row.certificate).extensions
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    urls = [str(name.value) for point in points for name in point.full_name or ()]
    return any(url.endswith(root_crl_path(root)) for url in urls)


def _parse(content: bytes) -> x509.CertificateRevocationList:
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_crl(content)
        return x509.load_der_x509_crl(content)
    except ValueError as error:
        raise ValueRefused("not a CRL in PEM or DER") from error


def _row_of(crl: x509.CertificateRevocationList, authority: str) -> RootCrlRow:
    """Raises ValueRefused when the CRL has no number, no end, or a limited scope (RFC 5280 section 5.2)."""
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ValueRefused("the CRL has no number") from error
    if crl.next_update_utc is None or any(extension.critical for extension in crl.extensions):
        raise ValueRefused("the CRL has no end, or does not cover all certificates of the root")
    der = crl.public_bytes(Encoding.DER)
    return RootCrlRow(authority, number, crl.last_update_utc, crl.next_update_utc, len(crl), der)
