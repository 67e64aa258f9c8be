"""The URLs that the node accepts, and that every accepted URL is one for the HTTP libraries."""

import httpcore
import httpx
import pytest
from hypothesis import given, strategies

from protocol.urls import UrlError, check_base_url

GOOD = [
    "http://cascade.example",
    "http://127.0.0.1:8080",
    "http://localhost:1/a/b/",
    "http://[::1]:80/x",
    "http://[fe80::1%25eth0]",
    "http://under_score.example.:65535/~a;b=c",
]


@pytest.mark.parametrize("url", GOOD)
def test_urls_that_are_used(url: str) -> None:
    check_base_url(url, "http", with_path=True)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://[", "form"),
        ("http://", "form"),
        ("http:///x", "form"),
        ("http://a b", "form"),
        ("http://\x00", "form"),
        ("http://h\r\nX: y", "form"),
        ("http://ü", "form"),
        ("http://\udcff", "form"),
        ("http://u:p@h", "form"),
        ("http://h?q", "form"),
        ("http://h/#f", "form"),
        ("http://h:abc", "form"),
        ("http://h:-1", "form"),
        ("http://-h", "form"),
        ("http://h..x", "form"),
        (f"http://{'x' * 64}", "form"),
        (f"http://{'x.' * 127}", "form"),
        ("http://h:0", "port"),
        ("http://h:99999", "port"),
        (f"http://h/{'x' * 3000}", "longer"),
        ("", "begin with http://"),
        ("https://h", "begin with http://"),
        ("HTTP://h", "begin with http://"),
        ("file:///etc/passwd", "begin with http://"),
        ("http://h\n", "form"),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_urls_that_are_refused(url: str, fault: str) -> None:
    with pytest.raises(UrlError, match=fault):
        check_base_url(url, "http", with_path=True)


def test_a_path_only_where_it_is_allowed() -> None:
    check_base_url("https://h:1", "https", with_path=False)
    for url in ("https://h/", "https://h:1/a"):
        with pytest.raises(UrlError, match="path"):
            check_base_url(url, "https", with_path=False)


@given(strategies.text(strategies.sampled_from("ah1[]:/%25.@-_ü?#\x00 ")).map(lambda rest: "http://" + rest))
def test_an_accepted_url_is_a_url_for_the_libraries(url: str) -> None:
    try:
        check_base_url(url, "http", with_path=True)
    except UrlError:
        return
    assert httpcore.URL(url + "/tuf").host
    assert httpx.URL(url).port != 0
