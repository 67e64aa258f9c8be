"""Renewal of the certificate of a running service, with a real Breakwater."""

import asyncio
import copy
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import cast
from unittest.mock import AsyncMock

import msgspec
import pytest
from cryptography import x509

from cloud.breakwater.admin import Admin, opened
from cloud.breakwater.bootstrap import renew_service, replace_unusable
from cloud.clock import utc_now
from cloud.crypto.keyfile import read_key, write_key
from cloud.mtls.chain import build_chain
from cloud.mtls.client import Unreachable
from cloud.mtls.est_client import EstClient
from cloud.mtls.identity import CHAIN_FILE, KEY_FILE, NEXT_KEY_FILE, Identity, IdentityError, load_identity, make_csr
from cloud.mtls.renewal import IdentityRenewal, IssuerClient, Rekey
from cloud.mtls.server import ServerTls
from cloud.process.serve import Listener
from protocol.ids import ServiceName
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.support import PASSPHRASE, new_key
from tests.cloud.mtls.identities import crossed, der, folder, identity
from tests.cloud.mtls.stopping import StopAfter
from tests.cloud.pki import Pki, authority
from tests.cloud.world import ROUTES, World, connected, listening, port_of, unit_of
from tests.fault_hooks import hooked

pytestmark = pytest.mark.slow


def renewal_of(
    live: Live, issuer: IssuerClient, tls: tuple[ServerTls, ...] = (), *, rekey: bool = False
) -> IdentityRenewal:
    return IdentityRenewal(
        identity(live),
        folder(live),
        trust=live.trust,
        issuer=issuer,
        now=utc_now,
        server_tls=tls,
        rekey=Rekey(live.home / "passphrase") if rekey else None,
    )


class ScriptedIssuer:
    """An issuer that returns prepared answers, or else those of a real issuer."""

    def __init__(self, issuer: IssuerClient, leaf: bytes | None = None, cas: tuple[bytes, ...] | None = None) -> None:
        self._issuer = issuer
        self._leaf = leaf
        self._cas = cas
        self.requests: list[str] = []
        self.answers: list[bytes] = []
        self.lose = 0

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        self.requests.append(request)
        self.answers.append(await self._issuer.reenroll(csr, request) if self._leaf is None else self._leaf)
        if self.lose:
            self.lose -= 1
            raise Unreachable("lost")
        return self.answers[-1]

    async def ca_certificates(self) -> tuple[bytes, ...]:
        return await self._issuer.ca_certificates() if self._cas is None else self._cas


def serial_of(writer: asyncio.StreamWriter) -> int:
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


async def test_new_connections_get_the_new_certificate_and_old_ones_live_on(live: Live) -> None:
    old = identity(live)
    root = (live.home / "breakwater" / "certs" / "root.pem").read_bytes()
    tls = ServerTls(old.chain_pem, old.key, root)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.decode())
    unit = unit_of(Listener(World().app(), "127.0.0.1", 0, tls))
    assert ROUTES
    async with listening(unit) as servers, live.fabric() as client:
        port = port_of(servers[0])
        async with connected(port, context) as before:
            assert serial_of(before.writer) == old.leaf.serial_number
            it = renewal_of(live, EstClient(client), (tls,), rekey=True)
            stop = StopAfter(1)
            await it.run(stop)
            assert it.identity.leaf.serial_number != old.leaf.serial_number
            assert it.identity.key.public_key() != old.key.public_key()
            assert (await before.ask("/open")).status == 200
            async with connected(port, context) as after:
                assert serial_of(after.writer) == it.identity.leaf.serial_number
                assert (await after.ask("/open")).status == 200
            assert (await before.ask("/open")).status == 200
    assert identity(live).leaf == it.identity.leaf
    assert stop.asked[0] == 1.0
    assert stop.asked[1] == 60


async def test_breakwater_renews_its_own(live: Live) -> None:
    it = live.running.identity.renewal
    old = it.identity.leaf.serial_number
    await it.run(StopAfter(1))
    assert it.identity.leaf.serial_number != old
    async with live.anonymous() as client:
        assert (await client.call("GET", "/readyz")).status == 200
    assert load_identity(live.home / "breakwater" / "tls", live.home / "passphrase").leaf == it.identity.leaf


