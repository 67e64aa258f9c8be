"""Use cases: make a new issuer for `cascade init`, and replace certificates of services on the issuer's host.

The first service certificates have records and pass the lint like all later ones. Only this module and ceremonies use
the root's key. `cascade init` writes the root's key, encrypted, into the offline folder; the operator moves that folder
to an offline place.
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

from cloud.breakwater.ceremony.signing import CaIdentity, make_issuing, make_root, make_root_crl
from cloud.breakwater.errors import IssuerError
from cloud.breakwater.issuance.issuing import Issuing
from cloud.breakwater.keys.file import LocalKey
from cloud.breakwater.keys.signer import DEVELOPMENT_MARK
from cloud.breakwater.parts import Sources, open_parts, sources_of
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.profiles import SERIAL_BYTES, CaName, make_serial
from cloud.breakwater.revocation.crl_shards import root_crl_path
from cloud.breakwater.revocation.root_crls import ROOT_CRL_LIFE
from cloud.breakwater.settings import BreakwaterSettings
from cloud.breakwater.store.issuance import ServiceHostName
from cloud.crypto.keyfile import read_passphrase, sync_directory, write_key, write_secret
from cloud.crypto.validity import outside
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.identity import (
    CHAIN_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    IdentityError,
    load_identity,
    make_csr,
)
from cloud.process.settings import database_toml, load_settings, metrics_toml
from cloud.storage import Location, PostgresLocation
from cloud.storage.database import open_database
from protocol.encoding import json_encode
from protocol.ids import ServiceName, parse_trust_domain

ROOT_KEY_FILE = "root-ca.key.pem"
ROOT_CRL_FILE = "root.crl"
"""The root's first CRL, in `certs/`. The next ceremony of type `crl` names it as `previous`."""
DATABASE_FILE = Path("database.sqlite")
_ISSUING: tuple[CaName, ...] = ("nodes", "services")


Mode = Literal["production", "development"]


class AlreadyInitialised(IssuerError):
    """The directory already has a CA. Nothing was changed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The input of `initialise`.

    `directory` is Breakwater's, with `keys/` and `certs/`. `offline` gets the root's key. `tls` has the `tls/` folder
    of each service that gets a certificate. `hosts` are DNS names or IP addresses for all of these certificates.
    `passphrase_file` is copied into the settings; it is absolute, or relative to `directory`.
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
    """The address to listen on. If empty, the first of `hosts`."""
    pki_port: int = 0
    """The port of the plaintext listener for CRLs and OCSP."""
    metrics_port: int = 0
    """The port of the listener for `/metrics` on 127.0.0.1. 0 for none."""
    public_url: str
    """The public address of that listener. Certificates contain it."""
    database: Location = DATABASE_FILE
    """A SQLite file is relative to `directory`."""


class Initialised(msgspec.Struct, frozen=True):
    """The three CA certificates in DER. The trust bundle and the other services' `certs/` get them."""

    root: bytes
    nodes_ca: bytes
    services_ca: bytes


