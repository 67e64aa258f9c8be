"""Use cases of `cascade init` and of expired services: root and issuing CAs, database, host names, certificates.

The first service certificates go the way of all later ones (record, lint, sign, store). The root's key is used here and
in ceremonies only; it lies encrypted in the offline folder, to be taken away.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.ceremony.signing import CaIdentity, make_issuing, make_root
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import DEVELOPMENT_MARK
from cloud.breakwater.parts import Sources, open_parts, sources_of
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, CaName, make_serial
from cloud.breakwater.settings import BreakwaterSettings
from cloud.breakwater.store.issuance import ServiceHostName
from cloud.crypto.keyfile import read_passphrase, sync_directory, write_key, write_secret
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.identity import (
    CHAIN_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    IdentityError,
    load_identity,
    make_csr,
)
from cloud.process.settings import database_toml, load_settings
from cloud.storage import Location, PostgresLocation
from cloud.storage.database import open_database
from protocol.encoding import json_encode
from protocol.ids import ServiceName, parse_trust_domain

ROOT_KEY_FILE = "root-ca.key.pem"
DATABASE_FILE = Path("database.sqlite")
_ISSUING: tuple[CaName, ...] = ("nodes", "services")


Mode = Literal["production", "development"]


class AlreadyInitialised(IssuerError):
    """There is a CA in this place already; nothing was changed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `cascade init` has decided.

    `directory` is Breakwater's own (with `keys/` and `certs/`), `offline` gets the root's key, `tls` names the
    `tls/` folder of each service that is to have a certificate. `hosts` are DNS names or IP addresses, for each of
    them. `passphrase_file` is written into the settings as it is (relative to `directory`, or absolute).
    """

    directory: Path
    offline: Path
    tls: Mapping[ServiceName, Path]
    trust_domain: str
    hosts: tuple[str, ...]
    port: int
    passphrase: bytes
    passphrase_file: str
    mode: Mode = "development"
    listen: str = ""
    """The address to listen on; the first host if empty."""
    pki_port: int = 0
    """The plaintext listener's, for CRLs and OCSP."""
    public_url: str
    """Where the world reaches it; it stands in every certificate."""
    database: Location = DATABASE_FILE
    """A file's path is relative to `directory`."""


class Initialised(msgspec.Struct, frozen=True):
    """The three CA certificates in DER, for the trust bundle and for the other services' `certs/`."""

    root: bytes
    nodes_ca: bytes
    services_ca: bytes


def host_names(hosts: tuple[str, ...]) -> tuple[ServiceHostName, ...]:
    """Each host as a DNS or an IP name, in order, without repeats."""
    found: list[ServiceHostName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(ServiceHostName("ip", str(ip_address(host))))
        except ValueError:
            found.append(ServiceHostName("dns", host.lower()))
    return tuple(found)


async def initialise(plan: Plan, now: Callable[[], datetime]) -> Initialised:
    """Make everything the issuer needs, and the first certificate of each service in `plan.tls`.

    Raises:
        AlreadyInitialised: a root certificate lies there already.
        IdError: not a trust domain. KeyFileError, StorageError, OSError: naming the file.
    """
    parse_trust_domain(plan.trust_domain)
    if (plan.directory / "certs" / "root.pem").exists():
        raise AlreadyInitialised(f"{plan.directory} has a CA already")
    folders = (plan.directory / "keys", plan.directory / "certs", plan.offline, *plan.tls.values())
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    await _make_cas(plan, now())
    write_secret(plan.directory / "settings.toml", _settings(plan))
    database = plan.database if isinstance(plan.database, PostgresLocation) else plan.directory / plan.database
    sources = Sources(
        directory=plan.directory,
        passphrase=plan.passphrase,
        trust_domain=plan.trust_domain,
        pki_url=plan.public_url,
    )
    async with open_database("breakwater", database) as engine, open_parts(engine, sources, now) as parts:
        for service, folder in plan.tls.items():
            await parts.stores.issuance.add_hosts(service, host_names(plan.hosts))
            await _first_identity(parts.issuing, service, folder, plan.passphrase)
        made = {row.id: row.certificate for row in parts.authorities.rows()}
    return Initialised(root=made["root-1"], nodes_ca=made["nodes-1"], services_ca=made["services-1"])


async def replace_expired(
    settings_file: Path, tls: Mapping[ServiceName, Path], now: Callable[[], datetime]
) -> list[str]:
    """Give services whose certificate has expired a new one; returns their names.

    A service renews over mTLS, which it cannot do any more after being off for longer than its certificate lives.
    The process that holds the issuer's keys issues it, before anything listens.
    Raises SettingsError, KeyFileError, IdentityError, IssuerError, StorageError, naming the file.
    """
    expired = [(service, folder) for service, folder in tls.items() if _ended(folder / CHAIN_FILE, now())]
    if not expired:
        return []
    settings = load_settings(settings_file, BreakwaterSettings)
    sources, passphrase_file = sources_of(settings), settings.path(settings.passphrase_file)
    async with (
        open_database("breakwater", settings.database_location()) as engine,
        open_parts(engine, sources, now) as parts,
    ):
        for service, folder in expired:
            await renew_service(parts.issuing, service, folder, passphrase_file, _caller(service))
    return [service for service, _ in expired]


async def renew_service(
    issuing: Issuing, service: ServiceName, folder: Path, passphrase_file: Path, caller: str
) -> x509.Certificate:
    """A new certificate for a new key (the old one may be revoked, which is for good), both written to a `tls/` folder.

    Each step leaves files that load. The service takes them at its next start. Raises IdentityError, KeyFileError,
    IssuerError, StorageError.
    """
    before, passphrase = load_identity(folder, passphrase_file), read_passphrase(passphrase_file)
    write_key(folder / KEY_FILE, before.key, passphrase)  # where a renewal was cut short it lay under the other name
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / NEXT_KEY_FILE, key, passphrase)
    request = f"renew-{before.leaf.serial_number:x}-{describe_key(key.public_key()).spki_sha256[:16]}"
    issued = await issuing.issue_service(service, make_csr(key), request, caller)
    write_secret(folder / CHAIN_FILE, chain_to_pem(issued))
    (folder / NEXT_KEY_FILE).replace(folder / KEY_FILE)
    sync_directory(folder)
    return x509.load_der_x509_certificate(issued.certificate_chain[0])


