"""Command group: `cascade config`, which checks the settings of the services without starting them."""

import asyncio
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from cloud.breakwater.authorities import SIGNING
from cloud.breakwater.errors import SignerError
from cloud.breakwater.hierarchy import TRUSTED
from cloud.breakwater.keys.signer import Keys, is_for_development, open_keys
from cloud.breakwater.settings import GATES as BREAKWATER_GATES
from cloud.breakwater.settings import RULES, BreakwaterSettings
from cloud.breakwater.store import stores_over as breakwater_stores
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.cli.errors import EXIT_VERIFICATION
from cloud.cli.options import Commands, directory_option, json_option
from cloud.cli.show import columns, emit
from cloud.clock import utc_now
from cloud.crypto.issued import is_issued_by, issuer_among
from cloud.crypto.keyfile import read_passphrase
from cloud.crypto.validity import outside
from cloud.events.outbox import Outbox
from cloud.fabric.licensing.signing import read_signer
from cloud.fabric.settings import FabricSettings
from cloud.fabric.store import stores_over as fabric_stores
from cloud.fabric.tuf.bootstrap import read_online_signers
from cloud.mtls.identity import CHAIN_FILE, IdentityError, load_identity
from cloud.process.findings import Addresses, Finding, Findings, check_gates, check_listeners
from cloud.process.settings import ServiceSettings, SettingsError, load_settings
from cloud.storage import ServiceEngine
from cloud.storage.database import opened_unchanged

SETTINGS_NEXT = "Correct the settings file, and check that --dir names an installation."
KEYS_LOCKED = "the passphrase cannot be read"
DATABASE_NEXT = (
    "Check that the database exists and can be reached, and that its disk has free space. A start of the service runs "
    "missing migrations."
)
CERTIFICATE_NEXT = "Check the clock of this machine. `cascade up` and `cascade pki renew` replace the certificate."
CHAIN_NEXT = "Restore the file, or run `cascade pki renew` on the issuer's host."

T = TypeVar("T", bound=ServiceSettings)


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option)
    checking = actions.add(
        "check",
        "check the settings, files, keys, databases and addresses of all services",
        "Checks what each service checks when it starts, and more: the settings file, the production gates, files and "
        "their modes, keys and the token, certificates, the database and its schema, and the addresses of listeners. "
        "Starts no service and changes nothing. The exit code is 65 if a check failed.",
        run=check,
    )
    directory_option(checking)
    checking.add_argument(
        "--running", action="store_true", help="the services run: do not check that their addresses are free"
    )
    actions.load(
        "nats", "write the configuration of a NATS server and the services' credentials", "cloud.cli.installation.nats"
    )


def check(args: Namespace) -> int:
    """Check every service of the installation, and print the findings. Returns 65 if a check failed."""
    found = tuple(asyncio.run(_check(args.dir, listeners=not args.running)))
    emit(found, args.json, columns(("service", "check", "state", "cause", "next step"), *Finding.__struct_fields__))
    return EXIT_VERIFICATION if any(each.state == "failed" for each in found) else 0


async def _check(directory: Path, *, listeners: bool) -> list[Finding]:
    breakwater, fabric = Findings("breakwater"), Findings("fabric")
    roots: list[x509.Certificate] = []
    issuer = _settings(directory / "breakwater" / "settings.toml", BreakwaterSettings, breakwater)
    taken: Addresses | None = {} if listeners else None
    if issuer is not None:
        readable = await _common(issuer, breakwater, issuer.tls, taken)
        roots = await _breakwater(issuer, breakwater, readable=readable)
        await _chain(issuer, breakwater, issuer.tls, roots)
    control = _settings(directory / "fabric" / "settings.toml", FabricSettings, fabric)
    if control is not None:
        readable = await _common(control, fabric, control.tls, taken)
        await _fabric(control, fabric, readable=readable)
        await _chain(control, fabric, control.tls, roots)
    return breakwater.found + fabric.found


def _settings(path: Path, kind: type[T], findings: Findings) -> T | None:
    try:
        settings = load_settings(path, kind)
    except SettingsError as error:
        findings.note("settings", str(error), SETTINGS_NEXT)
        return None
    findings.note("settings", "", "")
    return settings


async def _common(settings: ServiceSettings, findings: Findings, tls: str, taken: Addresses | None) -> bool:
    """Check what every service has: gates, passphrase, certificate, listeners. Return whether keys can be read.

    `taken` are the addresses of services that were checked before. None leaves the listeners out.
    """
    check_gates(settings, findings)

    async def passphrase() -> str:
        read_passphrase(settings.path(settings.passphrase_file))
        return ""

    async def certificate() -> str:
        identity = load_identity(settings.path(tls), settings.path(settings.passphrase_file))
        chain = x509.load_pem_x509_certificates((settings.path(tls) / CHAIN_FILE).read_bytes())
        whys = [outside(each.not_valid_before_utc, each.not_valid_after_utc, utc_now()) for each in chain[1:]]
        why = identity.outside(utc_now()) or next(filter(None, whys), "")
        return f"the certificate in {settings.path(tls)} {why}" if why else ""

    readable = await findings.attempt(
        "passphrase", passphrase, (), "Restore the passphrase file. Its mode must be 0600."
    )
    if readable:
        await findings.attempt("certificate", certificate, (IdentityError, ValueError), CERTIFICATE_NEXT)
    else:
        findings.skip("certificate", KEYS_LOCKED)
    if taken is not None:
        check_listeners(settings, findings, taken)
    else:
        findings.skip("listeners", "--running was given")
    return readable


