"""Helper: a Fabric that listens. Its follower runs only when a test calls it."""

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.fabric import schemas
from cloud.fabric.app import Fabric, opened
from cloud.fabric.settings import FabricSettings
from cloud.fabric.tuf.bootstrap import TARGETS_KEY, read_signer
from cloud.fabric.tuf.checking import hashes_of
from cloud.fabric.tuf.offline import Changes, changed
from cloud.fabric.tuf.repository import sign_targets
from cloud.fabric.tuf.targets import read_content
from cloud.mtls.key_pair import load_key_pair
from cloud.process.settings import load_settings
from protocol.ids import ServiceSpiffeId
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN, Clock
from tests.cloud.fabric.authorities import BEGAN, ENDS, Generation
from tests.cloud.fabric.publishing import YEAR
from tests.cloud.fabric.support import ALICE
from tests.cloud.world import connected, listening, port_of, unit_of

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME"""


@dataclass
class Running:
    """A Fabric that listens. Only the test runs the follower."""

    fabric: Fabric
    port: int
    home: Path
    clock: Clock

    async def publish(self, changes: Changes) -> None:
        files, repository = {}, self.fabric.parts.stores.repository
        newest = await repository.latest("targets")
        assert newest is not None
        for name, sha256 in hashes_of(newest.data).items():
            files[name] = await repository.target(name, sha256) or b""
        files = changed(read_content(files), changes).encoded()
        signer = read_signer(self.home / "offline" / TARGETS_KEY, PASSPHRASE)
        targets = sign_targets(self.clock() + YEAR, newest.version + 1, signer, files)
        body = schemas.PublishTrust(targets=targets.data, contents=files, override=True, reason="a test")
        await self.fabric.parts.trust.publishing.publish(ALICE, body)
        await self.fabric.parts.trust.follower.run_once()

    def client(self, by: Generation | None) -> ssl.SSLContext:
        """A client context that trusts the server's certificate, which is from the first generation of CAs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(self.home / "fabric" / "certs" / "root.pem"))
        # The server's certificate is valid on the day of the test clock. The tests check the client's certificate only.
        context.verify_flags |= NO_CHECK_TIME
        if by is not None:
            key = ec.generate_private_key(ec.SECP256R1())
            uri = str(ServiceSpiffeId(TRUST_DOMAIN, "ledger"))
            leaf = by.services.sign(
                uri,
                ((NameOID.COMMON_NAME, "ledger"),),
                key.public_key(),
                (ExtendedKeyUsageOID.CLIENT_AUTH,),
                (BEGAN, ENDS),
            )
            chain = leaf.public_bytes(serialization.Encoding.PEM) + by.services.pem
            load_key_pair(context, chain, key)
        return context

    async def asked(self, by: Generation | None) -> int:
        async with connected(self.port, self.client(by)) as client:
            return (await client.ask("/healthz")).status


@asynccontextmanager
async def running_at(home: Path, tmp_path: Path) -> AsyncIterator[Running]:
    copy = tmp_path / "cloud"
    shutil.copytree(home, copy)
    clock = Clock(datetime.now(UTC))
    settings = load_settings(copy / "fabric" / "settings.toml", FabricSettings)
    async with opened(settings, clock) as fabric, listening(unit_of(*fabric.served.listeners)) as servers:
        yield Running(fabric, port_of(servers[0]), copy, clock)
