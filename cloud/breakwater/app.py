"""The wiring of Breakwater: settings in, a `Unit` of the process out. Decides nothing."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from litestar import Litestar

from cloud.breakwater.routes import routes
from cloud.breakwater.service import Issuing
from cloud.breakwater.settings import BreakwaterSettings
from cloud.breakwater.signer import Signer, is_for_development, load_file_signer
from cloud.breakwater.store import Store
from cloud.breakwater.tables import ENGINE
from cloud.clock import utc_now
from cloud.guard import Guard
from cloud.issuing import IssueServiceCertificate
from cloud.keyfile import read_passphrase
from cloud.peer import PeerTrust, ServerTls
from cloud.server import Listener, Unit
from cloud.service_identity import IdentityKeeper, load_identity
from cloud.settings import GateRefused, check_gates, load_settings
from cloud.storage.migrate import ensure_migrated
from cloud.web import make_app
from protocol.sessions import Certificate

Now = Callable[[], datetime]


class Wired(msgspec.Struct, frozen=True):
    """The parts of a running Breakwater."""

    unit: Unit
    app: Litestar
    issuing: Issuing
    identity: IdentityKeeper


def peer_trust(trust_domain: str, signer: Signer) -> PeerTrust:
    """Whom this service believes: peers issued by its own two CAs, each for its class."""
    nodes, services = (
        x509.load_der_x509_certificate(signer.issuer(name).certificate_der) for name in ("nodes", "services")
    )
    return PeerTrust(trust_domain, (nodes,), (services,))


def make_breakwater_app(issuing: Issuing, trust: PeerTrust, now: Now) -> Litestar:
    """The ASGI application over an issuer."""
    return make_app(routes(), Guard(trust=lambda: trust, checks=issuing, now=now), issuing)


def wire(settings: BreakwaterSettings, now: Now = utc_now) -> Wired:
    """Read keys and certificates and put the service together; nothing listens and no database is open yet.

    Raises:
        SettingsError, SignerError, KeyFileError, IdentityError: naming the file.
    """
    check_gates(settings)
    passphrase_file = settings.path(settings.passphrase_file)
    signer, root = load_file_signer(settings.path(settings.ca), read_passphrase(passphrase_file))
    if settings.mode == "production" and is_for_development(root):
        raise GateRefused("ca-is-not-for-development", "the root CA was made by a development `cascade init`")
    database = settings.path(settings.database.path)
    ENGINE.configure(database)
    issuing = Issuing(Store(ENGINE), signer, settings.trust_domain, now, os.urandom)
    trust = peer_trust(settings.trust_domain, signer)
    app = make_breakwater_app(issuing, trust, now)
    tls_directory = settings.path(settings.tls)
    identity = load_identity(tls_directory, passphrase_file)
    tls = ServerTls(identity.chain_pem, identity.key, root.public_bytes(serialization.Encoding.PEM))

    async def ask_myself(body: IssueServiceCertificate) -> Certificate:
        return await issuing.issue_service("breakwater", body)

    keeper = IdentityKeeper(identity, tls_directory, trust=lambda: trust, ask=ask_myself, now=now, server_tls=(tls,))

    async def start() -> None:
        await asyncio.to_thread(ensure_migrated, "breakwater", database)
        await ENGINE.open()
        await issuing.recover()

    unit = Unit(
        name="breakwater",
        open=start,
        close=ENGINE.close,
        listeners=tuple(Listener(app, where.host, where.port, tls) for where in settings.listeners),
        tasks=(keeper.keep,),
    )
    return Wired(unit, app, issuing, keeper)


def breakwater_unit(settings_file: Path, now: Now = utc_now) -> Unit:
    """Breakwater as `cascade up` and `cascade serve` run it."""
    return wire(load_settings(settings_file, BreakwaterSettings), now).unit
