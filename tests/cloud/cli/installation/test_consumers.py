"""`cascade consumer`: a real server takes the claims, for the events of one tenant, until the consumer is revoked."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import nats
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.cli.main import main
from cloud.clock import utc_now
from cloud.events.nats.connection import Access, Message, connected
from cloud.events.nats.stream import declare_consumers, declare_stream
from cloud.events.outbox import Outbox
from cloud.fabric.store import stores_over
from cloud.fabric.store.rows import TenantRow
from cloud.storage.database import open_database
from lab.nats import NatsServer
from protocol.ids import TenantId, make_id
from tests.cloud.events.nats.support import SETTINGS

KEY = Ed25519PrivateKey.generate()
TENANT = TenantId(make_id("ten", 1, bytes(10)))


def _public(path: Path, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> Path:
    encoding = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(key.public_key().public_bytes(*encoding))
    return path


async def _active(directory: Path) -> dict[str, str]:
    async with open_database("fabric", directory / "fabric" / "database.sqlite") as engine:
        return await stores_over(engine).consumers.active(utc_now())


async def _add_tenant(directory: Path) -> None:
    async with open_database("fabric", directory / "fabric" / "database.sqlite") as engine:
        stores = stores_over(engine, Outbox(engine, "fabric", utc_now, entropy=os.urandom))
        async with stores.transaction("tenants"):
            await stores.tenants.insert(TenantRow(TENANT, "acme", bytes(16), (), utc_now()), "created")


async def _read(server: NatsServer, directory: Path, consumer: str, token: str) -> list[str]:
    """Copy what the database says about consumers, and read as the tenant's program does."""
    async with connected(Access(server.url, server.ca_file, directory / "fabric" / "nats.creds", "fabric")) as link:
        await declare_stream(link, SETTINGS)
        await declare_consumers(link, await _active(directory))
        await link.store([Message(f"cascade.{tenant}.fabric.n.p.1", tenant, b"{}") for tenant in (TENANT, "ten_2")])
    client = await nats.connect(
        server.url,
        tls=server.tls(),
        inbox_prefix=f"_INBOX.{consumer}",
        user_jwt_cb=lambda: bytearray(token.encode()),
        signature_cb=lambda nonce: base64.b64encode(KEY.sign(nonce.encode())),
    )
    try:
        subscription = await client.jetstream().pull_subscribe_bind(consumer, "CASCADE_EVENTS")
        return [message.subject for message in await subscription.fetch(5, timeout=0.5)]
    except nats.errors.Error as error:
        return [type(error).__name__]
    finally:
        await client.close()


def test_a_consumer_reads_until_it_is_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, server = tmp_path / "cloud", NatsServer(tmp_path / "nats")
    made = ["--dir", str(directory), "--json"]

    def run(*argv: str) -> Any:
        capsys.readouterr()
        code = main([*argv, *made])
        said = capsys.readouterr().out
        return json.loads(said) if code == 0 else (code, json.loads(said)["error"]["code"])

    run("init")
    asyncio.run(_add_tenant(directory))
    public, out = _public(tmp_path / "consumer.pub", KEY), tmp_path / "consumer.jwt"
    create = ["consumer", "create", "reports", "--tenant", TENANT, "--public-key", str(public), "--out", str(out)]
    assert run(*create) == (2, "key_unusable"), "no configuration of NATS"
    server.configuration = tmp_path / "nats.conf"
    files = ["--certificate", str(server.ca_file), "--key", str(server.directory / "server.key"), "--store"]
    listen = ["--listen", f"127.0.0.1:{server.port}", "--out", str(server.configuration)]
    run("config", "nats", *files, str(server.directory / "streams"), *listen)
    consumer = run(*create)["consumer"]["id"]
    assert run(*create) == (2, "file_in_the_way")
    assert [row["id"] for row in run("consumer", "list", "--tenant", TENANT)] == [consumer]
    server.start()
    try:
        token = out.read_text().strip()
        assert asyncio.run(_read(server, directory, consumer, token)) == [f"cascade.{TENANT}.fabric.n.p.1"]
        revoked = run("consumer", "revoke", consumer)
        assert isinstance(revoked, dict), revoked
        first = revoked["revoked_at"]
        assert run("consumer", "revoke", consumer)["revoked_at"] == first
        assert asyncio.run(_read(server, directory, consumer, token)) == ["ServiceUnavailableError"]
    finally:
        server.kill()
    other = _public(tmp_path / "other.pub", ec.generate_private_key(ec.SECP256R1()))
    refused = {
        ("--public-key", str(other)): (2, "key_unusable"),
        ("--public-key", str(out)): (2, "key_unusable"),
        ("--tenant", make_id("ten", 2, bytes(10))): (77, "not_found"),
        ("--tenant", "x"): (2, "id_invalid"),
        ("--days", "0"): (2, "value_out_of_range"),
        ("--days", "367"): (2, "value_out_of_range"),
    }
    for option, expected in refused.items():
        assert run(*create, "--out", str(tmp_path / "more.jwt"), *option) == expected, option
    assert run("consumer", "revoke", make_id("cns", 2, bytes(10))) == (77, "not_found")
    assert len(run("consumer", "list", "--tenant", TENANT)) == 1
