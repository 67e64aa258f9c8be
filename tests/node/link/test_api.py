"""The outcomes of a call: an answer, a conclusive refusal, or an unreachable cloud."""

import gzip
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

from node.exits import Exit
from node.link import api
from node.link.api import ClockWrong, CloudRefused, CloudUnreachable, ServerUnproven, Service
from node.link.certificates import Window
from node.link.transport import SessionKey
from protocol.encoding import json_encode
from protocol.evidence import EndorsementEvidence
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from protocol.messages.activation import StartActivation
from protocol.messages.sessions import Ask
from protocol.problems import KINDS, document
from protocol.signed.trust import TARGET_FORMAT, ServiceUrls
from tests.simulators.fabric import CLIENT, DAY, Answer, Fabric, always, authority, hang, raw, refused, utc_now
from tests.simulators.machine_clocks import right_window

NONCES = "/v1/node/nonces"
PROBLEM = ("content-type", "application/problem+json")


def connect(fabric: Fabric, name: str = "fabric", window: Callable[[], Window] = right_window) -> Service:
    return api.connect(fabric.bundle, fabric.urls, name, window)


async def nonce(fabric: Fabric) -> str:
    service = connect(fabric)
    try:
        return (await service.nonce()).nonce
    finally:
        await service.aclose()


async def test_an_answer_is_a_value(fabric: Fabric) -> None:
    assert len(await nonce(fabric)) == 32
    request = fabric.requests[0]
    assert (request.service, request.method, request.path, request.body) == ("fabric", "POST", NONCES, b"{}")


async def test_a_connection_is_kept_and_closed(fabric: Fabric) -> None:
    service = connect(fabric)
    first, second = await service.nonce(), await service.nonce()
    assert first != second
    assert fabric.handshakes == ["done"]
    await service.aclose()


@pytest.mark.parametrize("code", sorted(code for code, kind in KINDS.items() if kind.conclusive))
async def test_conclusive_codes_are_refusals(fabric: Fabric, code: str) -> None:
    fabric.answers[NONCES] = refused(code)
    with pytest.raises(CloudRefused) as caught:
        await nonce(fabric)
    assert (caught.value.code, caught.value.exit) == (code, Exit.REFUSED)
    assert caught.value.next == KINDS[code].next


def problem_with(code: str) -> bytes:
    return json_encode(document(KINDS["internal"])).replace(b'"code":"internal"', b'"code":"%s"' % code.encode())


NOTHING_THAT_COUNTS: dict[str, Answer] = {
    "401 without a document": always(401),
    "403 in HTML": always(403, b"<html>blocked by the proxy</html>", ("content-type", "text/html")),
    "404 in other JSON": always(404, b'{"error":"not found"}'),
    "407": always(407),
    "429 with its code": refused("rate_limited"),
    "500 with its code": refused("internal"),
    "503 with its code": refused("unavailable"),
    "502 empty": always(502),
    "an unknown code": always(403, problem_with("self_destruct"), PROBLEM),
    "a document of wrong types": always(403, b'{"type":1,"title":"","status":403,"code":"node_revoked"}', PROBLEM),
    "a document that is cut": always(403, json_encode(document(KINDS["node_revoked"]))[:-1], PROBLEM),
    "a redirect": always(307, b"", ("location", "https://127.0.0.1:1/v1/node/nonces")),
    "200 empty": always(200),
    "204": always(204),
    "200 in HTML": always(200, b"<html></html>"),
    "200 of another form": always(200, b'{"nonce":5,"expires_at":"2026-11-22T12:00:00Z"}'),
    "200 not UTF-8": always(200, b'{"\xff":1}'),
    "200 nested deeply": always(200, b"[" * 100_000),
    "packed": always(
        200, gzip.compress(b'{"nonce":"x","expires_at":"2026-11-22T12:00:00Z"}'), ("content-encoding", "gzip")
    ),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing": raw(b""),
    "a head that is cut": raw(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "a body that is cut": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}"),
    "a head without end": raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000),
    "too much": always(200, b'"' + b"x" * RESPONSE_BODY_BYTES_MAX + b'"'),
    "too much of a refusal": always(403, b'"' + b"x" * RESPONSE_BODY_BYTES_MAX + b'"', PROBLEM),
}


@pytest.mark.parametrize("name", NOTHING_THAT_COUNTS)
async def test_every_other_answer_counts_as_silence(fabric: Fabric, name: str) -> None:
    fabric.answers[NONCES] = NOTHING_THAT_COUNTS[name]
    with pytest.raises(CloudUnreachable) as caught:
        await nonce(fabric)
    assert caught.value.exit is Exit.UNREACHABLE
    assert len([request for request in fabric.requests if request.path == NONCES]) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), ("0", 0), ("86400", 600), ("9" * 5000, 0), ("-5", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("", 0)],
)
async def test_the_wait_that_the_cloud_asks_for(fabric: Fabric, header: str, seconds: float) -> None:
    body = json_encode(document(KINDS["rate_limited"]))
    fabric.answers[NONCES] = always(429, body, PROBLEM, ("retry-after", header))
    with pytest.raises(CloudUnreachable) as caught:
        await nonce(fabric)
    assert caught.value.retry_after_seconds == seconds


