"""`cloud.breakwater.keys.token_messages`: frames and their content."""

import pytest
from msgspec import DecodeError, msgpack

from cloud.breakwater.keys import token_messages as messages
from cloud.breakwater.keys.token_messages import Command, Connect, Find, Generate, Reply, Sign


def test_frames_are_bounded() -> None:
    assert messages.size_of(messages.FRAME_BYTES_MAX.to_bytes(4, "big")) == messages.FRAME_BYTES_MAX
    with pytest.raises(ValueError, match="at most"):
        messages.size_of((messages.FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


Decoder = msgpack.Decoder[Command] | msgpack.Decoder[Reply]
MESSAGES: list[tuple[Command | Reply, Decoder]] = [
    (Connect("/usr/lib/p11.so", "cas", "/etc/pin"), messages.commands),
    (Find("nodes-1"), messages.commands),
    (Generate("nodes-1"), messages.commands),
    (Sign("nodes-1", b"\x00" * 32), messages.commands),
    (Reply("done", b"\x01" * 64), messages.replies),
    (Reply("lost", text="no token"), messages.replies),
]


@pytest.mark.parametrize(("message", "decoder"), MESSAGES)
def test_a_message_comes_back_out_of_its_frame(message: Command | Reply, decoder: Decoder) -> None:
    framed = messages.frame(message)
    head, content = framed[: messages.SIZE_BYTES], framed[messages.SIZE_BYTES :]
    assert messages.size_of(head) == len(content)
    assert decoder.decode(content) == message


@pytest.mark.parametrize("content", [b"", b"\xc1", msgpack.encode({"type": "Open"}), msgpack.encode(["Find", "x"])])
def test_invalid_commands_are_refused(content: bytes) -> None:
    with pytest.raises(DecodeError):
        messages.commands.decode(content)
