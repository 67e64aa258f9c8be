"""What may not be certified, what revocation writes, and what an issuance that fails leaves behind."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from cloud.breakwater.errors import Conflict, CsrRefused, NotAdmitted, SignerUnavailable, ValueRefused
from cloud.breakwater.issuance import executor
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.pkix.profiles import PROFILE_VERSION
from cloud.contracts.breakwater import RevocationReason
from cloud.mtls.identity import make_csr
from cloud.storage import Location
from tests.cloud.breakwater.support import (
    FABRIC,
    PKI_URL,
    START,
    TRUST_DOMAIN,
    Clock,
    Issuer,
    Watched,
    ask,
    closing,
    closing_one,
    issuer_at,
    load,
    new_key,
    opening,
)

pytestmark = pytest.mark.slow


async def test_a_key_of_another_generation_or_node_is_refused(issuer: Issuer) -> None:
    key = new_key()
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    await issuer.issuing.issue_device(FABRIC, ask(key))
    await issuer.issuing.issue_device(FABRIC, ask(key, request="again"))
    for issue in (issuer.issuing.issue_device, issuer.issuing.issue_session):
        with pytest.raises(CsrRefused, match="not new"):
            await issue(FABRIC, ask(key, request="other", generation=2))
    with pytest.raises(CsrRefused, match="not new"):
        await issuer.issuing.issue_service("fabric", make_csr(key), "s", FABRIC)
    assert len(await issuer.node_rows()) == 2


REUSE: dict[RevocationReason, bool] = {"superseded": True, "keyCompromise": False, "unspecified": False}


@pytest.mark.parametrize("reason", REUSE)
async def test_a_revoked_key_is_certified_again_only_if_it_was_superseded(
    issuer: Issuer, reason: RevocationReason
) -> None:
    key = new_key()
    issued = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    await issuer.service_certificates.revoke(FABRIC, load(issued.certificate_chain[0]).serial_number, reason)
    again = issuer.issuing.issue_service("fabric", make_csr(key), "b", FABRIC)
    if REUSE[reason]:
        await again
    else:
        with pytest.raises(CsrRefused, match="revoked"):
            await again
    with pytest.raises(CsrRefused, match="another subject"):
        await issuer.issuing.issue_service("breakwater", make_csr(key), "c", FABRIC)


async def test_the_record_names_authority_shard_and_version(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    device = await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    await issuer.issuing.issue_session(FABRIC, ask(new_key(), request="s"))
    rows = {row["profile"]: row for row in await issuer.node_rows()}
    assert (rows["device"]["authority"], rows["device"]["shard"]) == ("nodes-1", "nodes-1.1")
    assert (rows["session"]["authority"], rows["session"]["shard"]) == ("nodes-1", "")
    assert {row["profile_version"] for row in rows.values()} == {PROFILE_VERSION}
    points = load(device.certificate_chain[0]).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or []] == [f"{PKI_URL}/crl/nodes-1/1.crl"]


async def test_a_close_gives_its_reason_to_each_serial_and_moves_the_shard_once(issuer: Issuer) -> None:
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
        await issuer.issuing.issue_device(FABRIC, ask(new_key(), request=f"r{generation}", generation=generation))
    compromised = msgspec.structs.replace(closing_one(1), reason="keyCompromise")
    assert await issuer.generations.close_one(FABRIC, compromised) == 1
    assert [row["revision"] for row in await issuer.shards() if row["authority"] == "nodes-1"] == [1]
    for _ in range(2):
        assert await issuer.generations.close_up_to(FABRIC, closing(2)) == 2
        assert [row["revision"] for row in await issuer.shards() if row["authority"] == "nodes-1"] == [2]
    rows = {row["generation"]: row for row in await issuer.node_rows()}
    assert (rows[1]["reason"], rows[2]["reason"]) == (1, 4)
    assert {row["feed"] for row in rows.values()} == {0}
    assert issuer.parts.crl_publisher._woken.is_set()
    assert issuer.parts.feed._woken.is_set()
    assert [(row["action"], row["detail"]) for row in await issuer.audit()][-2:] == [
        ("generation.close_one", "keyCompromise"),
        ("generation.close", "superseded"),
    ]


async def test_a_service_certificate_is_revoked_once_for_ever(issuer: Issuer) -> None:
    key = new_key()
    issued = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    serial = load(issued.certificate_chain[0]).serial_number
    assert await issuer.service_certificates.revoke("operator/anna", serial, "keyCompromise")
    assert not await issuer.service_certificates.revoke("operator/anna", serial, "superseded")
    assert await issuer.is_revoked(serial)
    (row,) = [row for row in await issuer.records() if int(row["serial"], 16) == serial]
    assert (row["state"], row["reason"], row["feed"], row["revoked_at"]) == ("revoked", 1, 1, START)
    assert [each["revision"] for each in await issuer.shards() if each["id"] == row["shard"]] == [1]
    lines = [(each["caller"], each["action"], each["object"], each["detail"]) for each in await issuer.audit()]
    assert lines == [("operator/anna", "certificate.revoke", row["serial"], "keyCompromise")]
    with pytest.raises(Conflict, match="revoked"):
        await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)


async def test_a_whole_service_is_revoked(issuer: Issuer) -> None:
    for number in range(3):
        await issuer.issuing.issue_service("fabric", make_csr(new_key()), f"s{number}", FABRIC)
    revoked = await issuer.service_certificates.revoke_all(FABRIC, "fabric", "cessationOfOperation")
    assert len(revoked) == 4  # and the one of `cascade init`
    assert await issuer.service_certificates.revoke_all(FABRIC, "fabric", "superseded") == ()
    rows = {row["serial"]: row for row in await issuer.records() if row["service"] == "fabric"}
    assert sorted(rows[serial]["feed"] for serial in revoked) == [1, 2, 3, 4]
    assert {row["reason"] for row in rows.values()} == {5}
    assert {row["state"] for row in await issuer.records() if row["service"] == "breakwater"} == {"issued"}
    with pytest.raises(ValueRefused):
        await issuer.service_certificates.revoke_all(FABRIC, "strangers", "superseded")


async def test_a_request_that_was_on_its_way_when_its_certificate_was_revoked_gets_nothing(issuer: Issuer) -> None:
    """A thief keeps requests half sent: the guard has let them in, and each would bring a certificate for a new key."""
    issued = await issuer.issuing.issue_service("fabric", make_csr(new_key()), "a", FABRIC)
    shown = load(issued.certificate_chain[0]).serial_number
    await issuer.issuing.issue_service("fabric", make_csr(new_key()), "b", FABRIC, shown)
    await issuer.service_certificates.revoke_all("operator/anna", "fabric", "keyCompromise")
    before = len(await issuer.records())
    with pytest.raises(NotAdmitted, match="shown"):
        await issuer.issuing.issue_service("fabric", make_csr(new_key()), "c", FABRIC, shown)
    assert len(await issuer.records()) == before


async def test_a_nodes_certificate_or_an_unknown_serial_is_not_revoked_by_serial(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    issued = await issuer.issuing.issue_device(FABRIC, ask(new_key()))
    with pytest.raises(ValueRefused, match="close its generation"):
        await issuer.service_certificates.revoke(FABRIC, load(issued.certificate_chain[0]).serial_number, "superseded")
    with pytest.raises(NotAdmitted):
        await issuer.service_certificates.revoke(FABRIC, 12345, "superseded")


async def test_an_expired_certificate_is_no_answer_to_a_repeat(issuer: Issuer) -> None:
    key = new_key()
    first = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    issuer.clock.at = load(first.certificate_chain[0]).not_valid_after_utc
    second = await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC)
    assert second != first
    assert await issuer.issuing.issue_service("fabric", make_csr(key), "a", FABRIC) == second


async def test_a_signature_that_takes_too_long_is_given_up(
    home: Path, database: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(_: Linted) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(executor, "SIGN_SECONDS_MAX", 0.05)
    async with issuer_at(home, database, Clock(), Watched(forever)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        with pytest.raises(SignerUnavailable):
            await issuer.issuing.issue_device(FABRIC, ask(new_key()))
        assert [row["state"] for row in await issuer.node_rows()] == ["orphaned"]


async def test_a_cancelled_issuance_leaves_an_orphan_that_its_shard_knows(home: Path, database: Location) -> None:
    reached = asyncio.Event()

    async def wait(_: Linted) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with issuer_at(home, database, Clock(), Watched(wait)) as issuer:
        await issuer.generations.open(FABRIC, opening())
        running = asyncio.create_task(issuer.issuing.issue_device(FABRIC, ask(new_key())))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        (row,) = await issuer.node_rows()
        assert row["state"] == "orphaned"
        assert [each["revision"] for each in await issuer.shards() if each["id"] == row["shard"]] == [1]


async def test_the_own_names_may_stand_in_a_request_and_no_others(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())

    def wishing(uri: str, common_name: str) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = x509.CertificateSigningRequestBuilder(name)
        names = [
            x509.UniformResourceIdentifier(uri),
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    own = f"spiffe://{TRUST_DOMAIN}/service/fabric"
    await issuer.issuing.issue_service("fabric", wishing(own, "fabric"), "own", FABRIC)
    for number, wish in enumerate((wishing(own, "ledger"), wishing(f"{own}2", "fabric"))):
        with pytest.raises(CsrRefused):
            await issuer.issuing.issue_service("fabric", wish, f"w{number}", FABRIC)
