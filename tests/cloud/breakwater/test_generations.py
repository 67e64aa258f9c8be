"""`cloud.breakwater.generations`: open, close, and supersede keys. Each revokes exactly the right certificates."""

from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import (
    Conflict,
    GenerationClosed,
    ValueRefused,
)
from cloud.contracts.breakwater import SupersedeKeys
from cloud.mtls.identity import make_csr
from protocol.encoding import sha256_hex
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    OTHER_TENANT,
    SPIFFE,
    START,
    TENANT,
    Issuer,
    ask,
    closing,
    closing_one,
    load,
    new_key,
    opening,
)


def digest(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256_hex(key.public_key().public_bytes(serialization.Encoding.DER, form))


async def device(issuer: Issuer, key: ec.EllipticCurvePrivateKey, request: str) -> int:
    issuer.clock.forward(timedelta(seconds=1))
    answer = await issuer.issuing.issue_device(FABRIC, ask(key, request=request))
    return load(answer.certificate_chain[0]).serial_number


async def states(issuer: Issuer) -> dict[int, tuple[str, int]]:
    return {int(row["serial"], 16): (row["state"], row["reason"]) for row in await issuer.node_rows()}


async def test_the_keys_before_are_superseded(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    old, new, newer = new_key(), new_key(), new_key()
    first = [await device(issuer, old, "1"), await device(issuer, old, "2")]
    second = await device(issuer, new, "3")
    # The next change of the key has begun already.
    third = await device(issuer, newer, "4")
    order = SupersedeKeys(TENANT, NODE, 1, digest(new))
    assert await issuer.generations.supersede_keys(FABRIC, order) == 2
    found = await states(issuer)
    assert [found[serial] for serial in first] == [("revoked", 4)] * 2
    assert [found[serial] for serial in (second, third)] == [("issued", 0)] * 2
    assert await issuer.generations.supersede_keys(FABRIC, order) == 0
    # Now the newest key can be renewed over a session, and a certificate for the old key can be issued again.
    await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(TENANT, NODE, 1, digest(newer)))
    await issuer.issuing.renew_device(SPIFFE, 1, make_csr(newer), "5")
    assert await device(issuer, old, "6")


async def test_a_key_without_a_certificate_supersedes_nothing(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    serial = await device(issuer, new_key(), "1")
    for named in (digest(new_key()), "", "x" * 100):
        assert await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(TENANT, NODE, 1, named)) == 0
    assert await states(issuer) == {serial: ("issued", 0)}


async def test_of_this_tenant_and_generation_only(issuer: Issuer) -> None:
    await issuer.generations.open(FABRIC, opening())
    key = new_key()
    await device(issuer, key, "1")
    with pytest.raises(Conflict):
        await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(OTHER_TENANT, NODE, 1, digest(key)))
    with pytest.raises(ValueRefused):
        await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(TENANT, NODE, 0, digest(key)))
    assert await issuer.generations.supersede_keys(FABRIC, SupersedeKeys(TENANT, NODE, 2, digest(key))) == 0


async def test_closing_is_final_and_revokes(issuer: Issuer) -> None:
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
    asked = ask(new_key())
    device = await issuer.issuing.issue_device(FABRIC, asked)
    assert await issuer.generations.close_up_to(FABRIC, closing(1)) == 1
    assert await issuer.generations.close_up_to(FABRIC, closing(1)) == 1
    assert await issuer.is_revoked(load(device.certificate_chain[0]).serial_number)
    for attempt in (asked, ask(new_key(), request="r2")):
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_device(FABRIC, attempt)
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_session(FABRIC, attempt)
    with pytest.raises(Conflict, match="closed for ever"):
        await issuer.generations.open(FABRIC, opening(1))
    assert not await issuer.generations.is_open(SPIFFE.tenant, NODE, 1)
    assert await issuer.generations.is_open(SPIFFE.tenant, NODE, 2)


async def test_closing_covers_generations_that_were_never_opened(issuer: Issuer) -> None:
    assert await issuer.generations.close_up_to(FABRIC, closing(5)) == 0
    assert await issuer.generations.close_up_to(FABRIC, closing(3)) == 0
    for generation in (3, 5):
        with pytest.raises(Conflict):
            await issuer.generations.open(FABRIC, opening(generation))
    await issuer.generations.open(FABRIC, opening(6))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.open(FABRIC, opening(7, OTHER_TENANT))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.close_up_to(FABRIC, closing(7, OTHER_TENANT))


async def test_a_generation_closed_alone_leaves_the_one_before_it(issuer: Issuer) -> None:
    for generation in (1, 2):
        await issuer.generations.open(FABRIC, opening(generation))
        await issuer.issuing.issue_device(FABRIC, ask(new_key(), generation=generation, request=f"r{generation}"))
    for _ in range(2):
        assert await issuer.generations.close_one(FABRIC, closing_one(2)) == 1
    assert await issuer.generations.close_one(FABRIC, closing_one(3)) == 0
    assert [row["state"] for row in await issuer.node_rows()] == ["issued", "revoked"]
    assert await issuer.generations.is_open(SPIFFE.tenant, NODE, 1)
    for closed in (2, 3):
        assert not await issuer.generations.is_open(SPIFFE.tenant, NODE, closed)
        with pytest.raises(GenerationClosed):
            await issuer.issuing.issue_session(FABRIC, ask(new_key(), generation=closed, request=f"s{closed}"))
        with pytest.raises(Conflict, match="closed for ever"):
            await issuer.generations.open(FABRIC, opening(closed))
    with pytest.raises(Conflict, match="another tenant"):
        await issuer.generations.close_one(FABRIC, closing_one(1, OTHER_TENANT))
    actions = [(row["action"], row["generation"]) for row in await issuer.audit()]
    assert actions.count(("generation.close_one", 2)) == 1


async def test_opening_and_closing_are_audited_once(issuer: Issuer) -> None:
    for _ in range(2):
        await issuer.generations.open(FABRIC, opening())
    for _ in range(2):
        await issuer.generations.close_up_to(FABRIC, closing())
    rows = await issuer.audit()
    assert [(r["action"], r["caller"], r["node"], r["generation"], r["at"]) for r in rows] == [
        ("generation.open", FABRIC, NODE, 1, START),
        ("generation.close", FABRIC, NODE, 1, START),
    ]


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
    assert issuer.parts.crl_publisher._woken.is_set()
    assert [(row["action"], row["detail"]) for row in await issuer.audit()][-2:] == [
        ("generation.close_one", "keyCompromise"),
        ("generation.close", "superseded"),
    ]
