"""`cloud.breakwater.revocation.service_certificates`: one or all certificates of a service are revoked permanently."""

import pytest

from cloud.breakwater.errors import Conflict, NotAdmitted, ValueRefused
from cloud.mtls.identity import make_csr
from tests.cloud.breakwater.support import (
    FABRIC,
    START,
    Issuer,
    ask,
    load,
    new_key,
    opening,
    reported_certificates,
)

pytestmark = pytest.mark.slow


async def test_a_service_certificate_is_revoked_once_for_ever(issuer: Issuer) -> None:
    key = new_key()
    issued = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    serial = load(issued.certificate_chain[0]).serial_number
    assert await issuer.service_certificates.revoke("operator/anna", serial, "keyCompromise")
    assert not await issuer.service_certificates.revoke("operator/anna", serial, "superseded")
    assert await issuer.is_revoked(serial)
    (row,) = [row for row in await issuer.records() if int(row["serial"], 16) == serial]
    assert (row["state"], row["reason"], row["revoked_at"]) == ("revoked", 1, START)
    assert await reported_certificates(issuer) == {row["serial"]}
    assert [each["revision"] for each in await issuer.shards() if each["id"] == row["shard"]] == [1]
    lines = [(each["caller"], each["action"], each["object"], each["detail"]) for each in await issuer.audit()]
    assert lines == [("operator/anna", "certificate.revoke", row["serial"], "keyCompromise")]
    with pytest.raises(Conflict, match="revoked"):
        await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)


async def test_a_whole_service_is_revoked(issuer: Issuer) -> None:
    for number in range(3):
        await issuer.issuing.issue_service("fabric", make_csr(new_key()), f"s{number}", FABRIC)
    revoked = await issuer.service_certificates.revoke_all(FABRIC, "fabric", "cessationOfOperation")
    assert len(revoked) == 4  # including the certificate from `cascade init`
    assert await issuer.service_certificates.revoke_all(FABRIC, "fabric", "superseded") == ()
    rows = {row["serial"]: row for row in await issuer.records() if row["service"] == "fabric"}
    assert await reported_certificates(issuer) == set(revoked)
    assert {row["reason"] for row in rows.values()} == {5}
    assert {row["state"] for row in await issuer.records() if row["service"] == "breakwater"} == {"issued"}
    with pytest.raises(ValueRefused):
        await issuer.service_certificates.revoke_all(FABRIC, "strangers", "superseded")


async def test_a_nodes_certificate_or_an_unknown_serial_is_not_revoked_by_serial(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    issued = await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    with pytest.raises(ValueRefused, match="close its generation"):
        await issuer.service_certificates.revoke(FABRIC, load(issued.certificate_chain[0]).serial_number, "superseded")
    with pytest.raises(NotAdmitted):
        await issuer.service_certificates.revoke(FABRIC, 12345, "superseded")
