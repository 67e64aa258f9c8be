"""`cloud.breakwater.authorities`: states of authorities, the trust they give, and a replica without a key."""

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from cloud.breakwater.authorities import Authorities
from cloud.breakwater.errors import Conflict, SignerError, ValueRefused
from cloud.breakwater.parts import open_parts
from cloud.breakwater.store.authorities import AuthorityState
from cloud.mtls.identity import make_csr
from cloud.storage import Location, ServiceEngine, Statement
from tests.cloud.breakwater.generations import make_authority, make_second_root, next_authority, offline_root
from tests.cloud.breakwater.support import (
    FABRIC,
    START,
    Clock,
    Issuer,
    ask,
    entropy,
    issuer_at,
    load,
    new_key,
    opening,
    sources_at,
)

OPERATOR = "operator/test"
_EMPTY = Statement("DELETE FROM authority")


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    """A copy of the installation, to which a test may add keys."""
    return Path(shutil.copytree(home, tmp_path / "place"))


@pytest.fixture
async def issuer(place: Path, database: Location) -> AsyncIterator[Issuer]:
    async with issuer_at(place, database, Clock()) as running:
        yield running


def states(authorities: Authorities) -> dict[str, AuthorityState]:
    return {row.id: row.state for row in authorities.rows()}


def names(certificates: tuple[x509.Certificate, ...]) -> list[str]:
    return [str(each.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value) for each in certificates]


async def device(issuer: Issuer, request: str) -> tuple[bytes, ...]:
    await issuer.generations.open(FABRIC, opening())
    return (await issuer.issuing.issue_device(FABRIC, ask(new_key(), request=request))).certificate_chain


async def test_an_installation_from_before_the_table_is_adopted_once(place: Path, database: Location) -> None:
    async with issuer_at(place, database, Clock()) as issuer:
        adopted = issuer.authorities.rows()
        await issuer.engine.fetch(_EMPTY)
        for _ in range(2):
            async with open_parts(issuer.engine, sources_at(place), issuer.clock, entropy) as again:
                rows = again.authorities.rows()
                assert [(row.id, row.state, row.key, row.certificate) for row in rows] == [
                    (row.id, row.state, row.key, row.certificate) for row in adopted
                ]
                assert again.authorities.active("nodes").authority == "nodes-1"
                assert states(again.authorities) == {"nodes-1": "active", "root-1": "active", "services-1": "active"}
    assert [row.key for row in adopted] == ["file:nodes-ca.key.pem", "", "file:services-ca.key.pem"]


async def test_a_prepared_authority_is_trusted_and_does_not_issue(issuer: Issuer, place: Path) -> None:
    before = issuer.authorities.peer_trust()
    await next_authority(place, issuer, "nodes")
    assert states(issuer.authorities)["nodes-2"] == "prepared"
    after = issuer.authorities.peer_trust()
    assert after is not before
    assert names(after.node_issuers) == ["cascade.test nodes CA 1 (development)", "cascade.test nodes CA 2"]
    assert after.service_issuers == before.service_issuers
    assert issuer.authorities.active("nodes").authority == "nodes-1"
    assert issuer.authorities.next_id("nodes") == "nodes-3"
    await issuer.authorities.refresh()
    assert issuer.authorities.peer_trust() is after


async def test_activation_makes_the_other_one_old_and_both_are_trusted(issuer: Issuer, place: Path) -> None:
    first = await device(issuer, "r1")
    await next_authority(place, issuer, "nodes")
    assert await issuer.authorities.activate(OPERATOR, "nodes-2", "rotation")
    assert not await issuer.authorities.activate(OPERATOR, "nodes-2", "rotation")
    second = await device(issuer, "r2")
    assert states(issuer.authorities) | {"root-1": "active"} == {
        "nodes-1": "old",
        "nodes-2": "active",
        "root-1": "active",
        "services-1": "active",
    }
    load(first[0]).verify_directly_issued_by(load(first[1]))
    load(second[0]).verify_directly_issued_by(load(second[1]))
    assert first[1] != second[1]
    rows = await issuer.node_rows()
    assert [(row["authority"], row["shard"]) for row in rows] == [("nodes-1", "nodes-1.1"), ("nodes-2", "nodes-2.1")]
    assert len(issuer.authorities.peer_trust().node_issuers) == 2
    assert [(row["action"], row["object"], row["detail"]) for row in await issuer.audit()][-1] == (
        "authority.activate",
        "nodes-2",
        "rotation",
    )


