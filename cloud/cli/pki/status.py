"""Command: `cascade pki status`, which shows authorities, counts of certificates, and the state of the CRLs."""

from argparse import ArgumentParser, Namespace
from datetime import datetime

import msgspec
from cryptography import x509

from cloud.breakwater.admin import Admin
from cloud.breakwater.store.checker_reads import Tally
from cloud.cli.options import directory_option
from cloud.cli.pki.host import on_host
from cloud.cli.show import emit, pairs, table


class AuthorityStatus(msgspec.Struct, frozen=True):
    """One authority. `has_key` says that its key can be used on this host. `valid` and `revoked` count certificates."""

    id: str
    state: str
    subject: str
    key_id: str
    not_after: datetime
    key: str
    has_key: bool
    valid: int
    revoked: int


class Status(msgspec.Struct, frozen=True):
    """The report of `cascade pki status`.

    `crls_due` counts the CRLs that must be made again. `secrets_open` counts the one-time secrets that are neither used
    nor expired.
    """

    trust_domain: str
    pki_url: str
    authorities: tuple[AuthorityStatus, ...]
    certificates: tuple[Tally, ...]
    crls: int
    crls_due: int
    oldest_crl_ends: datetime | None
    secrets_open: int


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Shows each authority with its state, key and end, the number of certificates by authority, profile and state, "
        "and how many CRLs are due. Changes nothing."
    )
    directory_option(parser)
    parser.set_defaults(run=on_host(status))


async def status(admin: Admin, args: Namespace) -> None:
    """Print the report."""
    tallies = await admin.parts.stores.checker_reads.tally(admin.now())
    shards = await admin.parts.stores.shards.all()
    newest = [await admin.parts.stores.shards.published(shard) for shard in shards]
    status = Status(
        trust_domain=admin.settings.trust_domain,
        pki_url=admin.settings.pki_url,
        authorities=tuple(_authority(admin, row.id, tallies) for row in admin.parts.authorities.rows()),
        certificates=tallies,
        crls=len(shards),
        crls_due=sum(admin.parts.crl_publisher.is_due(shard) for shard in shards),
        oldest_crl_ends=min((crl.next_update for crl in newest if crl), default=None),
        secrets_open=sum(
            1 for row in await admin.parts.enrolments.list() if row.used_at is None and row.expires_at > admin.now()
        ),
    )
    emit(status, args.json, _human_status)


def _authority(admin: Admin, identifier: str, tallies: tuple[Tally, ...]) -> AuthorityStatus:
    row = next(row for row in admin.parts.authorities.rows() if row.id == identifier)
    issuer = admin.parts.authorities.find(identifier)
    certificate = x509.load_der_x509_certificate(row.certificate)
    mine = [tally for tally in tallies if tally.authority == identifier]
    return AuthorityStatus(
        id=identifier,
        state=row.state,
        subject=certificate.subject.rfc4514_string(),
        key_id="" if issuer is None else issuer.key_id.hex(),
        not_after=certificate.not_valid_after_utc,
        key=row.key or "offline",
        has_key=admin.parts.authorities.can_sign(identifier),
        valid=sum(tally.valid for tally in mine if tally.state == "issued"),
        revoked=sum(tally.count for tally in mine if tally.state in ("revoked", "orphaned")),
    )


def _human_status(status: Status) -> str:
    head = pairs(
        [
            ("trust domain", status.trust_domain),
            ("CRLs and OCSP at", status.pki_url),
            ("CRLs", f"{status.crls}, {status.crls_due} due"),
            ("oldest CRL ends", status.oldest_crl_ends),
            ("unused secrets", status.secrets_open),
        ]
    )
    authorities = table(
        ("authority", "state", "subject", "ends", "key", "usable", "valid", "revoked"),
        [
            (row.id, row.state, row.subject, row.not_after, row.key, row.has_key, row.valid, row.revoked)
            for row in status.authorities
        ],
    )
    counts = table(
        ("authority", "profile", "state", "count", "valid"),
        [(row.authority, row.profile, row.state, row.count, row.valid) for row in status.certificates],
    )
    return f"{head}\n\n{authorities}\n\n{counts}"
