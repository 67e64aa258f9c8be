"""An agent that has lost its cloud meets each date of its lease to the second, in virtual time.

`make drills PART=offline-days` does it in every tier, for 70 days, also with the commands, and with a return in each
state.
"""

from pathlib import Path

import pytest

from tests.drills.offline_days import OfflineDays


@pytest.mark.slow
def test_each_date_of_a_lease_is_met_to_the_second(tmp_path: Path) -> None:
    site = OfflineDays(tmp_path / "site", "", "software", print, commands=False)
    site.run(0, first=4)
    assert site.findings == []
    assert site.seconds == 6
