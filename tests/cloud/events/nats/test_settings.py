"""`cloud.events.nats.settings`: which servers and bounds are accepted."""

import msgspec
import pytest

from cloud.events.nats.settings import NatsSettings

GOOD = ["tls://nats.example:4222", "nats://127.0.0.1:4222"]
BAD = ["", "http://nats.example:80", "tls://nats.example", "tls://user:secret@nats.example:4222", "tls://a:1/x"]


@pytest.mark.parametrize("url", GOOD)
def test_urls(url: str) -> None:
    assert msgspec.convert({"url": url}, NatsSettings).url == url


@pytest.mark.parametrize("wrong", [{"url": url} for url in BAD] + [{"url": GOOD[0], "keep_days": 6}, {}])
def test_other_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, NatsSettings)
