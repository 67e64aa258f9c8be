"""The authorities of this issuer as one process sees them: who issues, who is believed, what stands above whom.

The table is the truth; this is a picture of it, taken anew when the counter `authorities` has moved. It knows no
profile and signs nothing. Rules: an authority whose key is not at hand here issues nothing here, and no other one
issues in its place; only a state says who is believed, never the age of a certificate.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.audit import SYSTEM, AuditEntries
from cloud.breakwater.errors import SignerError, SignerUnavailable, ValueRefused
from cloud.breakwater.keys.signer import Keys, Signer, issuer_of
from cloud.breakwater.pkix.profiles import CaName, Issuer
from cloud.breakwater.store import AuditRow, AuthorityRow, AuthorityState, AuthorityStore, CrossRow
from cloud.crypto.issued import is_issued_by
from cloud.mtls.peer import PeerTrust
from protocol.faults import fault_point

log = logging.getLogger("cascade.breakwater")

BELIEVED: tuple[AuthorityState, ...] = ("prepared", "active", "old")
"""Whose certificates are believed. Of a prepared authority there are none yet, so that it may be believed early: when it
is activated, a replica that has not looked yet must not refuse the first of them."""
SIGNING: tuple[AuthorityState, ...] = (*BELIEVED, "tainted")
"""Whose keys are opened: a tainted authority still says what is revoked."""
ADOPTED: tuple[tuple[CaName, str, str], ...] = (
    ("root", "root.pem", ""),
    ("nodes", "nodes-ca.pem", "nodes-ca.key.pem"),
    ("services", "services-ca.pem", "services-ca.key.pem"),
)
"""The files of a first generation: class, certificate in `certs/`, key in `keys/`."""
KEY_RETRY_SECONDS = 5.0
"""A key that is not at hand is asked for again this often: deriving a file's key takes a tenth of a second of CPU."""
_ID = re.compile(r"(root|nodes|services)-([1-9][0-9]{0,8})")

Changed = Callable[["Authorities"], None]


class _Picture(msgspec.Struct, frozen=True):
    """What was last read."""

    revision: int
    rows: tuple[AuthorityRow, ...]
    crosses: tuple[CrossRow, ...]
    issuers: dict[str, Issuer]
    active: dict[CaName, Issuer]
    above: dict[str, tuple[bytes, ...]]
    trust: PeerTrust
    roots_pem: bytes
    believed: tuple[bytes, ...]


