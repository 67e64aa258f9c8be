"""`cloud.breakwater.keys.pkcs11`: a token that is unplugged, hangs, is swapped or refuses the PIN.

Every request fails with the right error, and signing resumes without a restart. test_signer.py tests a working token
together with keys in files.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import SignerError, SignerUnavailable
from cloud.breakwater.keys.pkcs11 import Pkcs11Keys, TokenKey, TokenSettings
from cloud.crypto.keyfile import write_secret
from lab.softhsm import LABEL, MODULE, PIN, SoftHsm, token_processes
from tests.waiting import until

pytestmark = pytest.mark.slow

TIMEOUT = 1.0
RETRY = 0.1
DATA = b"to be signed"


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    token = SoftHsm(tmp_path / "hsm")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    return token


@pytest.fixture
async def keys(hsm: SoftHsm) -> AsyncIterator[Pkcs11Keys]:
    found = hsm.keys(retry_seconds=RETRY)
    yield found
    await found.aclose()


def verify(key: TokenKey, signature: bytes) -> None:
    key.public_key.verify(signature, DATA, ec.ECDSA(hashes.SHA256()))


async def signs_again(key: TokenKey) -> None:
    """Retry until a signature succeeds. Each earlier try raises SignerUnavailable."""

    async def signed() -> bytes | None:
        with suppress(SignerUnavailable):
            return await key.sign(DATA)
        return None

    verify(key, await until("a signature", signed, 30))


async def opened(keys: Pkcs11Keys, reference: str) -> TokenKey:
    """Open a key. Retries because the token process can start slowly on a busy machine."""

    async def open_now() -> TokenKey | None:
        with suppress(SignerUnavailable):
            return await keys.open(reference)
        return None

    key: TokenKey = await until("the key", open_now, 30)
    return key


async def unavailable(key: TokenKey) -> None:
    with pytest.raises(SignerUnavailable):
        await key.sign(DATA)


async def test_a_token_is_unplugged_and_plugged_in_during_signatures(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    key = await keys.open(await keys.generate("nodes-1"))
    done: list[str] = []
    stopping = asyncio.Event()

    async def client() -> None:
        while not stopping.is_set():
            try:
                verify(key, await key.sign(DATA))
                done.append("signed")
            except SignerUnavailable:
                done.append("unavailable")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client())
        for _ in range(2):
            await until("eight signatures", lambda: done[-8:] == ["signed"] * 8, 20)
            hsm.take_away()
            await until("eight refusals", lambda: done[-8:] == ["unavailable"] * 8, 20)
            hsm.put_back()
        await until("eight signatures", lambda: done[-8:] == ["signed"] * 8, 20)
        stopping.set()
    assert len(token_processes()) == 1


async def test_a_token_that_is_missing_at_the_start(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    reference = await keys.generate("nodes-1")
    await keys.aclose()
    hsm.take_away()
    late = hsm.keys(retry_seconds=0)
    for attempt in (lambda: late.open(reference), lambda: late.generate("nodes-2")):
        with pytest.raises(SignerUnavailable):
            await attempt()
    hsm.put_back()
    verify(key := await late.open(reference), await key.sign(DATA))
    await late.aclose()


async def test_a_deleted_token_and_its_key_brought_back(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    hsm.bring("nodes-1", private_key)
    key = await keys.open("pkcs11:nodes-1")
    assert key.public_key == private_key.public_key()
    verify(key, await key.sign(DATA))
    hsm.delete()
    await unavailable(key)
    hsm.make()
    await until("the time of the next try", lambda: time.monotonic() >= keys._not_before)
    await unavailable(key)  # the new token has the same name but no key
    hsm.bring("nodes-1", private_key)
    await signs_again(key)


async def test_another_key_by_the_same_name_never_signs(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    hsm.bring("nodes-1", ec.generate_private_key(ec.SECP256R1()))
    key = await keys.open("pkcs11:nodes-1")
    hsm.delete()
    hsm.make()
    hsm.bring("nodes-1", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SignerError, match="changed since it was opened") as caught:
        await key.sign(DATA)
    assert not isinstance(caught.value, SignerUnavailable)


async def test_a_key_on_the_other_curve(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    hsm.bring("root-1", ec.generate_private_key(ec.SECP384R1()))
    key = await keys.open("pkcs11:root-1")
    key.public_key.verify(await key.sign(DATA), DATA, ec.ECDSA(hashes.SHA384()))
    hsm.bring("strange", ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(SignerError, match="a CA key is on secp256r1 or secp384r1"):
        await keys.open("pkcs11:strange")


async def test_two_keys_by_one_name_are_refused(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    for _ in range(2):
        hsm.bring("nodes-1", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SignerError, match="2 keys nodes-1"):
        await keys.open("pkcs11:nodes-1")


async def test_a_crashed_library_costs_no_request(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    key = await keys.open(await keys.generate("nodes-1"))
    (process,) = token_processes()
    os.kill(process, signal.SIGKILL)
    signatures = await asyncio.gather(*(key.sign(DATA) for _ in range(20)))
    for signature in signatures:
        verify(key, signature)
    assert len(token_processes()) == 1


async def test_a_hung_library_is_ended_after_the_time_out(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    reference = await keys.generate("nodes-1")
    await keys.aclose()
    impatient = hsm.keys(TIMEOUT, retry_seconds=RETRY)
    key = await opened(impatient, reference)
    (process,) = token_processes()
    os.kill(process, signal.SIGSTOP)
    started = asyncio.get_running_loop().time()
    results = await asyncio.gather(*(key.sign(DATA) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {SignerUnavailable}
    assert asyncio.get_running_loop().time() - started < 3 * TIMEOUT, "the requests waited one after the other"
    await until("the end of the process", lambda: process not in token_processes())
    await signs_again(key)
    await impatient.aclose()


async def test_a_cancelled_request_does_not_disturb_others(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    key = await keys.open(await keys.generate("nodes-1"))
    tasks = [asyncio.create_task(key.sign(DATA)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    for result in results[1::2]:
        assert isinstance(result, bytes)
        verify(key, result)


async def test_a_wrong_pin_is_tried_once(hsm: SoftHsm, keys: Pkcs11Keys, caplog: pytest.LogCaptureFixture) -> None:
    reference = await keys.generate("nodes-1")
    await keys.aclose()
    write_secret(hsm.pin_file, b"wrong-pin-4711\n")
    wrong = hsm.keys(retry_seconds=0)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(SignerError, match="PinIncorrect"):
            await wrong.open(reference)
        for _ in range(3):
            with pytest.raises(SignerError, match=f"{hsm.pin_file}; correct that file"):
                await wrong.open(reference)
        await until("the end of the process", lambda: token_processes() == [])
        write_secret(hsm.pin_file, f"{PIN}\n".encode())
        key = await wrong.open(reference)
    verify(key, await key.sign(DATA))
    await wrong.aclose()
    assert "4711" not in caplog.text
    assert PIN not in caplog.text


async def test_permanent_errors_are_not_signer_unavailable(hsm: SoftHsm, tmp_path: Path) -> None:
    not_a_library = tmp_path / "library.so"
    not_a_library.write_text("text")
    hsm.pin_file.chmod(0o640)
    cases = (
        (tmp_path / "absent.so", tmp_path / "pin", "there is no PKCS#11 library"),
        (MODULE, tmp_path / "absent", "No such file"),
        (MODULE, hsm.pin_file, "others can read it"),
    )
    for module, pin_file, reason in cases:
        keys = Pkcs11Keys(module, LABEL, pin_file)
        with pytest.raises(SignerError, match=reason) as caught:
            await keys.open("pkcs11:nodes-1")
        assert not isinstance(caught.value, SignerUnavailable)
        await keys.aclose()


async def test_a_token_by_another_name(hsm: SoftHsm) -> None:
    keys = Pkcs11Keys(MODULE, "another", hsm.pin_file)
    with pytest.raises(SignerUnavailable, match="there is no token another"):
        await keys.open("pkcs11:nodes-1")
    await keys.aclose()


_ATTRIBUTES = """
import sys, pkcs11
from pkcs11 import Attribute as A
session = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(user_pin=sys.stdin.read())
key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="nodes-1")
print(key[A.ID].decode(), *(key[a] for a in (A.SENSITIVE, A.NEVER_EXTRACTABLE, A.LOCAL, A.PRIVATE, A.SIGN)))
print(*(key[a] for a in (A.EXTRACTABLE, A.DERIVE, A.DECRYPT, A.UNWRAP)))
"""


def _attributes() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _ATTRIBUTES, str(MODULE), LABEL], input=PIN, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


async def test_keys_cannot_leave_the_token(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    await keys.generate("nodes-1")
    assert _attributes() == ["nodes-1 True True True True True", "False False False False"]


async def test_closing_ends_the_process(hsm: SoftHsm, keys: Pkcs11Keys) -> None:
    key = await keys.open(await keys.generate("nodes-1"))
    assert len(token_processes()) == 1
    await keys.aclose()
    assert token_processes() == []
    with pytest.raises(SignerUnavailable, match="the token was closed"):
        await key.sign(DATA)
    await keys.aclose()


def test_settings_are_strict() -> None:
    assert TokenSettings(module="m", label="l", pin_file="credential:pin").timeout_seconds > 1
