"""Use cases: generations of CAs ("authorities"), their states, and their keys in this process.

The database is the source of the states. A process keeps the hierarchy that it read last, and reads again when the
counter `authorities` has changed. Rule: If the key of the active authority is not open in this process, the process
cannot issue; it does not use another authority instead.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.audit import SYSTEM, AuditEntries
from cloud.breakwater.dates import ca_fault
from cloud.breakwater.errors import AuthorityNotCurrent, SignerError, SignerUnavailable, ValueRefused
from cloud.breakwater.hierarchy import TRUSTED, Hierarchy, hierarchy_of, parse_ca, root_of
from cloud.breakwater.keys.signer import Keys, Signer, issuer_of
from cloud.breakwater.pkix.profiles import CaName, Issuer
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.authorities import AuthorityRow, AuthorityState, AuthorityStore, CrossRow
from cloud.crypto.issued import is_issued_by
from cloud.mtls.peer import PeerTrust
from protocol.faults import fault_point

log = logging.getLogger("cascade.breakwater")

SIGNING: tuple[AuthorityState, ...] = (*TRUSTED, "tainted")
"""States in which an authority's key is opened. A tainted authority still signs its CRLs."""
ADOPTED: tuple[tuple[CaName, str, str], ...] = (
    ("root", "root.pem", ""),
    ("nodes", "nodes-ca.pem", "nodes-ca.key.pem"),
    ("services", "services-ca.pem", "services-ca.key.pem"),
)
"""The files of the first generation: class, certificate file in `certs/`, key file in `keys/`."""
KEY_RETRY_SECONDS = 5.0
"""Pause before a key that could not be opened is tried again. A try with a file costs tenths of a second of CPU."""
_ID = re.compile(r"(root|nodes|services)-([1-9][0-9]{0,8})")

Changed = Callable[["Authorities"], None]


