"""Adapter: one connection to a NATS server. Only this module imports nats-py.

Every wait has an end: a server that is slow, frozen or gone costs its caller an error after some seconds. A connection
that has failed is not repaired. Its owner opens another one after a pause.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from cloud.crypto.keyfile import KeyFileError, read_secret
from cloud.events.nats import subjects
from cloud.events.nats.nkeys import NkeyError
from cloud.events.nats.server import read_credentials
from cloud.events.nats.settings import TLS_SCHEME

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""How long the server may take to store one batch, or to answer one request."""
CLOSE_SECONDS = 1.0
PING_SECONDS = 10
"""A peer that is gone without a word is noticed after two of these."""
WAITING_BYTES_MAX = 2 * 1024 * 1024
"""Bytes that wait for the socket. A batch of the copy is smaller."""
HEARD_MAX = 1000
"""Messages of a subscription that wait for this process. Later ones are dropped."""
NOT_FOUND = 404
CLOUD_EVENT = "application/cloudevents+json"
"""The media type of a CloudEvent in structured mode (CloudEvents JSON format 1.0.2, section 3)."""

Heard = Callable[[str, bytes], None]


class NatsUnavailable(Exception):
    """The server cannot be reached, or does not answer. The text is the cause."""


class NatsRefused(Exception):
    """The server has answered a request with an error. `code` is the code of HTTP, `text` the cause."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class Message(NamedTuple):
    """A message for the stream. The server ignores a second message with the same id for two minutes."""

    subject: str
    id: str
    content: bytes


class Access(NamedTuple):
    """How to reach and convince the server."""

    url: str
    ca_file: Path | None
    credentials_file: Path
    service: str


class _Error(msgspec.Struct, frozen=True):
    description: str = ""


class _Acknowledgement(msgspec.Struct, frozen=True):
    """What the stream answers to a message (PubAck)."""

    error: _Error | None = None


class Link:
    """An open connection."""

    def __init__(self, client: Client, ended: asyncio.Event, answers: str) -> None:
        self._client = client
        self.ended = ended
        """Set when the connection has ended."""
        self._answers = answers
        self._sent = 0
        self._waiting: dict[str, asyncio.Future[str]] = {}

    async def listen(self) -> None:
        """Subscribe to the acknowledgements of the stream. Call it once."""
        await self._client.subscribe(f"{self._answers}.*", cb=self._acknowledged)

    async def store(self, messages: Sequence[Message]) -> int:
        """Send messages to the stream. Returns how many of them, from the first on, the server has stored.

        Raises NatsUnavailable if it has stored none.
        """
        sent: list[asyncio.Future[str]] = []
        cause = "the server did not acknowledge the events in time"
        end = asyncio.ensure_future(self.ended.wait())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for message in messages:
                    sent.append(await self._send(message))  # noqa: PERF401  (a failure keeps those before it)
                if sent:
                    await asyncio.wait((asyncio.gather(*sent), end), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        except (nats.errors.Error, OSError) as error:
            cause = _said(error)
        finally:
            end.cancel()
            self._waiting.clear()
        refused = [future.result() if future.done() and not future.cancelled() else cause for future in sent]
        stored = next((number for number, text in enumerate(refused) if text), len(refused))
        if not stored and messages:
            raise NatsUnavailable(refused[0] if refused else cause)
        return stored

    async def _send(self, message: Message) -> asyncio.Future[str]:
        """Send a message. The result of the future is empty once the message is stored, or says why it is not."""
        self._sent += 1
        number = str(self._sent)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._client.publish(
            message.subject,
            message.content,
            reply=f"{self._answers}.{number}",
            headers={"Nats-Msg-Id": message.id, "Content-Type": CLOUD_EVENT, "Nats-Expected-Stream": subjects.STREAM},
        )
        return future

    async def _acknowledged(self, message: Msg) -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        try:
            answer = msgspec.json.decode(message.data, type=_Acknowledgement)
        except msgspec.DecodeError:
            # Without a stream, the server answers with a header alone.
            future.set_result("the server has no stream for the events")
        else:
            future.set_result("" if answer.error is None else answer.error.description[:200] or "refused")

    async def ask(self, subject: str, body: object) -> dict[str, Any]:
        """Send a request to the server's API of streams. Raises NatsUnavailable, NatsRefused."""
        try:
            answer = await self._client.request(
                f"{subjects.API}.{subject}", msgspec.json.encode(body), timeout=ANSWER_SECONDS
            )
            content = msgspec.json.decode(answer.data, type=dict[str, Any])
        except (nats.errors.Error, OSError, TimeoutError, msgspec.DecodeError) as error:
            raise NatsUnavailable(_said(error)) from error
        if isinstance(refusal := content.get("error"), dict):
            raise NatsRefused(int(refusal.get("code", 0)), str(refusal.get("description", ""))[:200])
        return content

    async def say(self, subject: str, content: bytes) -> None:
        """Send a message that has no acknowledgement. Raises NatsUnavailable."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._client.publish(subject, content)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NatsUnavailable(_said(error)) from error

    async def hear(self, subject: str, heard: Heard) -> None:
        """Have `heard` called with the subject and content of each message. Raises NatsUnavailable."""

        async def took(message: Msg) -> None:
            heard(message.subject, message.data)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._client.subscribe(subject, cb=took, pending_msgs_limit=HEARD_MAX)
                # nats-py sends the ping of a flush before the subscription that waits; the second ping follows both.
                await self._client.flush()
                await self._client.flush()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NatsUnavailable(_said(error)) from error


def _said(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__


@asynccontextmanager
async def connected(access: Access) -> AsyncIterator[Link]:
    """Connect on entry, and disconnect on exit.

    Raises NatsUnavailable, also for credentials and CA files that cannot be used: they are read at each connection.
    """
    ended = asyncio.Event()
    failures: list[str] = []

    async def on_end() -> None:
        ended.set()

    async def on_error(error: Exception) -> None:
        failures.append(_said(error))
        del failures[:-1]

    client: Client | None = None
    try:
        token, key = read_credentials(read_secret(access.credentials_file))
        tls = None
        if access.url.startswith(TLS_SCHEME):
            tls = ssl.create_default_context(cafile=None if access.ca_file is None else str(access.ca_file))
        client = Client()
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                access.url,
                name=f"cascade {access.service}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_SECONDS),
                ping_interval=PING_SECONDS,
                max_outstanding_pings=1,
                pending_size=WAITING_BYTES_MAX,
                flush_timeout=ANSWER_SECONDS,
                inbox_prefix=f"{subjects.ANSWERS}.{access.service}",
                user_jwt_cb=lambda: bytearray(token.encode()),
                signature_cb=lambda nonce: b64encode(key.sign(nonce.encode())),
                tls=tls,
                error_cb=on_error,
                disconnected_cb=on_end,
                closed_cb=on_end,
            )
            link = Link(client, ended, client.new_inbox())
            await link.listen()
    except (nats.errors.Error, OSError, TimeoutError, ssl.SSLError, KeyFileError, NkeyError) as error:
        if client is not None:
            await _close(client)
        raise NatsUnavailable(failures[-1] if failures else _said(error)) from error
    try:
        yield link
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """Close the connection, without waiting for a peer that reads nothing."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError):
        pass
    finally:
        # nats-py has no way to close a connection whose peer reads nothing: its own close waits for the peer.
        writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001  (see the line above)
        if writer is not None and not writer.transport.is_closing():
            writer.transport.abort()
