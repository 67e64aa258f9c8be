"""Kill a process before and after each fault point of issuance, revocation and authorities; check the next start."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import GenerationClosed, SignerError
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix.csr import describe_key
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.store.issuance import IN_FLIGHT
from cloud.contracts.breakwater import SupersedeKeys
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from cloud.storage.location import parse_location
from lab.forks import ForkServer
from protocol.faults import install
from tests.cloud.breakwater.generations import next_authority
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    SPIFFE,
    START,
    TENANT,
    Clock,
    Issuer,
    ask,
    closing,
    closing_one,
    issuer_at,
    load,
    new_key,
    opening,
    reported_certificates,
)
from tests.light_keys import use_light_keys

pytestmark = pytest.mark.slow

KILLED = 77
ROOT = Path(__file__).parents[4]
FORKS = ForkServer("tests.cloud.breakwater.support")
SOURCES = (
    "authorities.py",
    "generations.py",
    "issuance/executor.py",
    "revocation/crl_shards.py",
    "revocation/service_certificates.py",
)


class Failing(Signer):
    """A signer that raises SignerError while `broken` is set."""

    broken = False

    async def sign(self, linted: Linted) -> bytes:
        if self.broken:
            raise SignerError("the key is gone")
        return await super().sign(linted)


async def story(home: Path, database: Location, key: ec.EllipticCurvePrivateKey) -> None:
    """Fail to issue, issue, revoke, close, and change the authority."""
    signer = Failing()
    async with issuer_at(home, database, Clock(), signer) as issuer:
        await issuer.executor.recover()
        await issuer.generations.open(FABRIC, opening())
        signer.broken = True
        try:
            await issuer.issuing.issue_device(FABRIC, ask(key, request="fails"))
        except SignerError:
            signer.broken = False
        await issuer.issuing.issue_device(FABRIC, ask(key))
        digest = describe_key(key.public_key()).spki_sha256
        await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(TENANT, NODE, 1, digest))
        service = await issuer.issuing.issue_service("fabric", make_csr(new_key()), "story", FABRIC)
        serial = load(service.certificate_chain[0]).serial_number
        await issuer.service_certificates.revoke(FABRIC, serial, "keyCompromise")
        await issuer.service_certificates.revoke_all(FABRIC, "fabric", "superseded")
        await issuer.generations.close_up_to(FABRIC, closing())
        await issuer.generations.close_one(FABRIC, closing_one())
        await next_authority(home, issuer, "nodes")
        await issuer.authorities.activate(FABRIC, "nodes-2")


def child(home: str, database: str, key_file: str, point: str, stage: str) -> None:
    """The program of the killed process."""

    def hook(name: str, at: str) -> None:
        if (name, at) == (point, stage):
            os._exit(KILLED)

    install(hook)
    use_light_keys()
    key = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        asyncio.run(story(Path(home), parse_location(database), key))


EXPECTED: dict[tuple[str, str], list[str]] = {
    ("breakwater.certificate.orphan", "before"): [],
    ("breakwater.certificate.orphan", "after"): [],
    ("breakwater.generation.open", "before"): [],
    ("breakwater.generation.open", "after"): [],
    ("breakwater.shard.reserve", "before"): [],
    ("breakwater.shard.reserve", "after"): [],
    ("breakwater.certificate.record", "before"): [],
    ("breakwater.certificate.record", "after"): ["recorded"],
    ("breakwater.certificate.give_up", "before"): ["recorded"],
    ("breakwater.certificate.give_up", "after"): ["orphaned"],
    ("breakwater.certificate.store", "before"): ["orphaned", "recorded"],
    ("breakwater.certificate.store", "after"): ["orphaned", "issued"],
    ("breakwater.keys.supersede", "before"): ["orphaned", "issued"],
    ("breakwater.keys.supersede", "after"): ["orphaned", "issued"],
    ("breakwater.certificate.revoke", "before"): ["orphaned", "issued"],
    ("breakwater.certificate.revoke", "after"): ["orphaned", "issued"],
    ("breakwater.service.revoke", "before"): ["orphaned", "issued"],
    ("breakwater.service.revoke", "after"): ["orphaned", "issued"],
    ("breakwater.generation.close", "before"): ["orphaned", "issued"],
    ("breakwater.generation.close", "after"): ["revoked", "revoked"],
    ("breakwater.generation.close_one", "before"): ["revoked", "revoked"],
    ("breakwater.generation.close_one", "after"): ["revoked", "revoked"],
    ("breakwater.authority.prepare", "before"): ["revoked", "revoked"],
    ("breakwater.authority.prepare", "after"): ["revoked", "revoked"],
    ("breakwater.authority.move", "before"): ["revoked", "revoked"],
    ("breakwater.authority.move", "after"): ["revoked", "revoked"],
}
ELSEWHERE = {"breakwater.authority.adopt", "breakwater.authority.cross"}
"""Not walked here: each is a single transaction, and `test_authorities.py` repeats it."""


def test_every_fault_point_of_these_files_is_walked() -> None:
    texts = [(ROOT / "cloud" / "breakwater" / name).read_text() for name in SOURCES]
    found = {part.split('"')[1] for text in texts for part in text.split("fault_point(")[1:]}
    assert found == {point for point, _ in EXPECTED} | ELSEWHERE


async def promises_hold(issuer: Issuer) -> None:
    """Check the conditions that hold at all times after a start."""
    rows = await issuer.records()
    assert not [row for row in rows if row["state"] == "recorded"]
    for row in rows:
        if row["certificate"] is not None:
            certificate = load(row["certificate"])
            assert certificate.tbs_certificate_bytes == row["tbs"]
            assert certificate.serial_number == int(row["serial"], 16)
        assert (row["state"] in ("issued", "revoked")) or row["request_key"] is None
        assert (row["revoked_at"] is None) == (row["state"] == "issued")
    moved = {row["id"] for row in await issuer.shards() if row["revision"] > 0}
    assert moved >= {row["shard"] for row in rows if row["state"] in ("revoked", "orphaned") and row["shard"]}
    reported = await reported_certificates(issuer)
    assert reported == {row["serial"] for row in rows if row["service"] and row["state"] in ("revoked", "orphaned")}
    assert [row.state for row in issuer.authorities.rows() if row.ca == "nodes"].count("active") == 1


@pytest.mark.parametrize(("point", "stage"), EXPECTED)
async def test_killed(home: Path, database: Location, tmp_path: Path, point: str, stage: str) -> None:
    home = Path(shutil.copytree(home, tmp_path / "home"))  # the story adds a CA key
    key = new_key()
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    process = FORKS.call(tmp_path, "killed", child, str(home), str(database), str(key_file), point, stage)
    assert await asyncio.to_thread(process.wait) == KILLED, process.report()
    expected = EXPECTED[point, stage]
    async with issuer_at(home, database, Clock(START + IN_FLIGHT)) as issuer:
        assert [row["state"] for row in await issuer.node_rows()] == expected
        assert await issuer.executor.recover() == expected.count("recorded")
        await promises_hold(issuer)
        if "revoked" in expected:
            with pytest.raises(GenerationClosed):
                await issuer.issuing.issue_device(FABRIC, ask(key))
            return
        await issuer.generations.open(FABRIC, opening())
        answer = await issuer.issuing.issue_device(FABRIC, ask(key))
        assert await issuer.issuing.issue_device(FABRIC, ask(key)) == answer
        await promises_hold(issuer)
        rows = await issuer.node_rows()
        assert [row["state"] for row in rows].count("issued") == 1
        assert all(row["certificate"] is None for row in rows if row["state"] == "orphaned")
        assert await issuer.generations.close_up_to(FABRIC, closing()) == len(rows)
        await promises_hold(issuer)
        assert not await issuer.generations.is_open(SPIFFE.tenant, SPIFFE.node, 1)