class Authorities:
    """The picture, and what operators do to it. `adopt_from` has `certs/` of an installation made before the table."""

    def __init__(
        self,
        store: AuthorityStore,
        keys: Keys,
        signer: Signer,
        trust_domain: str,
        now: Callable[[], datetime],
        entries: AuditEntries[AuditRow],
        adopt_from: Path | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._signer = signer
        self._trust_domain = trust_domain
        self._now = now
        self._entries = entries
        self._adopt_from = adopt_from
        self._picture: _Picture | None = None
        self._lock = asyncio.Lock()
        self._changed: list[Changed] = []
        self._retry_at = 0.0

    async def load(self) -> None:
        """Read for the first time; an installation without rows gets those of its files.

        Raises SignerError when there is none, when one is not of a root's making, or when no root is there.
        """
        await self._store.make_counters()
        if not await self._store.rows() and self._adopt_from is not None:
            rows = _adopted(self._adopt_from, self._now())
            entries = [self._entries.make(SYSTEM, "authority.adopt", row.id) for row in rows]
            with fault_point("breakwater.authority.adopt"):
                await self._store.adopt(rows, entries)
        await self._read()

    def on_change(self, hook: Changed) -> None:
        """Call `hook` after every change of the picture."""
        self._changed.append(hook)

    async def refresh(self) -> bool:
        """Read again if something changed, and try again to open keys that are missing. True if it changed."""
        picture = self._current()
        if await self._store.revision() == picture.revision:
            if asyncio.get_running_loop().time() >= self._retry_at:
                await self._open_keys(picture.rows, picture.issuers)
            return False
        await self._read()
        return True

    async def _read(self) -> None:
        async with self._lock:
            revision = await self._store.revision()
            picture = _draw(
                revision, await self._store.rows(), await self._store.crosses(), self._trust_domain, self._picture
            )
            await self._open_keys(picture.rows, picture.issuers)
            self._picture = picture
        for hook in self._changed:
            hook(self)

    async def _open_keys(self, rows: Sequence[AuthorityRow], issuers: dict[str, Issuer]) -> None:
        self._retry_at = asyncio.get_running_loop().time() + KEY_RETRY_SECONDS
        for row in rows:
            if row.state not in SIGNING:
                self._signer.remove(row.id)
        wanted = [row for row in rows if row.state in SIGNING and row.key and not self._signer.holds(row.id)]
        await asyncio.gather(*(self._open_key(row, issuers[row.id]) for row in wanted))

    async def _open_key(self, row: AuthorityRow, issuer: Issuer) -> None:
        try:
            self._signer.add(issuer, await self._keys.open(row.key))
        except SignerError as error:
            log.error("cannot use the key of an authority", extra={"authority": row.id, "error": str(error)})

    def _current(self) -> _Picture:
        if self._picture is None:
            raise SignerError("cannot issue: the authorities were not loaded")
        return self._picture

    def active(self, ca: CaName) -> Issuer:
        """The one that issues. Raises SignerError if there is none, SignerUnavailable if its key is not at hand."""
        issuer = self._current().active.get(ca)
        if issuer is None:
            raise SignerError(f"cannot issue: no {ca} CA is active")
        if not self._signer.holds(issuer.authority):
            raise SignerUnavailable(f"cannot issue: the key of {issuer.authority} is not at hand")
        return issuer

    def find(self, authority: str) -> Issuer | None:
        """An authority in any state."""
        return self._current().issuers.get(authority)

    def rows(self) -> tuple[AuthorityRow, ...]:
        """Every authority, by class and number."""
        return self._current().rows

    def crosses(self) -> tuple[CrossRow, ...]:
        """Every cross certificate."""
        return self._current().crosses

    def peer_trust(self) -> PeerTrust:
        """Whose certificates callers may show; the same object until that changes."""
        return self._current().trust

    def roots_pem(self) -> bytes:
        """The believed roots: whom a TLS stack starts from."""
        return self._current().roots_pem

    def chain_above(self, issuer: Issuer) -> tuple[bytes, ...]:
        """What is sent after a certificate of this issuer: the issuer (DER), then what crosses its root."""
        return self._current().above[issuer.authority]

    def ca_certificates(self) -> tuple[bytes, ...]:
        """Every believed CA (DER): roots, issuing CAs, cross certificates."""
        return self._current().believed

    def next_id(self, ca: CaName) -> str:
        """The name of the next generation of a class."""
        return f"{ca}-{max((row.number for row in self.rows() if row.ca == ca), default=0) + 1}"

    async def import_prepared(self, caller: str, authority: str, certificate: bytes, key: str = "") -> bool:
        """Take in a CA certificate (DER) whose key lies under the reference `key`; a root's is empty: it is offline.

        Raises:
            ValueRefused: not an authority's id, not a CA below a root of ours, or its name or key was used before.
            SignerError: the key cannot be opened, or is not the certificate's. Conflict: another one has the id.
        """
        match = _ID.fullmatch(authority)
        if match is None:
            raise ValueRefused("an authority is called root-N, nodes-N or services-N")
        ca: CaName = match[1]  # type: ignore[assignment]  # the pattern admits nothing else
        if (ca == "root") == bool(key):
            raise ValueRefused("an issuing CA has a key here, a root has none")
        issuer = issuer_of(ca, authority, _parse(certificate))
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
            known = self._current().issuers[other.id]
            if known.subject == issuer.subject or known.key_id == issuer.key_id:
                raise ValueRefused(f"{other.id} has this name or key: each generation has its own")
        below = (row, *(each for each in others if each.ca == "root"))
        if _root_of(row, [each for each in below if each.ca == "root"]) is None:
            raise ValueRefused("the certificate was not signed by a root of this installation")

    async def import_cross(self, caller: str, certificate: bytes) -> bool:
        """Take in a root's name and key signed by another root (DER). Raises ValueRefused: these are not ours."""
        parsed = _parse(certificate)
        roots = [row for row in self.rows() if row.ca == "root"]
        subject = next((row.id for row in roots if _same_identity(_parse(row.certificate), parsed)), "")
        issuer = next((row.id for row in roots if is_issued_by(parsed, _parse(row.certificate))), "")
        if not subject or not issuer or subject == issuer:
            raise ValueRefused("not a cross certificate between two roots of this installation")
        entry = self._entries.make(caller, "authority.cross", subject, detail=f"signed by {issuer}")
        with fault_point("breakwater.authority.cross"):
            added = await self._store.add_cross(CrossRow(subject, issuer, certificate), entry)
        await self.refresh()
        return added

    async def activate(self, caller: str, authority: str, reason: str = "") -> bool:
        """Issue from this one; the active one of its class becomes old. Raises Conflict, SignerError."""
        row = next((each for each in self.rows() if each.id == authority), None)
        if row is not None and row.ca != "root" and not self._signer.holds(authority):
            raise SignerError(f"cannot activate {authority}: its key is not at hand")
        return await self._move(caller, authority, "active", reason, "authority.activate")

    async def taint(self, caller: str, authority: str, reason: str) -> bool:
        """Believe it no more; it still signs what is revoked. Raises Conflict."""
        return await self._move(caller, authority, "tainted", _given(reason), "authority.taint")

    async def revoke(self, caller: str, authority: str, reason: str) -> bool:
        """The end: it signs nothing any more. Raises Conflict."""
        return await self._move(caller, authority, "revoked", _given(reason), "authority.revoke")

    async def _move(self, caller: str, authority: str, state: AuthorityState, reason: str, action: str) -> bool:
        with fault_point("breakwater.authority.move"):
            moved = await self._store.move(
                authority, state, reason, self._entries.make(caller, action, authority, detail=reason)
            )
        await self.refresh()
        return moved


def _given(reason: str) -> str:
    if not reason.strip():
        raise ValueRefused("a reason must be given: it is kept for whoever reads the audit")
    return reason


def _draw(
    revision: int,
    rows: tuple[AuthorityRow, ...],
    crosses: tuple[CrossRow, ...],
    trust_domain: str,
    before: _Picture | None,
) -> _Picture:
    """The picture of these rows. Raises SignerError when one of them is not of a root's making."""
    roots = [row for row in rows if row.ca == "root"]
    if not roots:
        raise SignerError("there is no root CA here: this database was not made by `cascade init`")
    parsed = {row.id: _parse(row.certificate) for row in rows}
    known = {} if before is None else before.issuers
    issuers = {row.id: known.get(row.id) or issuer_of(row.ca, row.id, parsed[row.id]) for row in rows}
    above: dict[str, tuple[bytes, ...]] = {}
    for row in rows:
        root = _root_of(row, roots)
        if root is None:
            raise SignerError(f"cannot use the CA certificate of {row.id}: no root of this installation signed it")
        bridges = tuple(each.certificate for each in crosses if each.subject == root.id)
        above[row.id] = (row.certificate, *bridges)
    believed = [row for row in rows if row.state in BELIEVED]
    trust = PeerTrust(
        trust_domain,
        tuple(parsed[row.id] for row in believed if row.ca == "nodes"),
        tuple(parsed[row.id] for row in believed if row.ca == "services"),
        tuple(parsed[row.id] for row in believed if row.ca == "root"),
    )
    states = {row.id: row.state for row in rows}
    bridges = tuple(each.certificate for each in crosses if states.get(each.issuer) in BELIEVED)
    return _Picture(
        revision=revision,
        rows=rows,
        crosses=crosses,
        issuers=issuers,
        active={row.ca: issuers[row.id] for row in rows if row.state == "active"},
        above=above,
        trust=before.trust if before is not None and before.trust == trust else trust,
        roots_pem=b"".join(_pem(parsed[row.id]) for row in believed if row.ca == "root"),
        believed=(*(row.certificate for row in believed), *bridges),
    )


def _root_of(row: AuthorityRow, roots: Sequence[AuthorityRow]) -> AuthorityRow | None:
    certificate = _parse(row.certificate)
    return next((root for root in roots if is_issued_by(certificate, _parse(root.certificate))), None)


def _same_identity(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.subject == other.subject and one.public_key() == other.public_key() and one != other


def _parse(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise SignerError("not a certificate in DER") from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


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


__all__ = ["ADOPTED", "BELIEVED", "SIGNING", "Authorities", "AuthorityRow", "AuthorityState", "CrossRow"]
