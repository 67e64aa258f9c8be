"""`cloud.fabric.tuf.offline`: changes that the holders of the offline keys make."""

import pytest

from cloud.fabric.tuf.offline import Changes
from cloud.fabric.tuf.targets import TargetsError
from tests.cloud.fabric.publishing import Holders
from tests.cloud.fabric.support import World


async def test_a_drop_is_refused_by_key_id(world: World, holders: Holders) -> None:
    with pytest.raises(TargetsError, match="names nothing"):
        await holders.signed(Changes(drop_roots=("00000000",)))
    with pytest.raises(TargetsError, match="no issuer"):
        await holders.signed(Changes(drop_issuers=("00000000",)))
    with pytest.raises(TargetsError, match="8 characters"):
        await holders.signed(Changes(drop_roots=("00",)))
    content = await holders.content()
    with pytest.raises(TargetsError, match="already"):
        await holders.signed(Changes(add_roots=content.bundle.roots))
