"""Values: messages between the issuer and the token process, sent over the process's standard input and output.

The process answers commands in their order. Rule: No message contains the PIN or a private key.
"""

from typing import Final, Literal

import msgspec

FRAME_BYTES_MAX: Final = 16 * 1024
"""The largest content is a digest, a signature, a public key or a sentence. A longer frame is an error."""
SIZE_BYTES: Final = 4
"""Each frame is preceded by its length, big-endian, because a pipe does not keep message boundaries."""


class Connect(msgspec.Struct, frozen=True, tag=True):
    """The first command: load the library `module` and log in to `token` with the PIN in `pin_file`."""

    module: str
    token: str
    pin_file: str


class Find(msgspec.Struct, frozen=True, tag=True):
    """Get the public key of the pair with this label (SubjectPublicKeyInfo in DER)."""

    label: str


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Make a P-256 pair in the token. The private key cannot be exported. The reply has the public key."""

    label: str


class Sign(msgspec.Struct, frozen=True, tag=True):
    """Sign a digest with ECDSA. The reply has r and s, each as long as the curve's order."""

    label: str
    digest: bytes


Command = Connect | Find | Generate | Sign

Outcome = Literal["done", "absent", "refused", "pin", "lost"]
"""`absent`: the token has no such key. `refused`: a retry would fail too. `pin`: the token refuses the PIN.

`lost`: the token, its session or the library stopped working. The issuer can start another process and retry.
"""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a command. `text` is a reason for people unless the outcome is `done`."""

    outcome: Outcome
    data: bytes = b""
    text: str = ""


_ENCODER = msgspec.msgpack.Encoder()
commands: Final = msgspec.msgpack.Decoder(Command)
replies: Final = msgspec.msgpack.Decoder(Reply)


def frame(message: Command | Reply) -> bytes:
    """Encode a message, with its length in front."""
    content = _ENCODER.encode(message)
    return len(content).to_bytes(SIZE_BYTES, "big") + content


def size_of(head: bytes) -> int:
    """Return the length of a frame from its first `SIZE_BYTES` bytes. Raises ValueError when it is too large."""
    size = int.from_bytes(head, "big")
    if size > FRAME_BYTES_MAX:
        raise ValueError(f"a frame has {size} bytes; at most {FRAME_BYTES_MAX} are allowed")
    return size
