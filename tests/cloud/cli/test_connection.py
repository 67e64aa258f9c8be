"""The connection to Fabric: the three values, the token's file, lists in pages, and trust that was replaced."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from cloud.cli import connection, published_trust
from cloud.cli.connection import PAGE_ITEMS, Server, cache_directory
from cloud.cli.errors import CliError, TrustError, TrustUnreachable
from cloud.fabric import schemas
from cloud.mtls.client import Answer, AnswerUnusable, ProblemAnswer, ServerRefused, Unreachable
from protocol.messages.activation import TrustPin
from protocol.problems import CONTENT_TYPE, KINDS, ProblemDocument, document
from protocol.signed.trust import ServiceUrls

PIN = TrustPin(1, "ab" * 32)
NAMED = {"url": "http://127.0.0.1:1/", "trust": str(PIN), "token_file": "/nonexistent"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CASCADE_URL", "CASCADE_TRUST", "CASCADE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def server(**options: str) -> Server:
    return Server(Namespace(**{**NAMED, **options}))


def test_options_count_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_URL", "http://other:1")
    assert server().url == "http://127.0.0.1:1"
    assert server(url="").url == "http://other:1"
    assert server().pin == PIN


@pytest.mark.parametrize(
    ("options", "code"), [({"url": ""}, "server_not_named"), ({"trust": "1:zz"}, "trust_pin_invalid")]
)
def test_a_server_that_is_not_named(options: dict[str, str], code: str) -> None:
    with pytest.raises(CliError) as caught:
        server(**options)
    assert (caught.value.exit_code, caught.value.code) == (2, code)


def test_each_pin_has_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory(PIN) == tmp_path / "cache" / "cascade" / "abababababababab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/alice")
    assert cache_directory(PIN) == Path("/home/alice/.cache/cascade/abababababababab")


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [(TrustError("no"), 65, "trust_not_verified"), (TrustUnreachable("no"), 69, "unreachable")],
)
def test_trust_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int, code: str) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(published_trust, "fetch", fetch)
    with pytest.raises(CliError) as caught:
        server().call("GET", "/v1/tenants", schemas.Page[schemas.Tenant])
    assert (caught.value.exit_code, caught.value.code) == (exit_code, code)


class Fabric:
    """Plays the server: the copies of the trust are `trusts`, in order; `answers` has the answer under each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, trusts: list[str], answers: dict[str, object]) -> None:
        self.asked: list[str] = []
        monkeypatch.setattr(Server, "trust", lambda *_: trusts.pop(0))

        async def request(_: Server, trust: str, *__: object) -> Any:
            self.asked.append(trust)
            if isinstance(found := answers[trust], Exception):
                raise found
            return found

        monkeypatch.setattr(Server, "_request", request)


def test_a_server_of_newer_trust_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = Fabric(monkeypatch, ["old", "new"], {"old": ServerRefused("not of this CA"), "new": "done"})
    assert server().call("GET", "/", str) == "done"
    assert fabric.asked == ["old", "new"]


def test_a_server_that_the_newest_trust_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = Fabric(monkeypatch, ["old", "old"], {"old": ServerRefused("not of this CA")})
    with pytest.raises(CliError) as caught:
        server().call("GET", "/", str)
    assert (caught.value.exit_code, caught.value.code) == (65, "server_unproven")
    assert fabric.asked == ["old"]


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (Unreachable("gone"), 69, "unreachable"),
        (AnswerUnusable("noise"), 69, "unreachable"),
        (ProblemAnswer(ProblemDocument("about:blank", "Conflict", 409, code="conflict")), 77, "conflict"),
        (ProblemAnswer(ProblemDocument("about:blank", "Unavailable", 503, code="unavailable")), 75, "unavailable"),
    ],
)
def test_answers_have_exit_codes(monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int, code: str) -> None:
    Fabric(monkeypatch, ["trust"], {"trust": error})
    with pytest.raises(CliError) as caught:
        server().call("GET", "/", str)
    assert (caught.value.exit_code, caught.value.code) == (exit_code, code)


@pytest.mark.parametrize("content", [None, b"", b"cot_", b"\xff", b"x" * 5000])
def test_a_token_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(CliError) as caught:
        connection._read_token(path)
    assert (caught.value.exit_code, caught.value.code) == (2, "token_unusable")


def test_a_list_is_read_page_by_page_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(_: Server, __: str, path: str, ___: object) -> schemas.Page[int]:
        asked.append(path)
        return schemas.Page(tuple(range(PAGE_ITEMS)), f"after{len(asked)}")

    monkeypatch.setattr(Server, "call", call)
    assert len(server().pages("/v1/things", schemas.Page[int], limit=2 * PAGE_ITEMS, tenant="", object="o")) == 400
    assert asked == ["/v1/things?object=o&limit=200", "/v1/things?object=o&cursor=after1&limit=200"]


class Wire:
    """Plays the client of a `put`. Fabric has another state than the one that was read if `changed`."""

    def __init__(self, changed: bool) -> None:
        self.changed = changed
        self.made: list[tuple[str, str, object]] = []

    def __call__(self, *_: object, **__: object) -> "Wire":
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        self.made.append((method, path, (headers or {}).get("If-Match")))
        if method == "PUT" and self.changed:
            detail = "the last change is `trust.tiers_set` by operator 'night shift' (tok_1) at 2026-01-02T03:04:05Z"
            problem = document(KINDS["changed_since_read"], detail)
            return Answer(412, {"content-type": CONTENT_TYPE}, msgspec.json.encode(problem))
        return Answer(200, {"etag": '"read"', "content-type": "application/json"}, b'"done"')


def putting(monkeypatch: pytest.MonkeyPatch, changed: bool) -> Wire:
    wire = Wire(changed)
    monkeypatch.setattr(connection, "CloudClient", wire)
    monkeypatch.setattr(connection, "_context", lambda _: None)
    monkeypatch.setattr(connection, "_read_token", lambda _: "cot_x")
    urls = ServiceUrls(1, "https://a", "https://b")
    monkeypatch.setattr(Server, "trust", lambda *_: (None, urls))
    return wire


def test_a_change_names_the_state_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = putting(monkeypatch, changed=False)
    assert server().put("/thing/part", str, {"a": 1}, read="/thing") == "done"
    assert wire.made == [("GET", "/thing", None), ("PUT", "/thing/part", '"read"')]


def test_a_change_of_another_state_says_who_made_it_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    putting(monkeypatch, changed=True)
    with pytest.raises(CliError) as caught:
        server().put("/thing/part", str, {"a": 1}, read="/thing")
    assert (caught.value.exit_code, caught.value.code) == (77, "changed_since_read")
    assert "by operator 'night shift' (tok_1) at 2026-01-02T03:04:05Z" in str(caught.value)
    assert "run the command again" in caught.value.next_step
