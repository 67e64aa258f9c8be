"""Command: `cascade pki status`, which shows authorities, counts of certificates, and the state of the CRLs."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from cloud.breakwater.admin import Admin
from cloud.breakwater.bootstrap import chain_fault
from cloud.breakwater.dates import DateFault, ca_faults
from cloud.breakwater.hierarchy import TRUSTED
from cloud.breakwater.store.checker_reads import Tally
from cloud.cli.options import directory_option
from cloud.cli.pki.host import SERVICES_HERE, on_host
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
    not_before: datetime


class Status(msgspec.Struct, frozen=True):
    """The report of `cascade pki status`.

    `crls_due` counts the CRLs that must be made again. `secrets_open` counts the one-time secrets that are neither used
    nor expired. `faults` are the certificates of CAs and of services on this host that are not valid now.
    """

    trust_domain: str
    pki_url: str
    authorities: tuple[AuthorityStatus, ...]
    certificates: tuple[Tally, ...]
    crls: int
    crls_due: int
    oldest_crl_ends: datetime | None
    secrets_open: int
    root_crls: dict[str, datetime]
    """The end of the published CRL of each root, by the root's id. A ceremony signs the next one."""
    faults: tuple[DateFault, ...]


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Shows each authority with its state, key and end, the number of certificates by authority, profile and state, "
        "and how many CRLs are due. Names each certificate of a CA and of a service on this host that has expired or "
        "begins in the future, with the next step. Changes nothing."
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
        root_crls={root: crl.next_update for root, crl in (await admin.parts.root_crls.current()).items()},
        faults=(*_ca_faults(admin), *_service_faults(admin, args.dir)),
    )
    emit(status, args.json, _human_status)


def _ca_faults(admin: Admin) -> tuple[DateFault, ...]:
    """Return the faults of the CAs that are trusted. An expired CA that is no longer active needs no replacement."""
    rows = [row for row in admin.parts.authorities.rows() if row.state in TRUSTED]
    issuers = [issuer for row in rows if (issuer := admin.parts.authorities.find(row.id)) is not None]
    idle = {row.id for row in rows if row.state == "old"}
    now = admin.now()
    return ca_faults([each for each in issuers if each.authority not in idle or now < each.not_before], now)


def _service_faults(admin: Admin, directory: Path) -> tuple[DateFault, ...]:
    """Return the faults of the services' own certificates in the installation's directory. Raises IdentityError."""
    found = []
    for service in SERVICES_HERE:
        folder = directory / service / "tls"
        fault = chain_fault(folder, admin.now()) if folder.exists() else ""
        if fault:
            step = (
                f"Check the clock of this host. `cascade up` replaces the certificate; so does `cascade pki renew {service} "
                "--dir DIR`."
            )
            found.append(DateFault(service, fault, step))
    return tuple(found)


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
        not_before=certificate.not_valid_before_utc,
    )


def _human_status(status: Status) -> str:
    head = pairs(
        [
            ("trust domain", status.trust_domain),
            ("CRLs and OCSP at", status.pki_url),
            ("CRLs", f"{status.crls}, {status.crls_due} due"),
            ("oldest CRL ends", status.oldest_crl_ends),
            ("unused secrets", status.secrets_open),
            *((f"CRL of {root} ends", end) for root, end in status.root_crls.items()),
        ]
    )
    faults = "".join(f"\n\nThe certificate of {each.subject} {each.fault}.\n{each.next_step}" for each in status.faults)
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
    return f"{head}\n\n{authorities}\n\n{counts}{faults}"
