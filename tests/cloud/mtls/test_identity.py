"""Renewal of a service's certificate while it serves, asked of a real Breakwater over EST."""

import asyncio
import copy
import shutil
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.crypto.keyfile import read_key, write_key, write_secret
from cloud.mtls.client import ProblemAnswer, Unreachable
from cloud.mtls.identity import (
    CHAIN_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    Identity,
    IdentityError,
    build_chain,
    load_identity,
    make_csr,
)
from cloud.mtls.peer import require_issuer
from cloud.mtls.renewal import Ask, IdentityKeeper, Rekey, through
from cloud.mtls.server import ServerTls
from cloud.process.serve import Listener
from cloud.tasks.stopping import Stopping
from protocol import faults
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, new_key, plan_for
from tests.cloud.pki import Authority, Pki, authority
from tests.cloud.world import ROUTES, World, connected, listening, port_of, unit_of

pytestmark = pytest.mark.slow

DAYS_BEFORE = timedelta(days=4)
"""Past the half of seven days, whatever the jitter."""


@pytest.fixture(scope="module")
def due(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation of some days ago has on disk."""
    home = tmp_path_factory.mktemp("due")
    write_secret(home / "passphrase", PASSPHRASE)
    asyncio.run(initialise(plan_for(home), lambda: utc_now() - DAYS_BEFORE))
    return home


@pytest.fixture
async def live(due: Path, tmp_path: Path) -> AsyncIterator[Live]:
    """A Breakwater that was initialised some days ago: certificates are due."""
    home = shutil.copytree(due, tmp_path / "cloud")
    async with live_at(home) as running_service:
        yield running_service


def folder(live: Live) -> Path:
    return live.home / "fabric" / "tls"


def identity(live: Live) -> Identity:
    return load_identity(folder(live), live.home / "passphrase")


def keeper(live: Live, ask: Ask, tls: tuple[ServerTls, ...] = (), *, rekey: bool = False) -> IdentityKeeper:
    return IdentityKeeper(
        identity(live),
        folder(live),
        trust=live.trust,
        ask=ask,
        now=utc_now,
        server_tls=tls,
        rekey=Rekey(live.home / "passphrase") if rekey else None,
    )


class Once(Stopping):
    """Wakes the task `turns` times, then stops it."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.asked: list[float] = []
        self.told: list[bool] = []

    async def first(self, event: asyncio.Event | None, seconds: float) -> bool:
        self.asked.append(seconds)
        self.told.append(event is not None and event.is_set())
        self.turns -= 1
        return self.turns < 0


class Says:
    """An issuer that says what it is told to, over what a real one says."""

    def __init__(self, ask: Ask, leaf: bytes | None = None, cas: tuple[bytes, ...] | None = None) -> None:
        self._ask = ask
        self._leaf = leaf
        self._cas = cas
        self.requests: list[str] = []
        self.answers: list[bytes] = []
        self.lose = 0

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        self.requests.append(request)
        self.answers.append(await self._ask.reenroll(csr, request) if self._leaf is None else self._leaf)
        if self.lose:
            self.lose -= 1
            raise Unreachable("lost")
        return self.answers[-1]

    async def ca_certificates(self) -> tuple[bytes, ...]:
        return await self._ask.ca_certificates() if self._cas is None else self._cas


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


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
            it = keeper(live, through(client), (tls,), rekey=True)
            stop = Once(1)
            await it.keep(stop)
            assert it.identity.leaf.serial_number != old.leaf.serial_number
            assert it.identity.key.public_key() != old.key.public_key()
            assert (await before.ask("/open")).status == 200
            async with connected(port, context) as after:
                assert serial_of(after.writer) == it.identity.leaf.serial_number
                assert (await after.ask("/open")).status == 200
            assert (await before.ask("/open")).status == 200
    assert identity(live).leaf == it.identity.leaf
    assert stop.asked[0] == 1.0
    assert stop.asked[1] == 3600


async def test_breakwater_renews_its_own(live: Live) -> None:
    it = live.wired.identity
    old = it.identity.leaf.serial_number
    await it.keep(Once(1))
    assert it.identity.leaf.serial_number != old
    async with live.anonymous() as client:
        assert (await client.call("GET", "/readyz")).status == 200
    assert load_identity(live.home / "breakwater" / "tls", live.home / "passphrase").leaf == it.identity.leaf


@pytest.mark.parametrize("rekey", [False, True])
async def test_a_lost_answer_gets_the_same_certificate(live: Live, rekey: bool) -> None:
    async with live.fabric() as client:
        ask = Says(through(client))
        ask.lose = 1
        it = keeper(live, ask, rekey=rekey)
        stop = Once(2)
        await it.keep(stop)
    assert ask.answers[0] == ask.answers[1] == der(it.identity.leaf)
    assert ask.requests[0] == ask.requests[1]
    assert stop.asked[1] == 600


async def test_nothing_is_done_before_the_half(live: Live) -> None:
    await live.wired.identity.renew()
    never = Says(live.wired.identity._ask, leaf=b"")
    fresh = keeper(live, never)
    fresh.identity = live.wired.identity.identity
    stop = Once(3)
    await fresh.keep(stop)
    assert stop.asked == [3600] * 4
    assert never.requests == []


async def test_it_renews_when_told_and_until_it_has(live: Live) -> None:
    async with live.fabric() as client:
        it = keeper(live, through(client))
        await it.renew()
        first = it.identity.leaf.serial_number
        ask = it._ask = Says(through(client))
        ask.lose = 1
        it.renew_now()
        stop = Once(3)
        await it.keep(stop)
    assert stop.told == [True, False, False, False]
    assert stop.asked == [3600, 600, 3600, 3600]
    assert len(ask.requests) == 2
    assert it.identity.leaf.serial_number != first


async def test_a_change_of_trust_renews_only_what_it_ends(live: Live) -> None:
    async with live.fabric() as client:
        it = keeper(live, through(client))
        await it.renew()
        ask = it._ask = Says(through(client))
        services = live.trust().service_issuers
        it.trust_changed()
        it.trust_changed((*Pki().trust.service_issuers, *services))
        await it.keep(Once(1))
        assert ask.requests == []
        it.trust_changed(Pki().trust.service_issuers)
        await it.keep(Once(1))
        assert len(ask.requests) == 1


async def test_an_answer_that_is_not_ours_changes_nothing(live: Live) -> None:
    mine = identity(live)
    files = {path.name: path.read_bytes() for path in folder(live).iterdir()}
    issuing, pki = live.wired.issuing, Pki()
    caller = "service/fabric"
    other_key = await issuing.issue_service("fabric", make_csr(new_key()), "k", caller)
    other_name = await issuing.issue_service("breakwater", make_csr(new_key()), "n", caller)
    ours = await issuing.issue_service("fabric", make_csr(mine.key), "o", caller)
    async with live.fabric() as client:
        ask = through(client)
        cases = {
            "another key": Says(ask, other_key.certificate_chain[0]),
            "another name": Says(ask, other_name.certificate_chain[0]),
            "noise": Says(ask, b"noise"),
            "the old one": Says(ask, der(mine.leaf)),
            "a CA": Says(ask, ours.certificate_chain[1]),
            "another issuer": Says(ask, der(pki.service("fabric").certificate)),
            "noise for CAs": Says(ask, ours.certificate_chain[0], (b"noise",)),
        }
        for name, says in cases.items():
            it = keeper(live, says)
            with pytest.raises(IdentityError):
                await it.renew()
            assert it.identity.leaf == mine.leaf, name
    assert {path.name: path.read_bytes() for path in folder(live).iterdir()} == files


async def test_refusals_and_other_answers_are_told_apart(live: Live) -> None:
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        with pytest.raises(ProblemAnswer) as caught:
            await through(anonymous).reenroll(make_csr(new_key()), "r")
        assert caught.value.problem.code == "peer_required"
        with pytest.raises(ProblemAnswer) as caught:
            await through(fabric).reenroll(make_csr(new_key()), "not a name")
        assert caught.value.problem.code == "invalid"
        cas = await through(fabric).ca_certificates()
    certs = live.home / "breakwater" / "certs"
    files = {x509.load_pem_x509_certificate(path.read_bytes()) for path in certs.glob("*.pem")}
    assert {x509.load_der_x509_certificate(ca) for ca in cas} == files


STEPS = [(step, stage) for step in ("request", "key", "chain", "swap") for stage in ("before", "after")]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("step", "stage"), STEPS)
async def test_a_crash_at_any_step_leaves_key_and_chain_together(
    live: Live, monkeypatch: pytest.MonkeyPatch, step: str, stage: str
) -> None:
    def kill(name: str, at: str) -> None:
        if (name, at) == (f"breakwater.identity.{step}", stage):
            raise Killed

    async with live.fabric() as client:
        monkeypatch.setattr(faults, "_hooks", [kill])
        with pytest.raises(Killed):
            await keeper(live, through(client), rekey=True).renew()
        monkeypatch.setattr(faults, "_hooks", [])
        found = identity(live)
        again = keeper(live, through(client), rekey=True)
        await again.renew()
    assert again.identity.key.public_key() != found.key.public_key()
    assert identity(live).leaf == again.identity.leaf
    assert read_key(folder(live) / KEY_FILE, PASSPHRASE).public_key() == again.identity.key.public_key()
    assert {path.name for path in folder(live).iterdir()} == {KEY_FILE, CHAIN_FILE}


