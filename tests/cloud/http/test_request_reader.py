"""`cloud.http.request_reader`: one strict reading of HTTP/1.1, compared with h11, and a bound on bytes outside bodies."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloud.http.request_reader import HEAD_BYTES_MAX, Head, RequestReader, RequestRefused

HOST = b"Host: a\r\n"


def read(*pieces: bytes) -> tuple[Head | None, bytes, RequestReader]:
    """Feed the pieces, as a connection does, and return the head, the body and the reader."""
    reader, head, body = RequestReader(), None, b""
    for piece in pieces:
        reader.feed(piece)
        head = head or reader.head()
        if head is not None:
            body += reader.body()
    return head, body, reader


def request(*headers: bytes, line: bytes = b"GET /a?b HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: a", *headers, b"", body])


def test_a_request_is_read_the_same_in_pieces_of_any_size() -> None:
    whole = request(b"Content-Length: 3", b"X:  two words \t", line=b"POST /a?b=%20 HTTP/1.1", body=b"xyz")
    for size in (1, 2, 3, 7, len(whole)):
        head, body, reader = read(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert head == Head(
            "POST",
            b"/a?b=%20",
            "1.1",
            [(b"host", b"a"), (b"content-length", b"3"), (b"x", b"two words")],
            3,
            keep_alive=True,
            expects_continue=False,
        )
        assert (body, reader.complete, reader.buffered) == (b"xyz", True, 0)


def test_chunks_are_joined_and_their_extensions_ignored() -> None:
    chunks = b"3;a=b\r\nabc\r\n02\r\nde\r\n0\r\n\r\n"
    whole = request(b"Transfer-Encoding: Chunked", body=chunks + b"GET /next")
    for size in (1, 5, len(whole)):
        head, body, reader = read(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert head is not None
        assert (head.length, body, reader.complete) == (None, b"abcde", True)
        assert reader.buffered == len(b"GET /next")


def test_the_next_request_stays_in_the_buffer_until_it_is_wanted() -> None:
    head, body, reader = read(request(line=b"GET /one HTTP/1.1") + request(line=b"GET /two HTTP/1.1"))
    assert head is not None
    assert (head.target, body, reader.complete) == (b"/one", b"", True)
    reader.next_request()
    following = reader.head()
    assert following is not None
    assert (following.target, reader.buffered) == (b"/two", 0)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"GET http://other:80/a?b HTTP/1.1", b"/a?b"),
        (b"GET HTTPS://other HTTP/1.1", b"/"),
        (b"GET http://other?q HTTP/1.1", b"/?q"),
    ],
)
def test_a_target_in_absolute_form_is_its_path(line: bytes, path: bytes) -> None:
    head, _, _ = read(request(line=line))
    assert head is not None
    assert head.target == path


@pytest.mark.parametrize(
    ("line", "headers", "keep_alive", "continues"),
    [
        (b"GET / HTTP/1.1", [], True, False),
        (b"GET / HTTP/1.1", [b"Connection: upgrade, Close"], False, False),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], False, False),
        (b"GET / HTTP/1.1", [b"Expect: 100-Continue"], True, True),
        (b"GET / HTTP/1.0", [b"Expect: 100-continue"], False, False),
    ],
)
def test_what_the_headers_say_about_the_connection(
    line: bytes, headers: list[bytes], keep_alive: bool, continues: bool
) -> None:
    head, _, _ = read(request(*headers, line=line))
    assert head is not None
    assert (head.keep_alive, head.expects_continue) == (keep_alive, continues)


MALFORMED = {
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "line feeds alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "two empty lines": b"\r\n\r\n",
    "an empty line, later a second": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": request(line=b"GET /#a HTTP/1.1"),
    "target beyond ASCII": request(line=b"GET /\xc3\xa4 HTTP/1.1"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": request(b"Host: b"),
    "Host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "Host with a name before it": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "no colon": request(b"nothing"),
    "blank before the colon": request(b"Name : value"),
    "no name": request(b": value"),
    "folded header": request(b"A: b", b" c"),
    "NUL": request(b"A: b\x00c"),
    "carriage return alone": request(b"A: b\rc"),
    "line feed alone": request(b"A: b\nC: d"),
    "control character": request(b"A: \x1b[2J"),
    "both lengths": request(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "two lengths": request(b"Content-Length: 3", b"Content-Length: 3"),
    "list of lengths": request(b"Content-Length: 3, 3"),
    "signed length": request(b"Content-Length: +3"),
    "hexadecimal length": request(b"Content-Length: 0x3"),
    "coded twice": request(b"Transfer-Encoding: gzip, chunked"),
    "another coding": request(b"Transfer-Encoding: gzip"),
    "chunked in HTTP/1.0": request(b"Transfer-Encoding: chunked", line=b"GET / HTTP/1.0"),
    "trailer": request(b"Transfer-Encoding: chunked", body=b"0\r\nAuthorization: Bearer x\r\n\r\n"),
    "chunk length": request(b"Transfer-Encoding: chunked", body=b"-1\r\n"),
    "chunk length with a blank": request(b"Transfer-Encoding: chunked", body=b"1 \r\na\r\n0\r\n\r\n"),
    "chunk length of 9 digits": request(b"Transfer-Encoding: chunked", body=b"000000001\r\n"),
    "chunk longer than stated": request(b"Transfer-Encoding: chunked", body=b"1\r\nab\r\n"),
    "chunk extension without end": request(b"Transfer-Encoding: chunked", body=b"1;" + b"a" * 300),
    "control character in an extension": request(b"Transfer-Encoding: chunked", body=b"1;\x00\r\na"),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_two_readers_could_read_differently_is_refused(sent: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(sent)
    assert refused.value.code == "malformed"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * HEAD_BYTES_MAX,
        request(b"A: " + b"a" * HEAD_BYTES_MAX),
        request(*[b"a:"] * 101),
        request(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n" * (HEAD_BYTES_MAX // 5)),
        request(b"Transfer-Encoding: chunked", body=(b"1;" + b"e" * 250 + b"\r\na\r\n") * (HEAD_BYTES_MAX // 250)),
    ],
    ids=["target", "header", "many headers", "chunks of one byte", "chunk extensions"],
)
def test_bytes_outside_a_body_are_bounded(sent: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(*(sent[at : at + 1000] for at in range(0, len(sent), 1000)))
    assert refused.value.code == "too_large"


def test_a_head_of_the_largest_size_is_read() -> None:
    head, _, _ = read(request(b"A: " + b"a" * (HEAD_BYTES_MAX - len(request(b"A: ")))))
    assert head is not None
    assert len(head.headers[1][1]) > HEAD_BYTES_MAX - 100


_token = st.text("abcXYZ019-_!", min_size=1, max_size=8)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
_noise = st.binary(max_size=6)


@example(method="GET", target="a", headers=[], body=b"", noise=b"\r\n", at=0)
@given(
    method=_token,
    target=st.text("/ab?%41#:*", min_size=1, max_size=8),
    headers=st.lists(
        st.tuples(st.one_of(_token, st.just("Content-Length")), st.one_of(_value, st.just("3"))), max_size=4
    ),
    body=st.binary(max_size=5),
    noise=_noise,
    at=st.integers(0, 80),
)
def test_whatever_is_accepted_h11_reads_in_the_same_way(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes, noise: bytes, at: int
) -> None:
    lines = [f"{method} /{target} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers), "", ""]
    sent = "\r\n".join(lines).encode() + body
    sent = sent[:at] + noise + sent[at:]
    try:
        head, ours, reader = read(sent)
    except RequestRefused:
        return
    if head is None:
        return
    theirs = h11.Connection(h11.SERVER)
    # RFC 9112 section 2.2 lets a server skip an empty line before the request line. h11 refuses the line.
    theirs.receive_data(sent.removeprefix(b"\r\n"))
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), list(event.headers)) == (head.method, head.headers)
    read_by_h11 = b""
    while isinstance(event := theirs.next_event(), h11.Data):
        read_by_h11 += event.data
    assert read_by_h11 == ours
    assert isinstance(event, h11.EndOfMessage) == reader.complete
