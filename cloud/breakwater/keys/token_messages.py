"""Pure values: the messages between issuer and token process, over the process's standard input and output.

Commands are answered in their order. Rule: no message holds the PIN or a key.
"""

from typing import Final, Literal

import msgspec

FRAME_BYTES_MAX: Final = 16 * 1024
"""A digest, a signature, a public key or a sentence; more is not this protocol."""
SIZE_BYTES: Final = 4
"""A frame is preceded by its length, big-endian, as a socket may cut it anywhere."""


class Connect(msgspec.Struct, frozen=True, tag=True):
    """The first command: load the library and log in to the token with the PIN in that file."""

    module: str
    token: str
    pin_file: str


class Find(msgspec.Struct, frozen=True, tag=True):
    """The public key (SubjectPublicKeyInfo in DER) of the pair by that label."""

    label: str


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Make a P-256 pair that stays in the token."""

    label: str


class Sign(msgspec.Struct, frozen=True, tag=True):
    """ECDSA over a digest; r and s, each as long as the curve's order."""

    label: str
    digest: bytes


Command = Connect | Find | Generate | Sign

Outcome = Literal["done", "absent", "refused", "pin", "lost"]
"""`absent`: no such key. `refused`: this cannot work, whenever it is tried. `pin`: the token refuses the PIN.

`lost`: the token, its session or the library is away; the issuer may start another process and try again.
"""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a command; `text` is for people, if it is not `done`."""

    outcome: Outcome
    data: bytes = b""
    text: str = ""


_ENCODER = msgspec.msgpack.Encoder()
commands: Final = msgspec.msgpack.Decoder(Command)
replies: Final = msgspec.msgpack.Decoder(Reply)


def frame(message: Command | Reply) -> bytes:
    """A message with its length before it."""
    content = _ENCODER.encode(message)
    return len(content).to_bytes(SIZE_BYTES, "big") + content


def size_of(head: bytes) -> int:
    """The length that a frame's head says. Raises ValueError for one that is too large."""
    size = int.from_bytes(head, "big")
    if size > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size} bytes, {FRAME_BYTES_MAX} is the most")
    return size
