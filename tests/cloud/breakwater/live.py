"""A Breakwater with listeners, and clients that call it with its certificates."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.app import Breakwater, opened
from cloud.breakwater.settings import BreakwaterSettings
from cloud.clock import utc_now
from cloud.mtls.chain import chain_to_pem
from cloud.mtls.client import CheckedContext, CloudClient, ServerCheck, client_context, expected_service
from cloud.mtls.identity import load_identity
from cloud.mtls.peer import PeerTrust
from cloud.process.settings import load_settings
from cloud.storage import Row, Statement
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.support import TRUST_DOMAIN
from tests.cloud.world import listening, port_of, unit_of


@dataclass
class Live:
    """The running service, its ports, and contexts to call it."""

    home: Path
    running: Breakwater
    port: int
    pki_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def fetch(self, statement: Statement) -> list[Row]:
        """Run a query on the running service's database."""
        return await self.running.parts.stores.engine.fetch(statement)

    def trust(self) -> PeerTrust:
        nodes, services = (
            x509.load_pem_x509_certificate((self.home / "breakwater" / "certs" / f"{name}-ca.pem").read_bytes())
            for name in ("nodes", "services")
        )
        return PeerTrust(TRUST_DOMAIN, (nodes,), (services,))

    def context(self, chain_pem: bytes = b"", key: ec.EllipticCurvePrivateKey | None = None) -> CheckedContext:
        check = ServerCheck(expected_service(TRUST_DOMAIN, "breakwater"), self.trust(), utc_now, lambda _: False)
        root = (self.home / "breakwater" / "certs" / "root.pem").read_bytes()
        return client_context(root, check, chain_pem, key)

    def fabric(self) -> CloudClient:
        identity = load_identity(self.home / "fabric" / "tls", self.home / "passphrase")
        return CloudClient(self.url, self.context(identity.chain_pem, identity.key))

    def breakwater(self) -> CloudClient:
        identity = load_identity(self.home / "breakwater" / "tls", self.home / "passphrase")
        return CloudClient(self.url, self.context(identity.chain_pem, identity.key))

    def holder(self, certificate: Certificate, key: ec.EllipticCurvePrivateKey) -> CloudClient:
        return CloudClient(self.url, self.context(chain_to_pem(certificate), key))

    def anonymous(self) -> CloudClient:
        return CloudClient(self.url, self.context())


@asynccontextmanager
async def live_at(home: Path) -> AsyncIterator[Live]:
    """Start Breakwater from an initialised directory on free ports."""
    settings = load_settings(home / "breakwater" / "settings.toml", BreakwaterSettings)
    async with opened(settings) as breakwater, listening(unit_of(*breakwater.served.listeners)) as servers:
        yield Live(home, breakwater, port_of(servers[0]), port_of(servers[1]))
