"""Pure functions: build the to-be-signed bytes of a certificate revocation list (RFC 5280 section 5), and lint them.

Number, dates and entries are arguments. Rule: `lint_crl` encodes every part of the list itself and compares bytes. A
wrong list gets a signature only if the builder and the lint contain the same mistake.

A list covers one whole shard. Its critical issuing distribution point contains the same address as the certificates of
the shard, and limits the list to end-entity certificates. A root's list covers CA certificates and has no such
extension.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
from cryptography import x509

from cloud.breakwater.errors import LintError
from cloud.breakwater.pkix.linted import Linted, algorithm_der, assemble, passed
from cloud.breakwater.pkix.profiles import SCRATCH_KEYS, Issuer, hash_of
from cloud.crypto.der import integer, tlv

ENTRIES_MAX = 5000
"""The number of places in a shard."""
CRL_LIFE_MAX = timedelta(days=400)
"""A root's list is made once a year in a ceremony. The lists of shards are valid for days."""
NUMBER_MAX = 2**63 - 1
UNSPECIFIED = 0
REASONS = {
    0: x509.ReasonFlags.unspecified,
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}
"""The CRLReasons (RFC 5280 section 5.3.1) of a permanent revocation: all except certificateHold and removeFromCRL."""


class Entry(msgspec.Struct, frozen=True):
    """A revoked certificate. `revoked_at` is aware and is cut to whole seconds. `reason` is the CRLReason."""

    serial: int
    revoked_at: datetime
    reason: int = UNSPECIFIED


