"""`cloud.breakwater.hierarchy`: the rows determine active CAs, trusted CAs and chains."""

import msgspec
import pytest

from cloud.breakwater.errors import SignerError
from cloud.breakwater.hierarchy import TRUSTED, Hierarchy, hierarchy_of, parse_ca, root_of
from cloud.breakwater.pkix.profiles import Issuer
from cloud.breakwater.store.authorities import AuthorityRow, AuthorityState, CrossRow
from tests.cloud.breakwater.chains import NOW, TRUST_DOMAIN, Chain, cross, make_chain


def row(issuer: Issuer, state: AuthorityState = "active") -> AuthorityRow:
    number = int(issuer.authority.rpartition("-")[2])
    return AuthorityRow(issuer.authority, issuer.name, number, state, issuer.certificate_der, "", NOW)


def rows_of(*chains: Chain, **states: AuthorityState) -> tuple[AuthorityRow, ...]:
    issuers = [issuer for chain in chains for issuer in (chain.root, chain.nodes, chain.services)]
    return tuple(row(each, states.get(each.authority.replace("-", "_"), "active")) for each in issuers)


def drawn(rows: tuple[AuthorityRow, ...], crosses: tuple[CrossRow, ...] = ()) -> Hierarchy:
    return hierarchy_of(1, rows, crosses, TRUST_DOMAIN)


async def test_the_active_ones_issue_and_a_chain_ends_below_the_root() -> None:
    chain = await make_chain()
    made = drawn(rows_of(chain))
    assert {ca: issuer.authority for ca, issuer in made.active.items()} == {
        "root": "root-1",
        "nodes": "nodes-1",
        "services": "services-1",
    }
    assert made.above["nodes-1"] == (chain.nodes.certificate_der,)
    assert len(made.trust.roots or ()) == 1


@pytest.mark.parametrize("state", ["prepared", "active", "old", "tainted", "revoked"])
async def test_only_the_state_says_who_is_trusted(state: AuthorityState) -> None:
    chain = await make_chain()
    made = drawn(rows_of(chain, nodes_1=state))
    trusted = state in TRUSTED
    assert (chain.nodes.certificate_der in made.trusted) is trusted
    assert bool(made.trust.node_issuers) is trusted
    assert ("nodes" in made.active) is (state == "active")
    assert "nodes-1" in made.issuers


async def test_a_cross_certificate_is_sent_below_its_root_and_trusted_with_its_issuer() -> None:
    old, new = await make_chain(1), await make_chain(2)
    bridge = CrossRow("root-2", "root-1", await cross(new, old))
    made = drawn(rows_of(old, new, nodes_1="old", services_1="old", root_1="old"), (bridge,))
    assert made.above["nodes-2"] == (new.nodes.certificate_der, bridge.certificate)
    assert made.above["nodes-1"] == (old.nodes.certificate_der,)
    assert bridge.certificate in made.trusted
    tainted = drawn(rows_of(old, new, nodes_1="old", services_1="old", root_1="tainted"), (bridge,))
    assert bridge.certificate not in tainted.trusted


async def test_unchanged_parts_are_the_same_objects() -> None:
    rows = rows_of(await make_chain())
    before = drawn(rows)
    again = hierarchy_of(2, rows, (), TRUST_DOMAIN, before)
    assert again.trust is before.trust
    assert again.issuers["nodes-1"] is before.issuers["nodes-1"]
    assert drawn(rows).trust is not before.trust


async def test_rows_that_no_root_of_the_installation_signed_are_refused() -> None:
    one, other = await make_chain(1), await make_chain(2)
    with pytest.raises(SignerError, match="no root CA"):
        drawn((row(one.nodes),))
    with pytest.raises(SignerError, match="no root of this installation signed it"):
        drawn((row(one.root), row(other.nodes)))
    broken = msgspec.structs.replace(row(one.nodes), certificate=b"noise")
    with pytest.raises(SignerError, match="not a certificate"):
        drawn((row(one.root), broken))
    with pytest.raises(SignerError, match="not a certificate"):
        parse_ca(b"")


async def test_the_root_of_an_authority() -> None:
    one, other = await make_chain(1), await make_chain(2)
    roots = [row(other.root), row(one.root)]
    found = root_of(row(one.nodes), roots)
    assert found is not None
    assert found.id == "root-1"
    assert root_of(row(one.nodes), roots[:1]) is None