async def _chain(settings: ServiceSettings, findings: Findings, tls: str, roots: list[x509.Certificate]) -> None:
    """Check each signature of a service's chain, up to one of the roots."""

    async def chain() -> str:
        folder = settings.path(tls)
        sent = x509.load_pem_x509_certificates((folder / CHAIN_FILE).read_bytes())
        for number, above in enumerate(sent[1:], 1):
            if not any(is_issued_by(below, above) for below in sent[:number]):
                return f"the certificate {number + 1} of the chain in {folder} signed none before it"
        if not any(issuer_among(each, roots) for each in sent):
            return f"no trusted root signed a CA of the chain in {folder}"
        return ""

    if roots:
        await findings.attempt("certificate chain", chain, (ValueError,), CHAIN_NEXT)
    else:
        findings.skip("certificate chain", "the roots are in the database of Breakwater, which was not read")


async def _database(
    service: str, settings: ServiceSettings, findings: Findings, read: Callable[[ServiceEngine], Awaitable[None]]
) -> None:
    """Check that the database can be read and has the schema of this version; then `read` more from its engine."""

    async def database() -> str:
        async with opened_unchanged(service, settings.database_location()) as (engine, missing):
            if missing:
                return f"the schema is older than this version: {', '.join(missing)} is missing"
            await read(engine)
            return ""

    await findings.attempt("database", database, (), DATABASE_NEXT)


async def _breakwater(settings: BreakwaterSettings, findings: Findings, *, readable: bool) -> list[x509.Certificate]:
    """Check the rules, CAs and keys of Breakwater. Return the trusted roots; none if the database cannot be read."""
    rules = {**RULES, **(BREAKWATER_GATES if settings.mode == "production" else {})}
    for rule, gate in rules.items():
        findings.note(f"rule {rule}", gate(settings), SETTINGS_NEXT)
    rows: list[AuthorityRow] = []

    async def read(engine: ServiceEngine) -> None:
        outbox = Outbox(engine, "breakwater", utc_now, entropy=os.urandom)  # nothing is added to it
        rows.extend(await breakwater_stores(engine, outbox).authorities.rows())

    await _database("breakwater", settings, findings, read)
    certificates: dict[str, x509.Certificate] = {}
    for row in rows:
        try:
            certificates[row.id] = x509.load_der_x509_certificate(row.certificate)
        except ValueError as error:
            findings.note(f"CA {row.id}", f"its certificate is not one: {error}", "Restore the database from a backup.")
    rows = [row for row in rows if row.id in certificates]
    roots = {row: certificates[row.id] for row in rows if row.ca == "root"}
    wanted = [row for row in rows if row.state in SIGNING]
    for row in wanted:
        certificate = certificates[row.id]
        why = outside(certificate.not_valid_before_utc, certificate.not_valid_after_utc, utc_now())
        if not why and issuer_among(certificate, roots.values()) is None:
            why = "has no signature of a root of this installation"
        findings.note(f"CA {row.id}", f"its certificate {why}" if why else "", "See docs/rotation.md.")
        if settings.mode == "production":
            cause = "it was made for development" if is_for_development(certificate) else ""
            findings.note(f"gate ca-is-not-for-development {row.id}", cause, "Make an installation for production.")
    if readable:
        await _ca_keys(settings, findings, [row for row in wanted if row.key])
    else:
        findings.skip("keys of CAs", KEYS_LOCKED)
    return [root for row, root in roots.items() if row.state in TRUSTED]


async def _ca_keys(settings: BreakwaterSettings, findings: Findings, rows: list[AuthorityRow]) -> None:
    """Check that the key of each CA can be opened, and belongs to the CA's certificate.

    All keys are opened with one login, because a token locks itself after a few wrong PINs.
    """
    opened: list[Keys] = []

    async def key(row: AuthorityRow) -> str:
        if not opened:
            passphrase = read_passphrase(settings.path(settings.passphrase_file))
            folder = settings.path(settings.ca) / "keys"
            opened.append(open_keys(folder, passphrase, settings.token, Path(settings.base)))
        found = await opened[0].open(row.key)
        if found.public_key != x509.load_der_x509_certificate(row.certificate).public_key():
            return f"the key {row.key} does not belong to the certificate of {row.id}"
        return ""

    next_step = "Check the token and its PIN file, or the key file."
    for row in rows:
        await findings.attempt(f"key of {row.id}", partial(key, row), (SignerError,), next_step)
    for keys in opened:
        await keys.aclose()


async def _fabric(settings: FabricSettings, findings: Findings, *, readable: bool) -> None:
    async def keys() -> str:
        passphrase, folder = read_passphrase(settings.path(settings.passphrase_file)), settings.path(settings.keys)
        read_signer(folder, passphrase, settings.trust_domain)
        read_online_signers(folder, passphrase)
        return ""

    async def read(engine: ServiceEngine) -> None:
        await fabric_stores(engine).installation.read_all()

    if readable:
        await findings.attempt("keys", keys, (), "Restore the key files and the passphrase that belongs to them.")
    else:
        findings.skip("keys", KEYS_LOCKED)
    await _database("fabric", settings, findings, read)