class WantedCrl(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one list. Dates are whole seconds, UTC. Entries are sorted by serial.

    `distribution_url` is the CRL address in the shard's certificates; it is None for a root's list of CA certificates.
    """

    number: int
    this_update: datetime
    next_update: datetime
    entries: tuple[Entry, ...]
    distribution_url: str | None


def want_crl(
    number: int, now: datetime, life: timedelta, entries: Sequence[Entry], distribution_url: str | None
) -> WantedCrl:
    """Return the content of a list that begins at `now` and ends after `life`, with its entries sorted."""
    start = now.astimezone(UTC).replace(microsecond=0)
    return WantedCrl(
        number=number,
        this_update=start,
        next_update=start + life,
        entries=tuple(sorted(entries, key=lambda entry: entry.serial)),
        distribution_url=distribution_url,
    )


def build_crl(wanted: WantedCrl, issuer: Issuer) -> bytes:
    """Return the to-be-signed list (TBSCertList, RFC 5280 section 5.1) in DER.

    Raises ValueError, KeyError or OverflowError for values that a CRL cannot contain.
    """
    # All entries go to the builder's constructor: adding 5,000 entries one by one copies the list 5,000 times.
    extensions: list[x509.Extension[x509.ExtensionType]] = [
        _extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None)),
        _extension(x509.CRLNumber(wanted.number)),
    ]
    if wanted.distribution_url is not None:
        extensions.append(_extension(_point(wanted.distribution_url), True))
    builder = x509.CertificateRevocationListBuilder(
        issuer.subject,
        wanted.this_update.replace(tzinfo=None),
        wanted.next_update.replace(tzinfo=None),
        extensions,
        [_revoked(entry) for entry in wanted.entries],
    )
    return builder.sign(SCRATCH_KEYS[issuer.curve], hash_of(issuer.curve)).tbs_certlist_bytes


def _extension(value: x509.ExtensionType, critical: bool = False) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


def _point(url: str) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier(url)],
        relative_name=None,
        only_contains_user_certs=True,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )


_REASON_EXTENSIONS = {code: [_extension(x509.CRLReason(flag))] for code, flag in REASONS.items() if code != UNSPECIFIED}
_REASON_EXTENSIONS[UNSPECIFIED] = []
"""RFC 5280 section 5.3.1: an entry with the reason "unspecified" has no reason extension."""


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    at = entry.revoked_at.astimezone(UTC).replace(tzinfo=None, microsecond=0)
    return x509.RevokedCertificateBuilder(entry.serial, at, _REASON_EXTENSIONS[entry.reason]).build()


# The lint. It has separate constants and uses no function of the builder above.

_VERSION_2 = bytes.fromhex("020101")
_AUTHORITY_KEY = bytes.fromhex("0603551d23")
_CRL_NUMBER = bytes.fromhex("0603551d14")
_ISSUING_POINT = bytes.fromhex("0603551d1c0101ff")
"""The identifier, and TRUE because the extension is critical."""
_REASON_CODE = bytes.fromhex("0603551d15")
_FINAL_REASONS = frozenset({0, 1, 2, 3, 4, 5, 9, 10})
_ONLY_USER_CERTS = bytes.fromhex("8101ff")
_URI = 0x86


def lint_crl(tbs: bytes, wanted: WantedCrl, issuer: Issuer, previous_number: int = 0) -> Linted:
    """Check a TBSCertList in DER against every rule.

    `previous_number` is the highest number published for this shard or root so far.

    Raises:
        LintError: `rule` is the name of the first broken rule.
    """
    crl = _parse(tbs, issuer)
    try:
        _wanted_rules(wanted, issuer, previous_number)
        _parsed_rules(crl, wanted)
        _byte_rules(tbs, wanted, issuer)
    except (ValueError, OverflowError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise LintError("crl_der", f"a part cannot be parsed: {error}") from error
    return passed(tbs, issuer)


def _parse(tbs: bytes, issuer: Issuer) -> x509.CertificateRevocationList:
    try:
        crl = x509.load_der_x509_crl(assemble(tbs, issuer.curve, b"\x00"))
        same = crl.tbs_certlist_bytes == tbs
    except (ValueError, x509.InvalidVersion) as error:
        raise LintError("crl_der", f"not a TBSCertList: {error}") from error
    _require("crl_der", same, "bytes follow the TBSCertList")
    return crl


def _require(rule: str, holds: bool, detail: str) -> None:
    if not holds:
        raise LintError(rule, detail)


def _wanted_rules(wanted: WantedCrl, issuer: Issuer, previous_number: int) -> None:
    """The bounds that every list has to keep."""
    _require("crl_number", previous_number < wanted.number <= NUMBER_MAX, "not above the previous number, or too large")
    life = wanted.next_update - wanted.this_update
    _require("crl_dates", timedelta() < life <= CRL_LIFE_MAX, f"valid for {life}")
    _require("crl_dates", wanted.this_update < issuer.not_after, "the CA has expired")
    _require("crl_entries", len(wanted.entries) <= ENTRIES_MAX, f"{len(wanted.entries)} entries")
    serials = [entry.serial for entry in wanted.entries]
    in_order = all(one < other for one, other in pairwise(serials))
    _require("crl_order", in_order, "serials are not sorted, or one appears twice")
    _require("crl_serials", all(0 < serial < 2**159 for serial in serials), "a serial is out of bounds")
    _require(
        "crl_reasons",
        all(entry.reason in _FINAL_REASONS for entry in wanted.entries),
        "a reason is not one of a permanent revocation",
    )
    is_root = issuer.name == "root"
    _require(
        "crl_scope",
        is_root is (wanted.distribution_url is None),
        "the distribution point does not fit the class of the CA",
    )


def _parsed_rules(crl: x509.CertificateRevocationList, wanted: WantedCrl) -> None:
    """The set of extensions. `_byte_rules` compares their values."""
    found = {extension.oid.dotted_string: extension.critical for extension in crl.extensions}
    expected = {"2.5.29.35": False, "2.5.29.20": False}
    if wanted.distribution_url is not None:
        expected["2.5.29.28"] = True
    _require("crl_extensions", found == expected, f"are {found}")
    _require("crl_entries", len(crl) == len(wanted.entries), f"{len(crl)} instead of {len(wanted.entries)}")


def _byte_rules(tbs: bytes, wanted: WantedCrl, issuer: Issuer) -> None:
    """Each part has the expected encoding and place (RFC 5280 section 5.1.1), and no bytes follow."""
    entries = [_entry_der(entry) for entry in wanted.entries]
    parts: tuple[tuple[str, bytes], ...] = (
        ("crl_version", _VERSION_2),
        ("crl_algorithm", algorithm_der(issuer.curve)),
        ("crl_issuer", issuer.subject.public_bytes()),
        ("crl_dates", _time_der(wanted.this_update) + _time_der(wanted.next_update)),
        # revokedCertificates is absent when there are no entries (RFC 5280 section 5.1.2.6).
        ("crl_entries", tlv(0x30, b"".join(entries)) if entries else b""),
        ("crl_extensions", tlv(0xA0, tlv(0x30, _extensions_der(wanted, issuer)))),
    )
    at = 2 + (tbs[1] & 0x7F if tbs[1] & 0x80 else 0)
    for rule, part in parts:
        _require(rule, tbs.startswith(part, at), "not the expected bytes")
        at += len(part)
    _require("crl_der", at == len(tbs), "bytes follow the expected list")


def _extensions_der(wanted: WantedCrl, issuer: Issuer) -> bytes:
    found = tlv(0x30, _AUTHORITY_KEY + tlv(0x04, tlv(0x30, tlv(0x80, issuer.key_id))))
    found += tlv(0x30, _CRL_NUMBER + tlv(0x04, integer(wanted.number)))
    if wanted.distribution_url is not None:
        full_name = tlv(0xA0, tlv(0xA0, tlv(_URI, wanted.distribution_url.encode("ascii"))))
        found += tlv(0x30, _ISSUING_POINT + tlv(0x04, tlv(0x30, full_name + _ONLY_USER_CERTS)))
    return found


def _entry_der(entry: Entry) -> bytes:
    content = integer(entry.serial) + _time_der(entry.revoked_at)
    if entry.reason != UNSPECIFIED:
        content += tlv(0x30, tlv(0x30, _REASON_CODE + tlv(0x04, bytes((0x0A, 1, entry.reason)))))
    return tlv(0x30, content)


def _time_der(at: datetime) -> bytes:
    """Encode a date (RFC 5280 section 5.1.2.4): UTCTime up to 2049, GeneralizedTime from 2050."""
    utc = at.astimezone(UTC)
    if utc.year < 2050:
        return tlv(0x17, utc.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return tlv(0x18, utc.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def make_crl(wanted: WantedCrl, issuer: Issuer, previous_number: int = 0) -> Linted:
    """Build a list and lint it. See `lint_crl`. Raises LintError; the rule `crl_build` means it cannot be encoded."""
    try:
        tbs = build_crl(wanted, issuer)
    except (ValueError, KeyError, OverflowError) as error:
        raise LintError("crl_build", f"the list cannot be encoded: {error}") from error
    return lint_crl(tbs, wanted, issuer, previous_number)