@pytest.mark.parametrize("rekey", [False, True])
async def test_a_lost_answer_gets_the_same_certificate(live: Live, rekey: bool) -> None:
    async with live.fabric() as client:
        issuer = ScriptedIssuer(EstClient(client))
        issuer.lose = 1
        it = renewal_of(live, issuer, rekey=rekey)
        stop = StopAfter(2)
        await it.run(stop)
    assert issuer.answers[0] == issuer.answers[1] == der(it.identity.leaf)
    assert issuer.requests[0] == issuer.requests[1]
    assert stop.asked[1] == 600


async def test_nothing_is_done_before_the_half(live: Live) -> None:
    await live.running.identity.renewal.renew()
    never = ScriptedIssuer(live.running.identity.renewal._issuer, leaf=b"")
    fresh = renewal_of(live, never)
    fresh.identity = live.running.identity.renewal.identity
    stop = StopAfter(3)
    await fresh.run(stop)
    assert stop.asked == [60] * 4
    assert never.requests == []


async def test_it_renews_on_demand_and_retries_until_it_has(live: Live) -> None:
    async with live.fabric() as client:
        it = renewal_of(live, EstClient(client))
        await it.renew()
        first = it.identity.leaf.serial_number
        issuer = it._issuer = ScriptedIssuer(EstClient(client))
        issuer.lose = 1
        it.renew_now()
        stop = StopAfter(3)
        await it.run(stop)
    assert stop.wanted == [True, False, False, False]
    assert stop.asked == [60, 600, 60, 60]
    assert len(issuer.requests) == 2
    assert it.identity.leaf.serial_number != first


async def test_a_change_of_trust_renews_only_what_it_ends(live: Live) -> None:
    async with live.fabric() as client:
        it = renewal_of(live, EstClient(client))
        await it.renew()
        issuer = it._issuer = ScriptedIssuer(EstClient(client))
        services = live.trust().service_issuers
        it.trust_changed()
        it.trust_changed((*Pki().trust.service_issuers, *services))
        await it.run(StopAfter(1))
        assert issuer.requests == []
        it.trust_changed(Pki().trust.service_issuers)
        await it.run(StopAfter(1))
        assert len(issuer.requests) == 1


async def test_an_answer_that_is_not_ours_changes_nothing(live: Live) -> None:
    mine = identity(live)
    files = {path.name: path.read_bytes() for path in folder(live).iterdir()}
    issuing, pki = live.running.parts.issuing, Pki()
    caller = "service/fabric"
    other_key = await issuing.issue_service("fabric", make_csr(new_key()), "k", caller)
    other_name = await issuing.issue_service("breakwater", make_csr(new_key()), "n", caller)
    ours = await issuing.issue_service("fabric", make_csr(mine.key), "o", caller)
    async with live.fabric() as client:
        issuer = EstClient(client)
        cases = {
            "another key": ScriptedIssuer(issuer, other_key.certificate_chain[0]),
            "another name": ScriptedIssuer(issuer, other_name.certificate_chain[0]),
            "noise": ScriptedIssuer(issuer, b"noise"),
            "the old one": ScriptedIssuer(issuer, der(mine.leaf)),
            "a CA": ScriptedIssuer(issuer, ours.certificate_chain[1]),
            "another issuer": ScriptedIssuer(issuer, der(pki.service("fabric").certificate)),
            "noise for CAs": ScriptedIssuer(issuer, ours.certificate_chain[0], (b"noise",)),
        }
        for name, says in cases.items():
            it = renewal_of(live, says)
            with pytest.raises(IdentityError):
                await it.renew()
            assert it.identity.leaf == mine.leaf, name
    assert {path.name: path.read_bytes() for path in folder(live).iterdir()} == files


STEPS = [(step, stage) for step in ("request", "key", "chain", "swap") for stage in ("before", "after")]


class Killed(BaseException):
    """Plays the sudden end of the process."""