async def test_an_answer_is_read_to_the_bound_and_no_further(fabric: Fabric) -> None:
    sent = 0

    async def endless(stream: trio.SSLStream[trio.SocketStream]) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)
            sent += 65536

    async def connection(_service: str, stream: trio.SSLStream[trio.SocketStream]) -> None:
        await endless(stream)

    fabric._connection = connection  # type: ignore[method-assign, assignment]  # a simulator
    with pytest.raises(CloudUnreachable, match="too long"):
        await nonce(fabric)
    assert sent < 16 * RESPONSE_BODY_BYTES_MAX


async def test_a_server_that_cannot_prove_itself_is_reported(fabric: Fabric) -> None:
    fabric.leaves["fabric"] = fabric.service_leaf("breakwater")
    with pytest.raises(ServerUnproven, match="the server is not spiffe") as caught:
        await nonce(fabric)
    assert (caught.value.exit, fabric.received) == (Exit.VERIFICATION, 0)


async def test_a_stranger_in_the_clouds_place_is_named(fabric: Fabric) -> None:
    """Such as a proxy that breaks TLS open: the text says who issued its certificate."""
    fabric.leaves["fabric"] = fabric.service_leaf("fabric", issuer=authority("Portal of the hotel"))
    with pytest.raises(ServerUnproven, match="a certificate of CN=fabric, issued by CN=Portal of the hotel") as caught:
        await nonce(fabric)
    assert (caught.value.code, fabric.received) == ("server_unproven", 0)


def years_ago() -> Window:
    """A machine without a battery, before the cloud has signed a time."""
    return Window(datetime(1970, 1, 1, tzinfo=UTC))


async def test_a_machine_that_does_not_know_the_time_reaches_the_cloud(fabric: Fabric) -> None:
    async with connect(fabric, window=years_ago) as service:
        assert (await service.nonce()).nonce


@pytest.mark.parametrize("early", [timedelta(minutes=10), timedelta(days=364)])
async def test_after_a_signed_time_a_certificate_from_the_future_does_not_count(
    early: timedelta, fabric: Fabric
) -> None:
    begins = utc_now() + early
    fabric.leaves["fabric"] = fabric.service_leaf("fabric", not_before=begins, not_after=utc_now() + 400 * DAY)
    with pytest.raises(ServerUnproven, match=f"it begins at {begins:%Y-%m-%d %H:%M} UTC, and the cloud's") as caught:
        await connect(fabric).nonce()
    assert (caught.value.code, caught.value.exit, fabric.received) == ("server_unproven", Exit.VERIFICATION, 0)


async def test_an_expired_certificate_does_not_count(fabric: Fabric) -> None:
    fabric.leaves["fabric"] = fabric.service_leaf("fabric", not_before=utc_now() - 40 * DAY, not_after=utc_now() - DAY)
    with pytest.raises(ServerUnproven, match=r"it ended at .* issued by CN=services") as caught:
        await connect(fabric).nonce()
    assert (caught.value.code, fabric.received) == ("server_unproven", 0)


async def test_a_certificate_that_only_trusted_time_rejects_names_the_clock(fabric: Fabric) -> None:
    """The owner of the TPM has set its clock forward."""
    with pytest.raises(ClockWrong, match=r"it ended at .* and trusted time is .* or later") as caught:
        await connect(fabric, window=lambda: Window(utc_now() + 400 * DAY)).nonce()
    assert (caught.value.code, caught.value.exit, fabric.received) == ("clock_wrong", Exit.CLOCK, 0)
    assert "activate the machine again" in caught.value.next


async def test_the_dates_of_the_whole_chain_count(fabric: Fabric) -> None:
    """The root of the simulator lives for a year, and its leaf here for longer."""
    fabric.leaves["fabric"] = fabric.service_leaf("fabric", not_after=utc_now() + 4000 * DAY)
    with pytest.raises(ClockWrong):
        await connect(fabric, window=lambda: Window(utc_now() + 3900 * DAY)).nonce()


async def portal(stream: trio.SocketStream) -> None:
    """Answers in plain text whatever it is asked."""
    async with stream:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 302 Found\r\nlocation: http://portal.example/\r\n\r\n")


async def hangs_up(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()


async def silent(stream: trio.SocketStream) -> None:
    async with stream:
        await trio.sleep_forever()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("server", "code", "text"),
    [
        (portal, "tls_failed", "the TLS handshake failed"),
        (hangs_up, "tls_failed", "the server ended the connection"),
        (silent, "timed_out", "the TLS handshake took longer than 0.2 s"),
        (None, "connection_refused", "127.0.0.1 port [0-9]+ refused the connection"),
    ],
)
async def test_a_failed_connection_has_its_cause(
    server: Callable[[trio.SocketStream], Awaitable[None]] | None, code: str, text: str, nursery: trio.Nursery
) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    if server is None:
        await listeners[0].aclose()
    else:
        nursery.start_soon(trio.serve_listeners, server, listeners)
    url = f"https://127.0.0.1:{port}"
    async with api.connect(Fabric().bundle, ServiceUrls(TARGET_FORMAT, url, url), "fabric", right_window) as service:
        with pytest.raises(CloudUnreachable, match=f"cannot reach {url}: .*{text}") as caught:
            await service.nonce()
    assert caught.value.code == code
    assert caught.value.next != CloudUnreachable.next


