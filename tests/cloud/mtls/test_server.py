"""The TLS side of a listener: certificates and CAs are changed in use; old TLS versions and tickets are refused."""

import asyncio
import ssl

import pytest
from cryptography import x509

from cloud.mtls.peer import PeerTrust
from cloud.mtls.server import ServerTls
from tests.cloud.pki import Leaf, Pki, authority
from tests.cloud.world import World, connected


def test_a_renewed_server_certificate_is_seen_by_the_next_connection() -> None:
    async def test() -> None:
        world = World()
        context = world.client_context()

        async def serial(client: ssl.SSLContext, port: int) -> int:
            async with connected(port, client) as connection:
                der = connection.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                assert (await connection.ask("/open")).status == 200
                return x509.load_der_x509_certificate(der).serial_number

        async with world.serving() as port, connected(port, context) as kept:
            assert await serial(context, port) == world.server_leaf.certificate.serial_number
            renewed = world.pki.service("fabric")
            with pytest.raises(ssl.SSLError):
                world.tls.reload(renewed.chain_pem, world.server_leaf.key)
            assert await serial(context, port) == world.server_leaf.certificate.serial_number
            world.tls.reload(renewed.chain_pem, renewed.key)
            assert await serial(context, port) == renewed.certificate.serial_number
            assert (await kept.ask("/open")).status == 200

    asyncio.run(test())


def test_another_set_of_cas_counts_for_new_connections_while_the_listener_lives() -> None:
    async def test() -> None:
        world = World()
        old, new = world.pki, Pki(authority("root 2"))
        of_old, of_new = old.service("fabric"), new.service("fabric")

        async def asked(leaf: Leaf) -> int:
            async with connected(port, world.client_context(leaf)) as client:
                return (await client.ask("/fabric")).status

        async with world.serving() as port, connected(port, world.client_context(of_old)) as kept:
            assert (await kept.ask("/fabric")).status == await asked(of_old) == 200
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await asked(of_new)
            world.tls.retrust(old.root.pem + new.root.pem)
            assert await asked(of_old) == 200
            assert await asked(of_new) == 403  # OpenSSL accepts the certificate now; its issuer is not trusted yet
            world.trust = PeerTrust(world.trust.trust_domain, (), (old.services.certificate, new.services.certificate))
            assert await asked(of_new) == 200
            world.tls.retrust(new.root.pem)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await asked(of_old)
            assert await asked(of_new) == 200
            # The open connection stays open, and its client is admitted as long as its issuer is trusted.
            assert (await kept.ask("/fabric")).status == 200
            world.trust = PeerTrust(world.trust.trust_domain, (), (new.services.certificate,))
            assert (await kept.ask("/fabric")).problem.code == "peer_refused"

    asyncio.run(test())


def test_unusable_cas_change_nothing_and_no_cas_accept_no_client() -> None:
    async def test() -> None:
        world = World()
        leaf = world.pki.service("fabric")
        async with world.serving() as port:
            with pytest.raises(ssl.SSLError):
                world.tls.retrust(b"no certificate")
            renewed = world.pki.service("fabric")
            world.tls.reload(renewed.chain_pem, renewed.key)
            async with connected(port, world.client_context(leaf)) as client:
                assert (await client.ask("/fabric")).status == 200
            world.tls.retrust(b"")
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with connected(port, world.client_context(leaf)) as client:
                    await client.ask("/fabric")
            async with connected(port, world.client_context()) as client:
                assert (await client.ask("/open")).status == 200

    asyncio.run(test())


def test_tls_is_1_3_and_gives_no_tickets() -> None:
    async def test() -> None:
        world = World()
        old = world.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with world.serving() as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with connected(port, old):
                    pass
            async with connected(port, world.client_context()) as client:
                await client.ask("/open")
                tls = client.writer.get_extra_info("ssl_object")
                assert tls.version() == "TLSv1.3"
                assert tls.session is None or not tls.session.has_ticket

    asyncio.run(test())


def test_tls_settings_are_real() -> None:
    pki = Pki()
    leaf = pki.service("fabric")
    context = ServerTls(leaf.chain_pem, leaf.key, pki.ca_pem).context
    assert (context.num_tickets, context.minimum_version.name) == (0, "TLSv1_3")
