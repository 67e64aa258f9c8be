"""`cloud.breakwater.ceremony.signing`: the use cases of the root's key refuse wrong arguments of any caller."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.ceremony.signing import CaIdentity, make_cross, make_issuing, make_root, make_root_crl
from cloud.breakwater.errors import CeremonyError, IssuerError
from cloud.breakwater.pkix.crl import Entry
from tests.cloud.breakwater.chains import NOW, SERIAL, TRUST_DOMAIN, local, make_chain, requested

pytestmark = pytest.mark.slow


async def test_an_old_root_has_no_room_for_a_cross_certificate() -> None:
    old, new = await make_chain(1), await make_chain(2)
    for bad, reason in ((old.root, "has to be another root"), (new.nodes, "has to be another root|cannot cross-sign")):
        with pytest.raises(CeremonyError, match=reason):
            await make_cross(bad, old.root, old.root_key, SERIAL, NOW)
    with pytest.raises(CeremonyError, match="leaves no room"):
        await make_cross(new.root, old.nodes, old.nodes_key, SERIAL, NOW)


async def test_wrong_arguments_are_refused() -> None:
    chain = await make_chain()
    with pytest.raises(CeremonyError, match="64 characters"):
        await make_root(CaIdentity("x" * 60, "root", 1), chain.root_key, SERIAL, NOW)
    with pytest.raises(IssuerError):  # the signer has another key than the root's
        await make_issuing(
            CaIdentity(TRUST_DOMAIN, "nodes", 2), requested(local(5)), chain.root, local(6, ec.SECP384R1()), SERIAL, NOW
        )
    with pytest.raises(CeremonyError, match="longer than the root"):
        await make_root_crl(1, [], chain.root, chain.root_key, chain.root.not_after, timedelta(days=1))
    with pytest.raises(IssuerError):
        await make_root_crl(1, [Entry(0, NOW)], chain.root, chain.root_key, NOW, timedelta(days=1))