async def test_each_service_is_asked_at_its_own_address(fabric: Fabric) -> None:
    service = connect(fabric, "breakwater")
    await service.nonce()
    await service.aclose()
    assert fabric.requests[0].service == "breakwater"


@pytest.mark.parametrize("activation", ["", "../../v1/tokens", "act_1?x", "act_0" + "1" * 24 + "\n", "x" * 70_000])
async def test_ids_of_an_answer_are_ids(fabric: Fabric, activation: str) -> None:
    """The ids are later used in a path and in file names."""
    body = {
        "activation": activation,
        "credential_blob": "",
        "encrypted_secret": "",
        "fingerprint_salt": "",
        "expires_at": "2026-11-22T12:00:00Z",
        "tries_left": 3,
    }
    fabric.answers["/v1/activations"] = always(201, json_encode(body))
    service = connect(fabric)
    with pytest.raises(CloudUnreachable, match="cannot use the cloud's answer"):
        await service.start_activation(StartActivation("cac", EndorsementEvidence(b"", b""), "1"))
    await service.aclose()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds, in hundredths of seconds instead of seconds."""
    monkeypatch.setattr(api, "ANSWER_SECONDS_MAX", 0.2)
    monkeypatch.setattr(api, "CONNECT_SECONDS_MAX", 0.2)
    monkeypatch.setattr(api, "EVENT_MARGIN_SECONDS", 0.2)


async def drip(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("ask", [lambda s: s.nonce(), lambda s: s.events(0, 0)], ids=["nonce", "events"])
async def test_a_silent_server_counts_as_unreachable(
    fabric: Fabric, ask: Callable[[Service], Awaitable[object]]
) -> None:
    fabric.answers |= {NONCES: hang, "/v1/node/events": hang}
    service = connect(fabric)
    with trio.fail_after(3), pytest.raises(CloudUnreachable):
        await ask(service)
    await service.aclose()


@pytest.mark.usefixtures("soon")
async def test_a_server_that_sends_too_slowly_counts_as_unreachable(fabric: Fabric) -> None:
    """Each byte comes in time; the complete answer does not."""

    async def connection(_service: str, stream: trio.SSLStream[trio.SocketStream]) -> None:
        await drip(stream)

    fabric._connection = connection  # type: ignore[method-assign, assignment]  # a simulator
    with trio.fail_after(3), pytest.raises(CloudUnreachable, match="in time"):
        await nonce(fabric)


async def test_cancelled_asking_leaves_a_client_that_can_be_closed(fabric: Fabric) -> None:
    fabric.answers[NONCES] = hang
    service = connect(fabric)
    with trio.move_on_after(0.1) as scope:
        await service.nonce()
    assert scope.cancelled_caught
    del fabric.answers[NONCES]
    await service.nonce()
    await service.aclose()


async def test_closing_under_a_waiting_call_ends_it_as_silence(fabric: Fabric) -> None:
    key = SessionKey()
    fabric.confirmed = 1
    chain = fabric.node_chain(key.public_key, 1, CLIENT.dotted_string)
    service = api.connect(fabric.bundle, fabric.urls, "fabric", right_window, (key, chain))
    ended = trio.Event()

    async def wait() -> None:
        with pytest.raises(CloudUnreachable):
            await service.events(fabric.cursor, 200)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert fabric.requests
        await service.aclose()
        with trio.fail_after(2):
            await ended.wait()


async def test_messages_go_to_their_routes(fabric: Fabric) -> None:
    key = SessionKey()
    fabric.confirmed = 1
    fabric.say(fabric.lease())
    chain = fabric.node_chain(key.public_key, 1, CLIENT.dotted_string)
    service = api.connect(fabric.bundle, fabric.urls, "fabric", right_window, (key, chain))
    assert (await service.statement(Ask(nonce="n" * 32))).statement == fabric.statement
    assert (await service.confirm(Ask(nonce="n" * 32))).statement == fabric.statement
    assert (await service.events(-1, 5)).cursor == fabric.cursor
    await service.aclose()
    assert [(request.method, request.path, request.generation) for request in fabric.requests] == [
        ("POST", "/v1/node/statement", 1),
        ("POST", "/v1/node/confirm", 1),
        ("GET", "/v1/node/events", 1),
    ]
    assert fabric.requests[-1].query == {"cursor": ["-1"], "wait": ["5"]}


async def test_a_limit_has_a_cause_of_its_own(fabric: Fabric) -> None:
    """A proxy in front of the cloud sends no problem document."""
    for status, code in ((429, "rate_limited"), (503, "cloud_unreachable")):
        fabric.answers[NONCES] = always(status, b"", ("retry-after", "30"))
        with pytest.raises(CloudUnreachable, match="it asks to wait 30 s") as caught:
            await nonce(fabric)
        assert (caught.value.code, caught.value.retry_after_seconds) == (code, 30)
