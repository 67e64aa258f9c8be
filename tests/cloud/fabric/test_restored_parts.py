"""`cloud.fabric.restored_parts`: routes of nodes wait for the comparison after a restore, and no other route does."""

import pytest

from cloud.fabric.restored_parts import WAITING
from cloud.fabric.routes.buckets import ACTIVATION, NODE, READ, RENEWAL, REPOSITORY, SESSION, WRITE
from cloud.http.admission import PROBES, Bucket
from tests.cloud.fabric.support import World


@pytest.mark.parametrize("bucket", [ACTIVATION, NODE, RENEWAL, SESSION])
async def test_routes_of_nodes_wait(world: World, bucket: Bucket) -> None:
    parts = world.parts.restored
    assert parts.waits(bucket) == ""
    parts.reconciling.pending.waits = True
    assert parts.waits(bucket) == WAITING
    assert [fault.code for fault in await parts.probe()()] == ["not_reconciled"]
    assert [parts.waits(other) for other in (READ, WRITE, REPOSITORY, PROBES, None)] == [""] * 5
