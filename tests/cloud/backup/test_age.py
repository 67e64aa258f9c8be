"""The adapter of age: a stream comes back, and a wrong key or a changed file is recognised."""

import io
from typing import BinaryIO

import pytest

from cloud.backup.age import (
    AgeError,
    KeyTextError,
    WrongKey,
    check_recipient,
    decrypting,
    encrypting,
    identities_in,
    make_identity,
    unwrap,
)
from tests.cloud.backup.light_age import light_wrap

IDENTITY, RECIPIENT = make_identity()
CONTENT = b"0123456789abcdef" * 20_000
CHUNK = 64 * 1024 + 16


def encrypted(content: bytes = CONTENT) -> bytes:
    target = io.BytesIO()
    with encrypting(target, [RECIPIENT]) as plain:
        plain.write(content)
    return target.getvalue()


def decrypted(content: bytes, identity: str = IDENTITY) -> bytes:
    with decrypting(io.BytesIO(content), [make_identity()[0], identity]) as plain:
        return plain.read()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, len(CONTENT)])
def test_a_stream_comes_back(size: int) -> None:
    assert decrypted(encrypted(CONTENT[:size])) == CONTENT[:size]


def test_a_changed_file_is_recognised() -> None:
    whole = encrypted()
    middle = len(whole) // 2
    for changed in (
        b"",
        whole[:20],
        whole[:-1],
        whole[: len(whole) - len(whole) % CHUNK],
        whole + b"x",
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    ):
        with pytest.raises(AgeError):
            decrypted(changed)


def test_another_key_is_named() -> None:
    with pytest.raises(WrongKey):
        decrypted(encrypted(), make_identity()[0])


def test_a_reader_may_stop_early() -> None:
    with decrypting(io.BytesIO(encrypted()), [IDENTITY]) as plain:
        assert plain.read(16) == CONTENT[:16]


class _Full(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")


def test_the_error_of_the_target_is_raised() -> None:
    target: BinaryIO = _Full()
    with pytest.raises(OSError, match="No space") as raised, encrypting(target, [RECIPIENT]) as plain:
        for _ in range(100):
            plain.write(CONTENT)
    assert raised.value.errno == 28


def test_the_error_of_the_block_is_raised() -> None:
    with pytest.raises(ValueError, match="mine"), encrypting(io.BytesIO(), [RECIPIENT]):
        raise ValueError("mine")


def test_texts_that_are_no_keys() -> None:
    check_recipient(RECIPIENT)
    assert identities_in(f"# a comment\n\n{IDENTITY}\n") == (IDENTITY,)
    with pytest.raises(KeyTextError):
        check_recipient(IDENTITY)
    for text in ("", "# nothing\n", RECIPIENT):
        with pytest.raises(KeyTextError) as refused:
            identities_in(text)
        assert not text or text not in str(refused.value)


def test_a_passphrase_wraps_an_identity() -> None:
    """The drill `backup_walk` does it with the library's own cost."""
    wrapped = light_wrap(IDENTITY, "a passphrase of a person")
    assert unwrap(wrapped, "a passphrase of a person") == IDENTITY
    for damaged, passphrase in ((wrapped, "another passphrase"), (wrapped[:-1], "a passphrase of a person"), (b"", "")):
        with pytest.raises(WrongKey):
            unwrap(damaged, passphrase)
    with pytest.raises(WrongKey):
        unwrap(light_wrap("no identity", "a passphrase"), "a passphrase")