class Authorities:
    """The authorities as one process knows them, and the operators' changes to them. `load_authorities` makes it."""

    def __init__(
        self,
        store: AuthorityStore,
        hierarchy: Hierarchy,
        keys: Keys,
        signer: Signer,
        trust_domain: str,
        now: Callable[[], datetime],
        entries: AuditEntries[AuditRow],
    ) -> None:
        self._store = store
        self._hierarchy = hierarchy
        self._keys = keys
        self._signer = signer
        self._trust_domain = trust_domain
        self._now = now
        self._entries = entries
        self._lock = asyncio.Lock()
        self._changed: list[Changed] = []
        self._retry_at = 0.0

    def on_change(self, hook: Changed) -> None:
        """Call `hook` after every change of the hierarchy."""
        self._changed.append(hook)

    async def refresh(self) -> bool:
        """Read the authorities if they changed, and try to open missing keys. Return whether they changed.

        Raises StorageError.
        """
        if await self._store.revision() == self._hierarchy.revision:
            if asyncio.get_running_loop().time() >= self._retry_at:
                await self.open_keys()
            return False
        async with self._lock:
            fresh = await _read(self._store, self._trust_domain, self._hierarchy)
            await self._open_keys(fresh)
            self._hierarchy = fresh
        for hook in self._changed:
            hook(self)
        return True

    async def open_keys(self) -> None:
        """Open the missing keys of authorities in the states `SIGNING`, and close the keys of the others.

        A failure is logged. `refresh` tries again after `KEY_RETRY_SECONDS`.
        """
        await self._open_keys(self._hierarchy)

    async def _open_keys(self, hierarchy: Hierarchy) -> None:
        self._retry_at = asyncio.get_running_loop().time() + KEY_RETRY_SECONDS
        for row in hierarchy.rows:
            if row.state not in SIGNING:
                self._signer.remove(row.id)
        wanted = [row for row in hierarchy.rows if row.state in SIGNING and row.key and not self._signer.holds(row.id)]
        await asyncio.gather(*(self._open_key(row, hierarchy.issuers[row.id]) for row in wanted))

    async def _open_key(self, row: AuthorityRow, issuer: Issuer) -> None:
        try:
            self._signer.add(issuer, await self._keys.open(row.key))
        except SignerError as error:
            log.error("cannot open the key of an authority", extra={"authority": row.id, "error": str(error)})

    def active(self, ca: CaName) -> Issuer:
        """Return the active authority of a class.

        Raises:
            SignerError: no authority of the class is active.
            SignerUnavailable: its key is not open in this process.
            AuthorityNotCurrent: its certificate has expired, or begins in the future.
        """
        issuer = self._hierarchy.active.get(ca)
        if issuer is None:
            raise SignerError(f"cannot issue: no {ca} CA is active")
        if not self._signer.holds(issuer.authority):
            raise SignerUnavailable(f"cannot issue: the key of {issuer.authority} is not available")
        fault = ca_fault(issuer, self._now())
        if fault is not None:
            raise AuthorityNotCurrent(
                f"cannot issue: the certificate of {issuer.authority} {fault.fault}", fault.next_step
            )
        return issuer

    def can_sign(self, authority: str) -> bool:
        """Whether the key of an authority is open in this process."""
        return self._signer.holds(authority)

    def find(self, authority: str) -> Issuer | None:
        """Return the authority with this id, in any state; None if there is none."""
        return self._hierarchy.issuers.get(authority)

    def rows(self) -> tuple[AuthorityRow, ...]:
        """Return every authority, ordered by class and number."""
        return self._hierarchy.rows

    def crosses(self) -> tuple[CrossRow, ...]:
        """Return every cross-certificate."""
        return self._hierarchy.crosses

    def peer_trust(self) -> PeerTrust:
        """Return the CAs whose certificates peers may use. The object stays the same while nothing changes."""
        return self._hierarchy.trust

    def chain_above(self, issuer: Issuer) -> tuple[bytes, ...]:
        """Return the chain above this issuer's certificates (DER): the issuer, then its root's cross-certificates."""
        return self._hierarchy.above[issuer.authority]

    def ca_certificates(self) -> tuple[bytes, ...]:
        """Return all trusted CA certificates (DER): roots, issuing CAs, cross-certificates."""
        return self._hierarchy.trusted

    def next_id(self, ca: CaName) -> str:
        """Return the id for the next generation of a class."""
        return f"{ca}-{max((row.number for row in self.rows() if row.ca == ca), default=0) + 1}"

    async def import_prepared(self, caller: str, authority: str, certificate: bytes, key: str = "") -> bool:
        """Add a CA certificate (DER) as a prepared authority. Return False if it was added before.

        `key` is the reference of its key; it is empty for a root, whose key is offline.

        Raises:
            ValueRefused: the id is invalid, no known root signed the certificate, or its name or key was used before.
            SignerError: the key cannot be opened or does not belong to the certificate.
            Conflict: the id belongs to another certificate.
        """
        match = _ID.fullmatch(authority)
        if match is None:
            raise ValueRefused("the id of an authority is root-N, nodes-N or services-N")
        ca: CaName = match[1]  # type: ignore[assignment]  # the pattern admits nothing else
        if (ca == "root") == bool(key):
            raise ValueRefused("an issuing CA needs a key on this host, and a root must have none here")
        issuer = issuer_of(ca, authority, parse_ca(certificate))
        row = AuthorityRow(authority, ca, int(match[2]), "prepared", certificate, key, self._now())
        self._require_new(row, issuer)
        if key:
            Signer().add(issuer, await self._keys.open(key))
        with fault_point("breakwater.authority.prepare"):
            added = await self._store.prepare(row, self._entries.make(caller, "authority.prepare", authority))
        await self.refresh()
        return added

    def _require_new(self, row: AuthorityRow, issuer: Issuer) -> None:
        others = [each for each in self.rows() if each.id != row.id]
        for other in others:
            known = self._hierarchy.issuers[other.id]
            if known.subject == issuer.subject or known.key_id == issuer.key_id:
                raise ValueRefused(f"{other.id} has the same name or key; each generation needs its own")
        below = (row, *(each for each in others if each.ca == "root"))
        if root_of(row, [each for each in below if each.ca == "root"]) is None:
            raise ValueRefused("the certificate was not signed by a root of this installation")

    async def import_cross(self, caller: str, certificate: bytes) -> bool:
        """Add a cross-certificate (DER) between two roots. Return False if these roots already have one.

        Raises:
            ValueRefused: it is not a cross-certificate between two known roots.
        """
        parsed = parse_ca(certificate)
        roots = [row for row in self.rows() if row.ca == "root"]
        subject = next((row.id for row in roots if _same_identity(parse_ca(row.certificate), parsed)), "")
        issuer = next((row.id for row in roots if is_issued_by(parsed, parse_ca(row.certificate))), "")
        if not subject or not issuer or subject == issuer:
            raise ValueRefused("not a cross-certificate between two roots of this installation")
        entry = self._entries.make(caller, "authority.cross", subject, detail=f"signed by {issuer}")
        with fault_point("breakwater.authority.cross"):
            added = await self._store.add_cross(CrossRow(subject, issuer, certificate), entry)
        await self.refresh()
        return added

    async def activate(self, caller: str, authority: str, reason: str = "") -> bool:
        """Make an authority the active one of its class. The active one before becomes old.

        Returns False if it was active already.

        Raises:
            Conflict: the authority's state does not allow this.
            SignerError: its key is not open in this process.
            ValueRefused: its certificate has expired, or begins in the future.
        """
        row = next((each for each in self.rows() if each.id == authority), None)
        if row is not None and row.ca != "root" and not self._signer.holds(authority):
            raise SignerError(f"cannot activate {authority}: its key is not available")
        fault = None if row is None else ca_fault(self._hierarchy.issuers[row.id], self._now())
        if fault is not None and row is not None and row.state != "active":
            raise ValueRefused(f"the certificate of {authority} {fault.fault}. {fault.next_step}")
        return await self._move(caller, authority, "active", reason, "authority.activate")

    async def taint(self, caller: str, authority: str, reason: str) -> bool:
        """End the trust in an old authority. It still signs its CRLs. Returns False if it was tainted already.

        Raises ValueRefused without a reason, Conflict if the authority's state does not allow this.
        """
        return await self._move(caller, authority, "tainted", _require_reason(reason), "authority.taint")

    async def revoke(self, caller: str, authority: str, reason: str) -> bool:
        """End an authority. It signs nothing any more. Returns False and raises errors as `taint` does."""
        return await self._move(caller, authority, "revoked", _require_reason(reason), "authority.revoke")

    async def _move(self, caller: str, authority: str, state: AuthorityState, reason: str, action: str) -> bool:
        with fault_point("breakwater.authority.move"):
            moved = await self._store.move(
                authority, state, reason, self._entries.make(caller, action, authority, detail=reason)
            )
        await self.refresh()
        return moved


