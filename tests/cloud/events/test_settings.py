"""`cloud.events.settings`: how long events stay has bounds."""

from datetime import timedelta

import msgspec
import pytest

from cloud.events.settings import EventSettings


def test_events_stay_for_a_week_or_longer() -> None:
    assert EventSettings().kept == timedelta(days=7)
    assert msgspec.toml.decode(b"keep_days = 30", type=EventSettings).kept == timedelta(days=30)
    for text in (b"keep_days = 6", b"keep_days = 366", b"keep_days = 7.5", b"kept = 8"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.toml.decode(text, type=EventSettings, strict=True)
