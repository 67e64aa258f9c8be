"""`cloud.breakwater.revocation.root_crls`: import, publication and check of a root's CRL."""

import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.audit import AuditEntries
from cloud.breakwater.ceremony.signing import CaIdentity, make_issuing, make_root_crl
from cloud.breakwater.errors import Conflict, ValueRefused
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix.crl import Entry, make_crl, want_crl
from cloud.breakwater.revocation.root_crls import ROOT_CRL_SOON, RootCrls, faults, is_signed_by
from cloud.breakwater.store.audit import AuditRow
from cloud.breakwater.store.authorities import AuthorityRow, AuthorityState
from cloud.breakwater.store.root_crls import RootCrlRow, RootCrlStore
from cloud.storage import ServiceEngine
from tests.cloud.breakwater.chains import NOW, SERIAL, Chain, load, local, make_chain, requested, where
from tests.cloud.breakwater.support import Issuer

LIFE = timedelta(days=400)
URL = "http://pki.cascade.test/crl/root-9/1.crl"


class Rows:
    """The authorities of an installation: a root, and an issuing CA that names the root's CRL."""

    def __init__(self, chain: Chain, issuing: bytes) -> None:
        self.chain, self.issuing = chain, issuing
        self.state: AuthorityState = "active"

    def rows(self) -> tuple[AuthorityRow, ...]:
        root = AuthorityRow("root-9", "root", 1, "active", self.chain.root.certificate_der, "", NOW)
        return root, AuthorityRow("nodes-1", "nodes", 1, self.state, self.issuing, "file:x", NOW)

    async def crl(self, number: int, *serials: int, now: datetime = NOW, life: timedelta = LIFE) -> bytes:
        entries = [Entry(serial, now, 4) for serial in serials]
        return await make_root_crl(number, entries, self.chain.root, self.chain.root_key, now, life)


async def some_rows() -> Rows:
    chain = await make_chain(9)
    name = CaIdentity("cascade.test", "nodes", 1)
    issuing = await make_issuing(name, requested(local(77)), chain.root, chain.root_key, SERIAL + 9, NOW, URL)
    return Rows(chain, issuing.certificate_der)


@pytest.fixture
async def bench(issuer: Issuer) -> tuple[RootCrls, Rows]:
    rows = await some_rows()
    entries = AuditEntries(AuditRow, lambda: NOW, os.urandom)
    return RootCrls(RootCrlStore(issuer.engine), rows, entries, lambda: NOW), rows


async def test_the_newest_is_published(bench: tuple[RootCrls, Rows]) -> None:
    crls, rows = bench
    assert (await crls.newest("root-9"), await crls.current()) == (None, {})
    first = await rows.crl(1)
    row, changed = await crls.import_crl("operator", first)
    assert (row.number, row.entries, row.next_update, changed) == (1, 0, NOW + LIFE, True)
    assert (await crls.import_crl("operator", first))[1] is False
    second = await rows.crl(5, 9)
    text = x509.load_der_x509_crl(second).public_bytes(Encoding.PEM)
    assert (await crls.import_crl("operator", text))[0].number == 5
    published = await crls.newest("root-9")
    assert published is not None
    assert (published.number, published.entries, published.data) == (5, 1, second)
    assert await crls.current() == {"root-9": published}


async def test_what_is_refused(bench: tuple[RootCrls, Rows]) -> None:
    crls, rows = bench
    await crls.import_crl("operator", await rows.crl(5, 9))
    other = await make_chain(2)
    stranger = await make_root_crl(9, [], other.root, other.root_key, NOW, LIFE)
    refused: dict[str, bytes] = {
        "not a CRL": b"no CRL",
        "no root of this installation": stranger,
        "lacks the serial 9": await rows.crl(6),
        "the published one of": await rows.crl(6, 9, now=NOW - timedelta(seconds=1)),
        "and not now": await rows.crl(6, 9, now=NOW - timedelta(days=2), life=timedelta(days=1)),
    }
    for why, content in refused.items():
        with pytest.raises(ValueRefused, match=why):
            await crls.import_crl("operator", content)
    broken = bytearray(await rows.crl(6, 9))
    broken[-1] ^= 1
    with pytest.raises(ValueRefused, match="no root"):
        await crls.import_crl("operator", bytes(broken))
    for number in (4, 5):
        with pytest.raises(Conflict):
            await crls.import_crl("operator", await rows.crl(number, 9, 10))
    published = await crls.newest("root-9")
    assert published is not None
    assert published.number == 5


class Late(RootCrlStore):
    """A store over which another operator imports a CRL after the first look at the published one."""

    def __init__(self, engine: ServiceEngine) -> None:
        super().__init__(engine)
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def newest(self, authority: str) -> RootCrlRow | None:
        row = await super().newest(authority)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return row


async def test_two_imports_at_the_same_time_forget_no_serial(issuer: Issuer) -> None:
    rows, store = await some_rows(), Late(issuer.engine)
    crls = RootCrls(store, rows, AuditEntries(AuditRow, lambda: NOW, os.urandom), lambda: NOW)
    other = await rows.crl(6, 9)
    store.meanwhile = lambda: crls.import_crl("other operator", other)
    with pytest.raises(ValueRefused, match="lacks the serial 9"):
        await crls.import_crl("operator", await rows.crl(7))
    published = await crls.newest("root-9")
    assert published is not None
    assert published.data == other


def row_of(der: bytes) -> RootCrlRow:
    crl = x509.load_der_x509_crl(der)
    assert crl.next_update_utc is not None
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return RootCrlRow("root-9", number, crl.last_update_utc, crl.next_update_utc, len(crl), der)


async def test_each_fault_is_found_once() -> None:
    rows = await some_rows()
    crl = row_of(await rows.crl(3, 9))

    def checks(row: RootCrlRow | None, now: datetime = NOW) -> list[tuple[str, bool]]:
        return [(check, warns) for check, _, _, warns in faults(rows.rows(), [row] if row else [], now)]

    assert checks(crl) == []
    assert checks(None) == [("crl.root_missing", False)]
    assert checks(crl, crl.next_update) == [("crl.stale", False)]
    assert checks(crl, crl.next_update - ROOT_CRL_SOON) == []
    assert checks(crl, crl.next_update - ROOT_CRL_SOON + timedelta(seconds=1)) == [("crl.root_expiring", True)]
    assert checks(msgspec.structs.replace(crl, number=4)) == [("crl.number", False)]
    assert checks(msgspec.structs.replace(crl, data=b"x")) == [("crl.unreadable", False)]
    other = bytearray(crl.data)
    other[-1] ^= 1
    assert checks(msgspec.structs.replace(crl, data=bytes(other))) == [("crl.signature", False)]
    rows.state = "revoked"
    assert checks(crl) == [("crl.root_omits", True)]
    assert checks(row_of(await rows.crl(4, load(rows.issuing).serial_number))) == []


async def test_without_an_address_no_crl_is_required() -> None:
    chain = await make_chain(9)
    rows = Rows(chain, chain.nodes.certificate_der)
    assert faults(rows.rows(), [], NOW) == []


async def test_a_ceremony_bounds_the_scope() -> None:
    """A list with an issuing distribution point does not cover the CA certificates."""
    chain = await make_chain(9)
    rows = Rows(chain, chain.nodes.certificate_der)
    wanted = want_crl(1, NOW, timedelta(days=1), [], where(chain.nodes).crl_url)
    signer = Signer()
    signer.add(chain.nodes, chain.nodes_key)
    shard = x509.load_der_x509_crl(await signer.sign(make_crl(wanted, chain.nodes)))
    assert not is_signed_by(shard, rows.rows()[0])
