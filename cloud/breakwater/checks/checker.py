"""Use case: check every CA, certificate and CRL in the database, for `cascade pki check`.

The checker reads the database of a running issuer page by page and changes nothing. A finding has the name of the
check, the object, and the fault. Rule: The checker trusts no record. Each check derives the value from the bytes of the
certificate or CRL and compares it with the record.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.checks.pkilint import all_findings, waiver_of
from cloud.breakwater.errors import LintError, SignerError
from cloud.breakwater.hierarchy import TRUSTED
from cloud.breakwater.keys.signer import issuer_of
from cloud.breakwater.pkix.lint import relint
from cloud.breakwater.pkix.profiles import Issuer
from cloud.breakwater.revocation.crl_shards import PLACES_MAX, crl_path
from cloud.breakwater.revocation.root_crls import faults as root_crl_faults
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.checker_reads import CheckedRecord, CheckerStore, ShardView
from cloud.breakwater.store.root_crls import RootCrlRow
from cloud.crypto.issued import issuer_among
from protocol.encoding import sha256_hex

FINDINGS_MAX = 1000
"""The report lists at most this many findings; it counts all of them."""
IN_FLIGHT = timedelta(seconds=60)
"""A younger record may still be waiting for its signature, and a younger revocation for the next CRL."""
AUTHORITY_SOON = timedelta(days=180)
"""Warn this long before a CA expires. A ceremony needs people and a date, and all nodes have to adopt the next CA."""
SOON = {"device": timedelta(days=20), "service": timedelta(days=2)}
"""Warn this long before an end. Devices and services renew at about half life, so their renewal has failed."""

Severity = Literal["error", "warning"]
Progress = Callable[[str, int, int], None]
"""Called with the kind of object, the number of checked objects, and the number of all objects."""


class Finding(msgspec.Struct, frozen=True):
    """A fault (`error`), or a fault that will occur soon (`warning`). `check` is the stable name of the check."""

    check: str
    object: str
    detail: str
    severity: Severity = "error"


class Report(msgspec.Struct, frozen=True):
    """The result of one run.

    `certificates` and `crls` are numbers of checked objects. pkilint also checked `pkilint_certificates` certificates.
    `counts` has the number of findings by check, and `findings` the first `FINDINGS_MAX` of them. `waived` has the
    number of waived pkilint findings by code; `cloud.breakwater.checks.pkilint.WAIVED` has the reasons.
    """

    at: datetime
    certificates: int
    crls: int
    pkilint_certificates: int
    errors: int
    warnings: int
    counts: dict[str, int]
    waived: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.counts


class Checker:
    """One run over all records. `root_crls` are the published CRLs of the roots.

    pkilint also checks `sample` certificates, which `choose` selects at random.
    """

    def __init__(
        self,
        store: CheckerStore,
        authorities: Sequence[AuthorityRow],
        clock: Callable[[], datetime],
        *,
        root_crls: Sequence[RootCrlRow] = (),
        sample: int = 0,
        choose: random.Random | None = None,
        progress: Progress = lambda _what, _done, _all: None,
    ) -> None:
        self._store = store
        self._rows = tuple(authorities)
        self._clock = clock
        self._now = clock()
        self._root_crls = tuple(root_crls)
        self._sample = sample
        # The random choice of a sample needs no cryptographic strength.
        self._choose = choose or random.Random()  # noqa: S311  (a sample)
        self._progress = progress
        self._issuers: dict[str, Issuer] = {}
        self._certificates: dict[str, x509.Certificate] = {}
        self._findings: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self._severities: Counter[Severity] = Counter()
        self._waived: Counter[str] = Counter()
        self._chosen: list[tuple[str, bytes]] = []
        self._named: dict[str, str] = {}

    async def run(self, others: Iterable[tuple[str, bytes]] = ()) -> Report:
        """Check everything and return the report.

        `others` are certificates (name, DER) from outside the database. Each must have a record.
        """
        self._authorities()
        self._check_root_crls()
        certificates = await self._records()
        crls = await self._shards()
        for name, der in others:
            await self._other(name, der)
        for done, (serial, der) in enumerate(self._chosen, 1):
            self._pkilint(serial, der)
            self._progress("pkilint", done, len(self._chosen))
        return Report(
            at=self._now,
            certificates=certificates,
            crls=crls,
            pkilint_certificates=len(self._chosen),
            errors=self._severities["error"],
            warnings=self._severities["warning"],
            counts=dict(self._counts),
            waived=dict(self._waived),
            findings=tuple(self._findings),
        )

    def _find(self, check: str, name: str, detail: str, severity: Severity = "error") -> None:
        self._counts[check] += 1
        self._severities[severity] += 1
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(check, name, detail, severity))

    def _pkilint(self, serial: str, der: bytes) -> None:
        for finding in all_findings(der, "certificate"):
            waiver = waiver_of(finding)
            if waiver is None:
                self._find("pkilint", serial, str(finding))
            else:
                self._waived[waiver.code] += 1

    # Authorities

    def _authorities(self) -> None:
        for row in self._rows:
            try:
                certificate = x509.load_der_x509_certificate(row.certificate)
                self._issuers[row.id] = issuer_of(row.ca, row.id, certificate)
            except (ValueError, SignerError) as error:
                self._find("authority.unreadable", row.id, str(error))
                continue
            self._certificates[row.id] = certificate
            if row.state in TRUSTED and self._now < certificate.not_valid_before_utc:
                self._find("authority.future", row.id, f"begins {certificate.not_valid_before_utc}")
            if row.state in ("active", "old") and certificate.not_valid_after_utc - self._now < AUTHORITY_SOON:
                self._find("authority.expiring", row.id, f"ends {certificate.not_valid_after_utc}", "warning")
        roots = [self._certificates[row.id] for row in self._rows if row.ca == "root" and row.id in self._certificates]
        for row in self._rows:
            known = self._certificates.get(row.id)
            if known is not None and issuer_among(known, roots) is None:
                self._find("authority.chain", row.id, "not signed by a root on record")
        active = Counter(row.ca for row in self._rows if row.state == "active")
        for ca in ("nodes", "services"):
            if active[ca] != 1:
                self._find(
                    "authority.active", ca, f"{active[ca]} authorities of this class are active; there must be one"
                )
        for name, certificates in (
            ("subject", [certificate.subject.rfc4514_string() for certificate in self._certificates.values()]),
            ("key id", [issuer.key_id.hex() for issuer in self._issuers.values()]),
        ):
            for value, count in Counter(certificates).items():
                if count > 1:
                    self._find("authority.distinct", value, f"{count} authorities have this {name}")

    def _check_root_crls(self) -> None:
        for check, name, detail, only_warns in root_crl_faults(self._rows, self._root_crls, self._now):
            self._find(check, name, detail, "warning" if only_warns else "error")

    # Certificates

    async def _records(self) -> int:
        seen, total, after = 0, await self._store.count(), ""
        while page := await self._store.records(after):
            # The issuer may be running. Without a new time, its newest certificates would begin in the future.
            self._now = self._clock()
            for record in page:
                seen += 1
                self._record(record)
                self._consider(record, seen)
            after = page[-1].serial
            self._progress("certificates", seen, max(total, seen))
        return seen

    def _consider(self, record: CheckedRecord, seen: int) -> None:
        """Keep a fair sample by reservoir sampling: each certificate has the same chance."""
        if record.certificate is None or not self._sample:
            return
        if len(self._chosen) < self._sample:
            self._chosen.append((record.serial, record.certificate))
        elif (place := self._choose.randrange(seen)) < self._sample:
            self._chosen[place] = (record.serial, record.certificate)

    def _record(self, record: CheckedRecord) -> None:
        if record.state == "recorded":
            if self._now - record.recorded_at > IN_FLIGHT:
                self._find("record.orphan", record.serial, "an old record has no certificate and is not orphaned")
            return
        if record.certificate is None:
            if record.state not in ("orphaned", "revoked"):
                self._find("record.empty", record.serial, f"the record is {record.state} and has no certificate")
        elif record.state == "orphaned":
            self._find("record.signed_orphan", record.serial, "the record is orphaned and has a certificate")
        else:
            self._certificate(record, record.certificate)
        if record.state in ("revoked", "orphaned") and record.revoked_at is None:
            self._find("revocation.undated", record.serial, "the record has no time of revocation")
        if record.service and record.profile == "service" and record.state == "revoked" and not record.has_event:
            self._find("revocation.no_event", record.serial, "revoked, but there is no event of it")

    def _certificate(self, record: CheckedRecord, der: bytes) -> None:
        issuer = self._issuers.get(record.authority)
        if issuer is None:
            self._find("chain.authority", record.serial, f"its authority is not on record: {record.authority}")
            return
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(self._certificates[record.authority])
        except (ValueError, TypeError, InvalidSignature) as error:
            self._find("chain.signature", record.serial, f"{record.authority} did not sign it: {error}")
            return
        try:
            # A certificate from the future is a finding below. The lint reads its fields as if its time had come.
            relint(certificate, issuer, record.profile, record.profile_version, max(self._now, record.not_before))
        except LintError as error:
            self._find(f"lint.{error.rule}", record.serial, error.detail)
        self._agreement(record, certificate)
        if record.state != "issued":
            return
        closed = record.node and (record.generation <= record.closed_up_to or record.closed_alone)
        if closed and record.profile == "device":
            self._find(
                "generation.closed", record.serial, "its generation is closed, but the certificate is not revoked"
            )
        if self._now < record.not_before:
            detail = f"begins {record.not_before}: a clock was ahead when it was made; no peer accepts it until then"
            self._find("certificate.future", record.serial, detail, "warning")
        soon = SOON.get(record.profile)
        if soon and not closed and timedelta(0) < record.not_after - self._now < soon:
            self._find("certificate.expiring", record.serial, f"ends {record.not_after}", "warning")

    def _agreement(self, record: CheckedRecord, certificate: x509.Certificate) -> None:
        """Compare a certificate with the record that was made before the signature."""
        public_key = certificate.public_key()
        if certificate.tbs_certificate_bytes != record.tbs:
            self._find("record.bytes", record.serial, "the signed bytes are not the recorded bytes")
        if f"{certificate.serial_number:040x}" != record.serial:
            self._find("record.serial", record.serial, "the certificate has another serial")
        spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if sha256_hex(spki) != record.spki_sha256:
            self._find("record.key", record.serial, "the certificate has another key")
        dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        if dates != (record.not_before, record.not_after):
            self._find("record.dates", record.serial, "the certificate has other dates")
        if record.shard:
            self._named.setdefault(record.shard, record.serial)
            if not any(url.endswith(crl_path(record.shard)) for url in _crl_urls(certificate)):
                self._find("record.shard", record.serial, f"its distribution point is not the shard {record.shard}")
        elif _crl_urls(certificate):
            self._find("record.shard", record.serial, "it has a distribution point, but the record has no shard")

    async def _other(self, name: str, der: bytes) -> None:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except ValueError as error:
            self._find("certificate.unreadable", name, str(error))
            return
        if await self._store.state(f"{certificate.serial_number:040x}") is None:
            self._find("certificate.unrecorded", name, f"no record of the serial {certificate.serial_number:x}")

    # CRLs

    async def _shards(self) -> int:
        after, seen = "", 0
        while page := await self._store.shards(after):
            for identifier in page:
                self._named.pop(identifier, None)
                view = await self._store.view(identifier)
                if view is None:
                    self._find(
                        "crl.unsettled",
                        identifier,
                        "published too often to be read in one state; run the check again",
                        "warning",
                    )
                elif view.crls:
                    self._shard(view)
                else:
                    await self._unpublished(identifier)
            seen += len(page)
            after = page[-1]
        for identifier, serial in self._named.items():
            self._find(
                "shard.missing", identifier, f"the certificate {serial} names this shard, which is not on record"
            )
        self._progress("CRLs", seen, seen)
        return seen

    async def _unpublished(self, identifier: str) -> None:
        oldest = await self._store.oldest(identifier)
        if oldest is not None and self._clock() - oldest > IN_FLIGHT:
            self._find("crl.missing", identifier, "no CRL was ever published")

    def _shard(self, view: ShardView) -> None:
        shard = view.shard
        if max(shard.reserved, shard.certificates) > PLACES_MAX:
            self._find("shard.size", shard.id, f"{shard.certificates} certificates, {shard.reserved} reserved places")
        elif shard.certificates > shard.reserved:
            self._find("shard.places", shard.id, f"{shard.certificates} certificates, {shard.reserved} reserved places")
        authority = self._certificates.get(shard.authority)
        if authority is None:
            self._find("crl.authority", shard.id, f"its authority is not on record: {shard.authority}")
            return
        try:
            crls = [x509.load_der_x509_crl(crl.data) for crl in view.crls]
        except ValueError as error:
            self._find("crl.unreadable", shard.id, str(error))
            return
        key = authority.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not all(crl.is_signature_valid(key) for crl in crls):
            self._find("crl.signature", shard.id, f"not signed by {shard.authority}")
        state = next((row.state for row in self._rows if row.id == shard.authority), "")
        if state != "revoked" and view.crls[0].next_update <= self._clock():
            self._find("crl.stale", shard.id, f"its next update was due at {view.crls[0].next_update}")
        self._numbers(view, crls)
        self._contents(view, crls[0])
        self._continuity(view, crls)

    def _numbers(self, view: ShardView, crls: list[x509.CertificateRevocationList]) -> None:
        shard, newest = view.shard, view.crls[0]
        if newest.number != shard.published_number or shard.crl_number < shard.published_number:
            self._find(
                "crl.number",
                shard.id,
                f"the newest CRL has the number {newest.number}, the shard {shard.published_number}",
            )
        for stored, crl in zip(view.crls, crls, strict=True):
            if _number(crl) != stored.number:
                self._find("crl.number", shard.id, f"the row has the number {stored.number}, the CRL another")
            if (crl.last_update_utc, crl.next_update_utc) != (stored.this_update, stored.next_update):
                self._find("crl.dates", shard.id, f"the dates in CRL {stored.number} differ from its row")
            if len(crl) != stored.entries or len(crl) > PLACES_MAX:
                self._find("crl.size", shard.id, f"the CRL has {len(crl)} entries, its row says {stored.entries}")

    def _contents(self, view: ShardView, crl: x509.CertificateRevocationList) -> None:
        """Check the entries of the newest CRL.

        It must contain every revoked certificate, except those that expired before the CRL before it. It must contain
        no other certificate.
        """
        shard, before = view.shard, view.crls[1].this_update if len(view.crls) > 1 else None
        # A revocation is published within moments, but not in the same transaction.
        settled = shard.revision == shard.published_revision
        named = {f"{entry.serial_number:040x}" for entry in crl}
        revoked = {entry.serial for entry in view.entries}
        for serial in sorted(named - revoked):
            self._find("crl.extra", serial, f"the CRL of {shard.id} contains it, but it is not revoked")
        for entry in view.entries:
            # A certificate may leave the CRL after one CRL issued after its end contained it (RFC 5280 section 3.3).
            left = before is not None and entry.not_after < before
            waits = not settled and entry.revoked_at is not None and self._clock() - entry.revoked_at < IN_FLIGHT
            if entry.serial not in named and not left and not waits:
                self._find(
                    "crl.omits", entry.serial, f"revoked at {entry.revoked_at}, but not in the CRL of {shard.id}"
                )

    def _continuity(self, view: ShardView, crls: list[x509.CertificateRevocationList]) -> None:
        """Compare each stored CRL with the one before it.

        An entry may disappear only after its certificate has expired (RFC 5280 section 3.3).
        """
        ends = {entry.serial: entry.not_after for entry in view.entries}
        for later, earlier in pairwise(zip(view.crls, crls, strict=True)):
            (newer, newer_crl), (older, older_crl) = later, earlier
            step = f"between the CRLs {older.number} and {newer.number} of {view.shard.id}"
            if newer.this_update < older.this_update:
                self._find("crl.continuity", view.shard.id, f"thisUpdate fell {step}")
            named = {entry.serial_number for entry in newer_crl}
            for entry in older_crl:
                serial = f"{entry.serial_number:040x}"
                gone = entry.serial_number not in named
                if gone and (serial not in ends or ends[serial] > older.this_update):
                    self._find("crl.continuity", serial, f"disappeared {step}, before its certificate expired")


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return -1


def _crl_urls(certificate: x509.Certificate) -> list[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for point in points for name in point.full_name or () if isinstance(name.value, str)]