async def test_a_repeat_gets_its_certificate_with_the_chain_of_the_authority_that_signed_it(
    issuer: Issuer, place: Path
) -> None:
    await issuer.generations.open(FABRIC, opening())
    asked = ask(new_key())
    first = await issuer.issuing.issue_device(FABRIC, asked)
    await next_authority(place, issuer, "nodes")
    await issuer.authorities.activate(OPERATOR, "nodes-2")
    assert await issuer.issuing.issue_device(FABRIC, asked) == first
    await issuer.authorities.taint(OPERATOR, "nodes-1", "its key was stolen")
    replaced = await issuer.issuing.issue_device(FABRIC, asked)
    load(replaced.certificate_chain[0]).verify_directly_issued_by(load(replaced.certificate_chain[1]))
    assert replaced.certificate_chain[1] != first.certificate_chain[1]


async def test_a_tainted_authority_is_not_trusted_and_a_revoked_one_signs_nothing(issuer: Issuer, place: Path) -> None:
    await next_authority(place, issuer, "nodes")
    await issuer.authorities.activate(OPERATOR, "nodes-2")
    await issuer.authorities.taint(OPERATOR, "nodes-1", "its key was stolen")
    assert names(issuer.authorities.peer_trust().node_issuers) == ["cascade.test nodes CA 2"]
    assert issuer.signer.holds("nodes-1")
    old = issuer.authorities.find("nodes-1")
    assert old is not None
    assert old.certificate_der not in issuer.authorities.ca_certificates()
    responder = await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    load(responder.certificate_chain[0]).verify_directly_issued_by(load(old.certificate_der))
    await issuer.authorities.revoke(OPERATOR, "nodes-1", "replaced everywhere")
    assert not issuer.signer.holds("nodes-1")
    with pytest.raises(SignerError):
        await issuer.issuing.issue_responder("nodes-1", new_key().public_key())
    row = next(row for row in issuer.authorities.rows() if row.id == "nodes-1")
    assert (row.state, row.reason) == ("revoked", "replaced everywhere")