def host_names(hosts: tuple[str, ...]) -> tuple[ServiceHostName, ...]:
    """Return each host as a DNS name or IP address, in order and without repeats."""
    found: list[ServiceHostName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(ServiceHostName("ip", str(ip_address(host))))
        except ValueError:
            found.append(ServiceHostName("dns", host.lower()))
    return tuple(found)


async def initialise(plan: Plan, now: Callable[[], datetime]) -> Initialised:
    """Make the CAs, the settings and the database of an issuer, and the first certificate of each service.

    Raises:
        AlreadyInitialised: the directory has a root certificate.
        IdError: the trust domain is invalid.
        KeyFileError, StorageError, OSError: the text names the file.
    """
    parse_trust_domain(plan.trust_domain)
    if (plan.directory / "certs" / "root.pem").exists():
        raise AlreadyInitialised(f"cannot initialise {plan.directory}: it has a CA already")
    folders = (plan.directory / "keys", plan.directory / "certs", plan.offline, *plan.tls.values())
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root_crl = await _make_cas(plan, now())
    write_secret(plan.directory / "settings.toml", _settings(plan))
    database = plan.database if isinstance(plan.database, PostgresLocation) else plan.directory / plan.database
    sources = Sources(
        directory=plan.directory,
        passphrase=plan.passphrase,
        trust_domain=plan.trust_domain,
        pki_url=plan.public_url,
    )
    async with (
        open_database("breakwater", database, is_new=True) as engine,
        open_parts(engine, sources, now) as parts,
    ):
        await parts.root_crls.import_crl("init", root_crl)
        for service, folder in plan.tls.items():
            await parts.stores.issuance.add_hosts(service, host_names(plan.hosts))
            await _first_identity(parts.issuing, service, folder, plan.passphrase)
        made = {row.id: row.certificate for row in parts.authorities.rows()}
    return Initialised(root=made["root-1"], nodes_ca=made["nodes-1"], services_ca=made["services-1"])


async def replace_unusable(
    settings_file: Path, tls: Mapping[ServiceName, Path], now: Callable[[], datetime]
) -> dict[ServiceName, str]:
    """Issue a new certificate to each service in `tls` whose certificate is not valid now.

    Return the services, each with the fault of its old certificate: it has expired, or begins in the future. A service
    renews over mTLS with its certificate, so it cannot renew such a certificate. The process with the issuer's keys
    does this before it opens its listeners.

    Raises:
        AuthorityNotCurrent: the certificate of the issuing CA is not valid now either.
        SettingsError, KeyFileError, IdentityError, IssuerError, StorageError: the text names the file.
    """
    settings = load_settings(settings_file, BreakwaterSettings)
    faults = {service: fault for service, folder in tls.items() if (fault := chain_fault(folder, now()))}
    if not faults:
        return {}
    sources, passphrase_file = sources_of(settings), settings.path(settings.passphrase_file)
    async with (
        open_database("breakwater", settings.database_location()) as engine,
        open_parts(engine, sources, now) as parts,
    ):
        for service in faults:
            await renew_service(parts.issuing, service, tls[service], passphrase_file, _caller(service))
    return faults


async def renew_service(
    issuing: Issuing, service: ServiceName, folder: Path, passphrase_file: Path, caller: str
) -> x509.Certificate:
    """Issue a certificate to a service for a new key, and write both into its `tls/` folder.

    The key is new because the old key may be revoked permanently. After each step the service can load the files. It
    loads them at its next start. `caller` is the name in the audit.

    Raises IdentityError, KeyFileError, IssuerError or StorageError.
    """
    before, passphrase = load_identity(folder, passphrase_file), read_passphrase(passphrase_file)
    write_key(folder / KEY_FILE, before.key, passphrase)  # an interrupted renewal left it in `NEXT_KEY_FILE`
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


def chain_fault(folder: Path, now: datetime) -> str:
    """Return why the certificate in a `tls/` folder is not valid now; "" if it is. Raises IdentityError."""
    chain = folder / CHAIN_FILE
    try:
        leaf = x509.load_pem_x509_certificate(chain.read_bytes())
        return outside(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now)
    except (OSError, ValueError) as error:
        raise IdentityError(f"cannot read the certificate {chain}: {error}") from error


async def _first_identity(issuing: Issuing, service: ServiceName, folder: Path, passphrase: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / KEY_FILE, key, passphrase)
    certificate = await issuing.issue_service(service, make_csr(key), "init", _caller(service))
    write_secret(folder / CHAIN_FILE, chain_to_pem(certificate))


async def _make_cas(plan: Plan, now: datetime) -> bytes:
    """Make the root, both issuing CAs, and the root's first CRL. Return the CRL in PEM.

    Keys are written before certificates. The root's certificate is written last, because `initialise` checks for it. In
    development the CAs' names end with `DEVELOPMENT_MARK`; in production Breakwater refuses such CAs.
    """
    mark = DEVELOPMENT_MARK if plan.mode == "development" else ""
    certs = plan.directory / "certs"
    root_key = ec.generate_private_key(ec.SECP384R1())
    root = await make_root(CaIdentity(plan.trust_domain, "root", 1, mark), LocalKey(root_key), _serial(), now)
    write_key(plan.offline / ROOT_KEY_FILE, root_key, plan.passphrase)
    crl_url = plan.public_url.rstrip("/") + root_crl_path(root.authority)
    for name in _ISSUING:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = CaIdentity(plan.trust_domain, name, 1, mark)
        asked = describe_key(key.public_key())
        issuing = await make_issuing(identity, asked, root, LocalKey(root_key), _serial(), now, crl_url)
        write_key(plan.directory / "keys" / f"{name}-ca.key.pem", key, plan.passphrase)
        write_secret(certs / f"{name}-ca.pem", _pem(issuing.certificate_der))
    der = await make_root_crl(1, [], root, LocalKey(root_key), now, ROOT_CRL_LIFE)
    crl = x509.load_der_x509_crl(der).public_bytes(serialization.Encoding.PEM)
    write_secret(certs / ROOT_CRL_FILE, crl)
    write_secret(certs / "root.pem", _pem(root.certificate_der))
    return crl


def _serial() -> int:
    return make_serial(os.urandom(SERIAL_BYTES))


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _settings(plan: Plan) -> bytes:
    # JSON strings and lists of strings are valid TOML.
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
    metrics = metrics_toml(plan.metrics_port)
    return f"{text}\n\n{listener}\n\n{pki}\n\n{metrics}{database_toml(plan.database)}\n".encode()
