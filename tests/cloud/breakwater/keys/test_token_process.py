"""`cloud.breakwater.keys.token_process`: it answers frames with frames, undisturbed by a library's output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.keys import token_messages as messages
from cloud.breakwater.keys.token_messages import Command, Connect, Find, Generate, Reply, Sign
from lab.softhsm import LABEL, MODULE, PIN, SoftHsm

pytestmark = pytest.mark.slow

PROGRAM = "cloud.breakwater.keys.token_process"


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    return SoftHsm(tmp_path / "hsm")


def talk(content: bytes, environment: dict[str, str], program: tuple[str, ...] = ("-m", PROGRAM)) -> bytes:
    """Send `content` and the end of input to a token process; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-P", *program],
        input=content,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert PIN.encode() not in done.stdout + done.stderr
    return done.stdout


def replies(answered: bytes) -> list[Reply]:
    found = []
    while answered:
        end = messages.SIZE_BYTES + messages.size_of(answered[: messages.SIZE_BYTES])
        found.append(messages.replies.decode(answered[messages.SIZE_BYTES : end]))
        answered = answered[end:]
    return found


def ask(hsm: SoftHsm, *commands: Command) -> list[Reply]:
    return replies(talk(b"".join(map(messages.frame, commands)), hsm.environment))


def test_a_conversation(hsm: SoftHsm) -> None:
    connect = Connect(str(MODULE), LABEL, str(hsm.pin_file))
    generate, sign = Generate("nodes-1"), Sign("nodes-1", b"d" * 32)
    found = ask(hsm, connect, Find("nodes-1"), generate, Find("nodes-1"), sign, generate, Find("other"), connect)
    assert [reply.outcome for reply in found] == [
        *("done", "absent", "done", "done", "done", "refused", "absent", "refused")
    ]
    assert found[2].data == found[3].data
    key = serialization.load_der_public_key(found[2].data)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert len(found[4].data) == 64


def test_nothing_without_a_login(hsm: SoftHsm) -> None:
    outcomes = [(reply.outcome, reply.text) for reply in ask(hsm, Find("x"), Generate("x"), Sign("x", b"d" * 32))]
    assert outcomes == [("refused", "not connected")] * 3


def test_output_of_a_library_is_not_a_reply(hsm: SoftHsm) -> None:
    noisy = f"import os; from {PROGRAM} import main; import {PROGRAM} as p; real = p.connect\n"
    noisy += "def connect(command):\n    os.write(1, b'vendor banner')\n    print('more', flush=True)\n"
    noisy += "    return real(command)\np.connect = connect\nmain()\n"
    content = messages.frame(Connect(str(MODULE), LABEL, str(hsm.pin_file)))
    assert replies(talk(content, hsm.environment, ("-c", noisy))) == [Reply("done")]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x05hello", b"\x00\x00\x00\x00", b"\x00\x00\x00\x09\x81"],
    ids=["nothing", "half a head", "too large", "no message", "empty", "cut"],
)
def test_an_invalid_frame_ends_the_process(hsm: SoftHsm, content: bytes) -> None:
    assert talk(content, hsm.environment) == b""


def test_a_digest_of_no_length(hsm: SoftHsm) -> None:
    connect = Connect(str(MODULE), LABEL, str(hsm.pin_file))
    found = ask(hsm, connect, Generate("nodes-1"), Sign("nodes-1", b""), Find("nodes-1"))
    assert [reply.outcome for reply in found][:2] == ["done", "done"]
    assert found[2].outcome != "absent"
