"""Another key within a generation: what was issued for the keys before it is revoked, and nothing else. Both engines."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import Conflict, ValueRefused
from cloud.contracts.breakwater import SupersedeKeys
from cloud.mtls.identity import make_csr
from protocol.encoding import sha256_hex
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    OTHER_TENANT,
    SPIFFE,
    TENANT,
    Issuer,
    ask,
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
    # The next change is on its way already.
    third = await device(issuer, newer, "4")
    order = SupersedeKeys(TENANT, NODE, 1, digest(new))
    assert await issuer.generations.supersede_keys(FABRIC, order) == 2
    found = await states(issuer)
    assert [found[serial] for serial in first] == [("revoked", 4)] * 2
    assert [found[serial] for serial in (second, third)] == [("issued", 0)] * 2
    assert await issuer.generations.supersede_keys(FABRIC, order) == 0
    # From here on the new key is renewed over a session, and the old one may come back.
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