async def test_a_next_key_that_cannot_be_read_is_replaced(live: Live) -> None:
    write_key(folder(live) / NEXT_KEY_FILE, new_key(), b"another passphrase altogether")
    old = identity(live)
    async with live.fabric() as client:
        it = keeper(live, through(client), rekey=True)
        await it.renew()
    assert identity(live).key.public_key() == it.identity.key.public_key() != old.key.public_key()


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot use the identity"):
        load_identity(tmp_path, tmp_path / "passphrase")


async def test_neither_key_fits(live: Live) -> None:
    write_key(folder(live) / KEY_FILE, new_key(), PASSPHRASE)
    write_key(folder(live) / NEXT_KEY_FILE, new_key(), PASSPHRASE)
    with pytest.raises(IdentityError, match="do not belong together"):
        identity(live)


def crossed(subject: Authority, by: Authority, life: timedelta = timedelta(days=1)) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.certificate.subject)
        .issuer_name(by.certificate.subject)
        .public_key(subject.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(by.key, hashes.SHA256())


def test_the_chain_is_the_leaf_its_issuer_and_what_crosses_its_root() -> None:
    pki = Pki()
    oldest, older = authority("oldest"), authority("older")
    leaf = pki.service("fabric").certificate
    new_by_older, older_by_oldest = crossed(pki.root, older), crossed(older, oldest)
    older_by_new, expired = crossed(older, pki.root), crossed(pki.root, oldest, timedelta(days=-1))
    stranger = crossed(authority("root"), older)
    offered = (
        *(pki.root.certificate, pki.nodes.certificate, pki.services.certificate, oldest.certificate),
        *(older_by_oldest, new_by_older, older_by_new, expired, stranger),
    )
    pem = build_chain(leaf, tuple(map(der, offered)), pki.trust, utc_now())
    assert x509.load_pem_x509_certificates(pem) == [leaf, pki.services.certificate, new_by_older, older_by_oldest]
    alone = build_chain(leaf, (der(pki.root.certificate),), pki.trust, utc_now())
    assert x509.load_pem_x509_certificates(alone) == [leaf, pki.services.certificate]
    require_issuer(leaf, pki.trust.service_issuers)
    # Only up to roots that are believed, where that is known.
    for roots, led in (((pki.root, older, oldest), 2), ((pki.root, older), 1), ((pki.root, oldest), 0), ((), 0)):
        trust = msgspec.structs.replace(pki.trust, roots=tuple(root.certificate for root in roots))
        pem = build_chain(leaf, tuple(map(der, offered)), trust, utc_now())
        assert x509.load_pem_x509_certificates(pem)[2:] == [new_by_older, older_by_oldest][:led]
    with pytest.raises(IdentityError, match="not issued by a CA of services"):
        build_chain(pki.node().certificate, (), pki.trust, utc_now())


def test_a_chain_that_leads_to_a_root_that_left_is_renewed(tmp_path: Path) -> None:
    pki, older = Pki(), authority("older")
    seen: list[object] = []
    leaf = pki.service("fabric")
    trust = msgspec.structs.replace(pki.trust, roots=(pki.root.certificate, older.certificate))
    chain = build_chain(leaf.certificate, (der(crossed(pki.root, older)),), trust, utc_now())
    mine, ask = Identity(leaf.key, chain, leaf.certificate), cast(Ask, None)
    for roots in (trust.roots, None, (pki.root.certificate,)):
        trust = msgspec.structs.replace(trust, roots=roots)
        it = IdentityKeeper(mine, tmp_path, trust=partial(copy.copy, trust), ask=ask, now=utc_now)
        it.renew_now = partial(seen.append, roots)  # type: ignore[method-assign]  # seen from outside
        it.trust_changed()
    assert seen == [(pki.root.certificate,)]


def test_renewals_are_spread_around_the_half() -> None:
    pki = Pki()
    spread = set()
    for _ in range(30):
        leaf = pki.service("fabric")
        it = Identity(leaf.key, leaf.chain_pem, leaf.certificate)
        start, end = it.leaf.not_valid_before_utc, it.leaf.not_valid_after_utc
        share = (it.renew_at - start) / (end - start)
        assert 0.45 <= share <= 0.55
        assert it.renew_at == Identity(leaf.key, leaf.chain_pem, leaf.certificate).renew_at
        spread.add(share)
    assert len(spread) > 20
