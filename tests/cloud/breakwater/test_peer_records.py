"""`cloud.breakwater.peer_records`: open generations and revoked services, from the records."""

from cloud.breakwater.peer_records import PeerRecords
from cloud.mtls.identity import make_csr
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    OTHER_TENANT,
    TENANT,
    Issuer,
    closing,
    load,
    new_key,
    opening,
)


def records(issuer: Issuer) -> PeerRecords:
    return PeerRecords(issuer.parts.stores.generations, issuer.parts.stores.issuance)


async def test_a_node_is_admitted_while_its_generation_is_open(issuer: Issuer) -> None:
    peers = records(issuer)
    assert not await peers.generation_open(TENANT, NODE, 1)
    await issuer.generations.open(FABRIC, opening())
    assert await peers.generation_open(TENANT, NODE, 1)
    assert not await peers.generation_open(OTHER_TENANT, NODE, 1)
    await issuer.generations.close_up_to(FABRIC, closing())
    assert not await peers.generation_open(TENANT, NODE, 1)


async def test_a_service_is_refused_from_its_revocation_on(issuer: Issuer) -> None:
    peers = records(issuer)
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), "a", FABRIC)
    serial = load(issued.certificate_chain[0]).serial_number
    assert not await peers.service_revoked(serial)
    await issuer.service_certificates.revoke(FABRIC, serial, "keyCompromise")
    assert await peers.service_revoked(serial)
    assert not await peers.service_revoked(12345)
