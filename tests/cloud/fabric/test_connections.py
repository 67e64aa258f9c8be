"""`cloud.fabric.connections`: listeners and calls use a new published trust without a restart."""

import asyncio
import ssl

import pytest
from cryptography import x509

from cloud.fabric.tuf.offline import Changes
from cloud.mtls.identity import load_identity
from tests.cloud.fabric.at_work import Running
from tests.cloud.fabric.authorities import Generation
from tests.cloud.world import connected

pytestmark = pytest.mark.slow


async def test_a_listener_accepts_a_new_root_and_refuses_a_dropped_root_without_a_restart(at_work: Running) -> None:
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


async def test_it_starts_from_the_published_trust_and_not_from_the_folder(at_work: Running) -> None:
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