def _require_reason(reason: str) -> str:
    if not reason.strip():
        raise ValueRefused("a reason is required; it is stored in the audit")
    return reason


def _same_identity(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.subject == other.subject and one.public_key() == other.public_key() and one != other


async def load_authorities(
    store: AuthorityStore,
    keys: Keys,
    signer: Signer,
    trust_domain: str,
    now: Callable[[], datetime],
    entries: AuditEntries[AuditRow],
    adopt_from: Path | None = None,
) -> Authorities:
    """Read the authorities and open their keys. If there are none, add those from the files in `adopt_from`/certs.

    Raises:
        SignerError: there is no root, or no root signed a CA certificate.
        StorageError: the database cannot be used.
    """
    await store.make_counter()
    if adopt_from is not None and not await store.rows():
        rows = _adopted(adopt_from, now())
        with fault_point("breakwater.authority.adopt"):
            await store.adopt(rows, [entries.make(SYSTEM, "authority.adopt", row.id) for row in rows])
    authorities = Authorities(store, await _read(store, trust_domain), keys, signer, trust_domain, now, entries)
    await authorities.open_keys()
    return authorities


async def _read(store: AuthorityStore, trust_domain: str, before: Hierarchy | None = None) -> Hierarchy:
    """Read the hierarchy. The revision is read first, so a change during the reads causes another read later."""
    revision = await store.revision()
    return hierarchy_of(revision, await store.rows(), await store.crosses(), trust_domain, before)


def _adopted(directory: Path, now: datetime) -> list[AuthorityRow]:
    rows = []
    for ca, file, key in ADOPTED:
        path = directory / "certs" / file
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SignerError(f"cannot read the CA certificate {path}: {error}") from error
        der = certificate.public_bytes(serialization.Encoding.DER)
        rows.append(AuthorityRow(f"{ca}-1", ca, 1, "active", der, f"file:{key}" if key else "", now))
    return rows