FORBIDDEN = {
    "taint the active one": ("taint", "nodes-1"),
    "revoke the active one": ("revoke", "nodes-1"),
    "taint a prepared one": ("taint", "nodes-2"),
    "taint an unknown one": ("taint", "nodes-9"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_transitions_that_are_not_allowed_change_nothing(issuer: Issuer, place: Path, name: str) -> None:
    await next_authority(place, issuer, "nodes")
    before, lines = states(issuer.authorities), len(await issuer.audit())
    action, authority = FORBIDDEN[name]
    with pytest.raises(Conflict):
        await getattr(issuer.authorities, action)(OPERATOR, authority, "because")
    await issuer.authorities.refresh()
    assert (states(issuer.authorities), len(await issuer.audit())) == (before, lines)


async def test_an_import_needs_a_new_ca_below_a_known_root(issuer: Issuer, place: Path, home: Path) -> None:
    authority, der, key = await make_authority(place, issuer.parts.keys, "nodes", 2)
    take = issuer.authorities.import_prepared
    for name, reference in (("nodes", key), ("people-2", key), ("nodes-2", ""), ("root-2", key)):
        with pytest.raises(ValueRefused):
            await take(OPERATOR, name, der, reference)
    with pytest.raises(SignerError, match="does not belong"):
        await take(OPERATOR, authority, der, "file:services-ca.key.pem")
    with pytest.raises(SignerError):
        await take(OPERATOR, authority, der, "file:missing.pem")
    (row,) = [row for row in issuer.authorities.rows() if row.id == "nodes-1"]
    with pytest.raises(ValueRefused, match="needs its own"):
        await take(OPERATOR, authority, row.certificate, row.key)
    stranger, _, _ = await make_second_root(home)
    assert await take(OPERATOR, authority, der, key)
    assert not await take(OPERATOR, authority, der, key)
    assert await take(OPERATOR, "root-2", stranger.certificate_der)
    with pytest.raises(ValueRefused, match="cross"):
        await issuer.authorities.import_cross(OPERATOR, der)


async def test_a_second_root_is_bridged_by_its_cross_certificate(issuer: Issuer, place: Path, home: Path) -> None:
    second, _, cross = await make_second_root(home)
    await issuer.authorities.import_prepared(OPERATOR, "root-2", second.certificate_der)
    assert await issuer.authorities.import_cross(OPERATOR, cross)
    assert not await issuer.authorities.import_cross(OPERATOR, cross)
    assert names(issuer.authorities.peer_trust().roots or ()) == [
        "cascade.test root CA 1 (development)",
        "cascade.test root CA 2",
    ]
    trusted = issuer.authorities.ca_certificates()
    assert {second.certificate_der, cross} <= set(trusted)
    assert len(trusted) == 5
    assert issuer.authorities.chain_above(second) == (second.certificate_der, cross)
    await issuer.authorities.activate(OPERATOR, "root-2")
    assert states(issuer.authorities)["root-1"] == "old"


async def test_a_replica_sees_a_change_at_its_next_refresh(place: Path, database: Location) -> None:
    async with issuer_at(place, database, Clock()) as one, issuer_at(place, database, Clock()) as other:
        await next_authority(place, one, "services")
        assert await other.authorities.refresh()
        assert not await other.authorities.refresh()
        await one.authorities.activate(OPERATOR, "services-2")
        # The other replica has not refreshed. Its record is refused, and so it refreshes and tries again.
        answer = await other.issuing.issue_service("fabric", make_csr(new_key()), "r", FABRIC)
        assert other.authorities.active("services").authority == "services-2"
        load(answer.certificate_chain[0]).verify_directly_issued_by(load(answer.certificate_chain[1]))
        assert {row["authority"] for row in await other.records() if row["request_key"] == f"{FABRIC}:r"} == {
            "services-2"
        }


async def test_a_replica_without_the_key_is_not_ready_and_issues_nothing(
    place: Path, database: Location, tmp_path: Path
) -> None:
    keyless = Path(shutil.copytree(place, tmp_path / "keyless"))
    async with issuer_at(place, database, Clock()) as one, issuer_at(keyless, database, Clock()) as other:
        await next_authority(place, one, "nodes")
        await one.authorities.activate(OPERATOR, "nodes-2")
        await other.generations.open(FABRIC, opening())
        with pytest.raises(SignerError):
            await other.issuing.issue_device(FABRIC, ask(new_key()))
        with pytest.raises(SignerError, match="not available"):
            await other.issuing.ready()
        assert await other.node_rows() == []
        shutil.copy(place / "breakwater" / "keys" / "nodes-2.key.pem", keyless / "breakwater" / "keys")
        other.authorities._retry_at = 0.0
        await other.authorities.refresh()
        await other.issuing.ready()
        await other.issuing.issue_device(FABRIC, ask(new_key()))


async def test_an_empty_database_without_files_is_refused(tmp_path: Path, database: Location, place: Path) -> None:
    engine = ServiceEngine("breakwater")
    engine.configure(database)
    await engine.open()
    try:
        await engine.fetch(_EMPTY)
        shutil.rmtree(place / "breakwater" / "certs")
        with pytest.raises(SignerError, match="CA certificate"):
            async with open_parts(engine, sources_at(place), Clock(), entropy):
                pass
    finally:
        await engine.close()


async def test_a_ca_of_another_root_is_refused_at_the_start(place: Path, database: Location) -> None:
    async with issuer_at(place, database, Clock()) as issuer:
        root, key = offline_root(place)
        assert root.certificate_der
        assert key.public_key.curve.name == "secp384r1"
        await issuer.engine.fetch(_EMPTY)
        other = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another root")])
        made = (
            x509.CertificateBuilder(name, name, other.public_key(), 1, START, START + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(x509.SubjectKeyIdentifier(b"1" * 20), critical=False)
            .sign(other, hashes.SHA256())
        )
        (place / "breakwater" / "certs" / "root.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        with pytest.raises(SignerError, match="no root of this installation"):
            async with open_parts(issuer.engine, sources_at(place), issuer.clock, entropy):
                pass


async def test_states_never_move_back(issuer: Issuer, place: Path) -> None:
    await next_authority(place, issuer, "nodes")
    await issuer.authorities.activate(OPERATOR, "nodes-2")
    with pytest.raises(Conflict, match="is old and cannot become active"):
        await issuer.authorities.activate(OPERATOR, "nodes-1")
    for act in (issuer.authorities.taint, issuer.authorities.revoke):
        with pytest.raises(ValueRefused, match="reason"):
            await act(OPERATOR, "nodes-1", " ")


async def test_a_change_by_another_replica_wakes_the_ocsp_responder(
    place: Path, issuer: Issuer, database: Location
) -> None:
    """No event reaches another process. It notices the change in the database, and its responder acts at once."""
    async with issuer_at(place, database, Clock()) as other:
        woken = other.parts.ocsp_responder._woken
        woken.clear()
        assert not await other.authorities.refresh()
        assert not woken.is_set()
        await issuer.authorities.activate(OPERATOR, await next_authority(place, issuer, "nodes"))
        assert not woken.is_set()
        assert await other.authorities.refresh()
        assert woken.is_set()
