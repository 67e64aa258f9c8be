"""`cloud.fabric.routes.restored`: operators compare generations, list and accept nodes, and run a rebuild."""

from datetime import timedelta

from cloud.fabric import schemas
from cloud.fabric.bodies.restored import (
    AcceptNode,
    BeginRebuild,
    ChangeRebuild,
    ImportClosed,
    Rebuild,
    Reconcile,
    Reconciliation,
)
from tests.cloud.fabric.asgi import Api
from tests.cloud.fabric.support import ALICE, Machine, World


async def test_each_route_answers_an_operator(world: World, machine: Machine, api: Api) -> None:
    token = (await world.parts.operators.tokens.create(ALICE, schemas.CreateToken("bob"))).secret
    compared = await api.ask("POST", "/v1/reconcile", Reconcile(dry_run=True), token=token)
    assert compared.into(Reconciliation) == Reconciliation(True, 1, 0, 0, (), ())
    listed = await api.ask("GET", "/v1/holds?state=unpresented", token=token)
    assert listed.into(schemas.Page[schemas.Node]).items == ()
    assert (await api.ask("GET", "/v1/holds?state=odd", token=token)).code == "invalid"
    path = f"/v1/nodes/{machine.node}/accept"
    assert (await api.ask("POST", path, AcceptNode("unconfirmed"), token=token)).into(schemas.Node).hold == ""
    begun = await api.ask("POST", "/v1/rebuild/begin", BeginRebuild(), token=token)
    assert begun.into(Rebuild) == Rebuild(world.clock(), 0, until=world.clock() + timedelta(days=30))
    imported = await api.ask("POST", "/v1/rebuild/closed", ImportClosed(serials=("0a",)), token=token)
    assert imported.into(Rebuild).imported == 1
    assert (await api.ask("POST", "/v1/rebuild/end", ChangeRebuild(), token=token)).into(Rebuild).since is None
    assert (await api.ask("GET", "/v1/rebuild", token=token)).into(Rebuild) == Rebuild(None, 0)
    for method, route in (("POST", "/v1/reconcile"), ("GET", "/v1/holds"), ("POST", "/v1/rebuild/begin")):
        assert (await api.ask(method, route)).code == "operator_required"