def _caller(service: ServiceName) -> str:
    return f"service/{service}"


def _ended(chain: Path, now: datetime) -> bool:
    try:
        return now >= x509.load_pem_x509_certificate(chain.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise IdentityError(f"cannot read the certificate {chain}: {error}") from error


async def _first_identity(issuing: Issuing, service: ServiceName, folder: Path, passphrase: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / KEY_FILE, key, passphrase)
    certificate = await issuing.issue_service(service, make_csr(key), "init", _caller(service))
    write_secret(folder / CHAIN_FILE, chain_to_pem(certificate))


async def _make_cas(plan: Plan, now: datetime) -> None:
    """Root, then both issuing CAs. Keys are written before certificates, the root's certificate last of all.

    The CAs of a development installation say so in their names, and production does not start on them.
    """
    mark = DEVELOPMENT_MARK if plan.mode == "development" else ""
    certs = plan.directory / "certs"
    root_key = ec.generate_private_key(ec.SECP384R1())
    root = await make_root(CaIdentity(plan.trust_domain, "root", 1, mark), LocalKey(root_key), _serial(), now)
    write_key(plan.offline / ROOT_KEY_FILE, root_key, plan.passphrase)
    for name in _ISSUING:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = CaIdentity(plan.trust_domain, name, 1, mark)
        asked = describe_key(key.public_key())
        issuing = await make_issuing(identity, asked, root, LocalKey(root_key), _serial(), now)
        write_key(plan.directory / "keys" / f"{name}-ca.key.pem", key, plan.passphrase)
        write_secret(certs / f"{name}-ca.pem", _pem(issuing.certificate_der))
    write_secret(certs / "root.pem", _pem(root.certificate_der))


def _serial() -> int:
    return make_serial(os.urandom(SERIAL_BYTES))


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _settings(plan: Plan) -> bytes:
    # A JSON string or list of strings is one of TOML too.
    values = {
        "mode": plan.mode,
        "trust_domain": plan.trust_domain,
        "public_url": plan.public_url,
        "passphrase_file": plan.passphrase_file,
        "key_files": [*(f"keys/{name}-ca.key.pem" for name in _ISSUING), f"tls/{KEY_FILE}"],
    }
    lines = [f"{name} = {json_encode(value).decode()}" for name, value in values.items()]
    host = json_encode(plan.listen or plan.hosts[0]).decode()
    listener = f"[[listeners]]\nhost = {host}\nport = {plan.port}"
    pki = f'[[listeners]]\nhost = {host}\nport = {plan.pki_port}\ntls = false\npurpose = "pki"'
    text = "\n".join(["# Breakwater's settings, written by `cascade init`.", *lines])
    return f"{text}\n\n{listener}\n\n{pki}\n\n{database_toml(plan.database)}\n".encode()