@pytest.mark.parametrize(("step", "stage"), STEPS)
async def test_a_crash_at_any_step_leaves_key_and_chain_together(live: Live, step: str, stage: str) -> None:
    def kill(name: str, at: str) -> None:
        if (name, at) == (f"breakwater.identity.{step}", stage):
            raise Killed

    async with live.fabric() as client:
        with hooked(kill), pytest.raises(Killed):
            await renewal_of(live, EstClient(client), rekey=True).renew()
        found = identity(live)
        again = renewal_of(live, EstClient(client), rekey=True)
        await again.renew()
    assert again.identity.key.public_key() != found.key.public_key()
    assert identity(live).leaf == again.identity.leaf
    assert read_key(folder(live) / KEY_FILE, PASSPHRASE).public_key() == again.identity.key.public_key()
    assert {path.name for path in folder(live).iterdir()} == {KEY_FILE, CHAIN_FILE}


async def test_a_next_key_that_cannot_be_read_is_replaced(live: Live) -> None:
    write_key(folder(live) / NEXT_KEY_FILE, new_key(), b"another passphrase altogether")
    old = identity(live)
    async with live.fabric() as client:
        it = renewal_of(live, EstClient(client), rekey=True)
        await it.renew()
    assert identity(live).key.public_key() == it.identity.key.public_key() != old.key.public_key()


def test_a_chain_that_leads_to_a_root_that_left_is_renewed(tmp_path: Path) -> None:
    pki, older = Pki(), authority("older")
    seen: list[object] = []
    leaf = pki.service("fabric")
    trust = msgspec.structs.replace(pki.trust, roots=(pki.root.certificate, older.certificate))
    chain = build_chain(leaf.certificate, (der(crossed(pki.root, older)),), trust, utc_now())
    mine, issuer = Identity(leaf.key, chain, leaf.certificate), cast(IssuerClient, None)
    for roots in (trust.roots, None, (pki.root.certificate,)):
        trust = msgspec.structs.replace(trust, roots=roots)
        it = IdentityRenewal(mine, tmp_path, trust=partial(copy.copy, trust), issuer=issuer, now=utc_now)
        it.renew_now = partial(seen.append, roots)  # type: ignore[method-assign]  # records the calls
        it.trust_changed()
    assert seen == [(pki.root.certificate,)]


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365)])
async def test_a_certificate_from_the_future_waits_for_one_in_the_files(live: Live, ahead: timedelta) -> None:
    """The clock was ahead at the renewal. Breakwater refuses the certificate, so EST cannot replace it."""
    tls: dict[ServiceName, Path] = {"fabric": folder(live)}
    settings = live.home / "breakwater" / "settings.toml"
    async with issuer_of(live, lambda: utc_now() + ahead) as admin:
        passphrase = live.home / "passphrase"
        await renew_service(admin.parts.issuing, "fabric", folder(live), passphrase, "operator/test")
    async with live.fabric() as client:
        it = renewal_of(live, EstClient(client))
        it.load_again_with(partial(identity, live))
        future = it.identity.leaf
        stop = StopAfter(1)
        await it.run(stop)
        assert stop.asked == [1.0, 60]
        assert it.identity.leaf == future
        assert future.not_valid_before_utc > utc_now()
    (fault,) = (await replace_unusable(settings, tls, utc_now)).values()
    assert fault.startswith("is not valid before")
    assert await replace_unusable(settings, tls, utc_now) == {}
    seen: list[Identity] = []
    it._on_renewed = (AsyncMock(side_effect=seen.append),)
    await it.run(StopAfter(1))
    assert not it.identity.outside(utc_now())
    assert seen == [it.identity]
    async with live.fabric() as client:
        assert (await client.call("GET", "/readyz")).status == 200


async def test_the_answer_of_an_issuer_whose_clock_is_ahead_is_refused(live: Live) -> None:
    async with issuer_of(live, lambda: utc_now() + timedelta(hours=1)) as admin, live.fabric() as client:
        mine = identity(live)
        issued = await admin.parts.issuing.issue_service("fabric", make_csr(mine.key), "r", "service/fabric")
        with pytest.raises(IdentityError, match="the new certificate is not valid before"):
            await renewal_of(live, ScriptedIssuer(EstClient(client), issued.certificate_chain[0])).renew()
    assert identity(live).leaf == mine.leaf


@asynccontextmanager
async def issuer_of(live: Live, now: Callable[[], datetime]) -> AsyncIterator[Admin]:
    """The issuer of a running Breakwater, opened by another process with another clock."""
    async with opened(live.home / "breakwater" / "settings.toml", now) as admin:
        yield admin
