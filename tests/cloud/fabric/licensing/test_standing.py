"""`cloud.fabric.licensing.standing`: the whole table of changes."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from cloud.fabric import errors, schemas
from cloud.fabric.licensing import standing

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_the_whole_table_of_standing() -> None:
    allowed = {
        "active": {"suspend": "suspended", "resume": "active", "revoke": "revoked", "release": "released"},
        "suspended": {"suspend": "suspended", "resume": "active", "revoke": "revoked", "release": "released"},
        "revoked": {"revoke": "revoked"},
        "released": {"revoke": "revoked", "release": "released"},
    }
    for before in get_args(schemas.Standing):
        for change in get_args(standing.Change):
            if change in allowed[before]:
                assert standing.after(before, change) == allowed[before][change]
            else:
                with pytest.raises(errors.Conflict):
                    standing.after(before, change)
    carried = {before: standing.after_confirm(before) for before in get_args(schemas.Standing)}
    assert carried == {"active": "active", "suspended": "suspended", "revoked": "active", "released": "active"}


@pytest.mark.parametrize(
    ("now", "made_for_it", "made_after", "admitted"),
    [
        ("active", False, False, True),
        ("suspended", False, False, True),
        ("released", False, False, True),
        ("revoked", False, True, False),
        ("revoked", True, False, False),
        ("revoked", True, True, True),
    ],
)
def test_who_may_activate_again(now: schemas.Standing, made_for_it: bool, made_after: bool, admitted: bool) -> None:
    made_at = NOW + timedelta(seconds=1) if made_after else NOW
    if admitted:
        standing.check_admission(now, NOW, made_for_this_node=made_for_it, code_made_at=made_at)
        return
    with pytest.raises(errors.NodeRevoked):
        standing.check_admission(now, NOW, made_for_this_node=made_for_it, code_made_at=made_at)
