"""Fabric's listener and its calls follow the published bundle while they run: no restart, no connection lost."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
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
from cloud.mtls.identity import load_identity
from cloud.mtls.key_pair import load_key_pair
from cloud.process.settings import load_settings
from protocol.ids import ServiceSpiffeId
from protocol.limits import REQUEST_BODY_BYTES_MAX
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN, Clock
from tests.cloud.fabric.authorities import BEGAN, ENDS, Generation
from tests.cloud.fabric.publishing import YEAR
from tests.cloud.fabric.support import ALICE
from tests.cloud.world import connected, listening, port_of, unit_of

pytestmark = pytest.mark.slow

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME"""


@dataclass
class Running:
    """A Fabric that listens; nobody beats its heart but the test."""

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
        """Who takes the server for what it is (its certificate is the first generation's)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(self.home / "fabric" / "certs" / "root.pem"))
        # The server's certificate is of the tests' own day; here only the client's side is looked at.
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


@pytest.fixture
async def at_work(home: Path, tmp_path: Path) -> AsyncIterator[Running]:
    copy = tmp_path / "cloud"
    shutil.copytree(home, copy)
    clock = Clock(datetime.now(UTC))
    settings = load_settings(copy / "fabric" / "settings.toml", FabricSettings)
    async with opened(settings, clock) as fabric, listening(unit_of(*fabric.served.listeners)) as servers:
        yield Running(fabric, port_of(servers[0]), copy, clock)


async def test_a_new_root_is_taken_and_a_dropped_one_refused_while_the_listener_lives(at_work: Running) -> None:
    second, third = Generation(2), Generation(3)
    refused = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
    async with connected(at_work.port, at_work.client(None)) as kept:
        assert (await kept.ask("/healthz")).status == 200
        with pytest.raises(refused):
            await at_work.asked(second)
        await at_work.publish(Changes(add_roots=(second.root.der,), add_services=(second.services.der,)))
        assert await at_work.asked(second) == 200
        with pytest.raises(refused):
            await at_work.asked(third)
        await at_work.publish(Changes(drop_roots=(second.root.key_id,), drop_issuers=(second.services.key_id,)))
        with pytest.raises(refused):
            await at_work.asked(second)
        assert (await kept.ask("/healthz")).status == 200


async def test_it_starts_from_what_is_published_not_from_the_folder(at_work: Running) -> None:
    current_trust = at_work.fabric.parts.current_trust
    assert current_trust.version == 1
    seed = x509.load_pem_x509_certificate((at_work.home / "fabric" / "certs" / "root.pem").read_bytes())
    assert current_trust.roots == (seed,)
    identity = load_identity(at_work.home / "fabric" / "tls", at_work.home / "passphrase")
    assert at_work.fabric.connections.service_certificates() == {"fabric": identity.leaf}


async def test_calls_go_out_under_the_new_trust(at_work: Running) -> None:
    before = at_work.fabric.connections.client._context
    await at_work.publish(Changes(add_roots=(Generation(2).root.der,)))
    after = at_work.fabric.connections.client._context
    assert after is not before
    assert after.server_check.trust is at_work.fabric.parts.current_trust.trust
    assert len(after.get_ca_certs()) == 2


async def test_the_routes_are_the_operators(at_work: Running) -> None:
    parts = at_work.fabric.parts
    made = await parts.operators.tokens.create(ALICE, schemas.CreateToken("of the test"))
    admitted = {"authorization": f"Bearer {made.secret}"}
    newest = await parts.stores.repository.latest("targets")
    assert newest is not None
    repeat = msgspec.json.encode(schemas.PublishTrust(targets=newest.data))
    async with connected(at_work.port, at_work.client(None)) as client:
        for path in ("/v1/trust", "/v1/trust/adoption", "/v1/trust/adoption/nodes"):
            assert (await client.ask(path)).problem.code == "operator_required"
            assert (await client.ask(path, headers=admitted)).status == 200
        answer = await client.ask("/v1/trust/targets", "POST", admitted, repeat)
        assert msgspec.json.decode(answer.body, type=schemas.Trust).targets_version == 1
        assert (await client.ask("/v1/trust/targets", "POST", admitted, b"{}")).problem.code == "trust_refused"
        order = await client.ask("/v1/trust/renew-devices", "POST", admitted, b'{"reason":"a test"}')
        assert msgspec.json.decode(order.body, type=schemas.RenewalOrder).nodes == 0
        assert (await client.ask("/v1/trust/renew-devices", "POST", admitted, b'{"after":1}')).problem.code == "invalid"
        naive = b'{"after":"2027-01-01T00:00:00"}'
        assert (await client.ask("/v1/trust/renew-devices", "POST", admitted, naive)).problem.code == "invalid"
        shown = await client.ask("/v1/trust/adoption", headers=admitted)
        assert msgspec.json.decode(shown.body, type=schemas.Adoption).renewal is not None
        large = msgspec.json.encode(schemas.PublishTrust(targets=b"x" * REQUEST_BODY_BYTES_MAX))
        assert (await client.ask("/v1/trust/targets", "POST", admitted, large)).problem.code == "too_large"
