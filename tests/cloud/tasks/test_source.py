"""`cloud.tasks.source`: one source for each IPv4 address and IPv6 network of 64 bits, one site for each of 48 bits."""

import pytest

from cloud.tasks.source import site_of, source_of


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8::2:3%eth0", "2001:db8::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_source_of(host: str, source: str) -> None:
    assert source_of(host) == source


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("192.0.2.1", ""),
        ("::ffff:192.0.2.1", ""),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("", ""),
        ("client", ""),
    ],
)
def test_site_of(host: str, site: str) -> None:
    assert site_of(host) == site
