"""The port: bounds, recovery and classes of faults, on a software TPM behind a resource manager."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_CAP

from lab.processes import wait_until
from lab.tpm import SoftTpm
from node.hwbind import errors, keys
from node.hwbind.errors import Hierarchy
from node.hwbind.link import DeviceLink, Link, open_link
from node.hwbind.tpm import BETWEEN_SECONDS_MAX, COMMAND_SECONDS_MAX, DEVICE_TCTI, Password, Tpm, check_tcti


@pytest.mark.parametrize(
    "tcti",
    [
        "",
        "device",
        "device:/dev/tpm0",
        "device:/dev/tpmrm0 ",
        "device:/dev/../dev/tpmrm0",
        "tabrmd:bus_type=session",
        "swtpm:host=10.0.0.1,port=2321",
        "mssim",
    ],
)
def test_production_takes_the_kernels_resource_manager_only(tcti: str) -> None:
    with pytest.raises(errors.TctiRefused) as caught:
        check_tcti(tcti, "production")
    assert caught.value.exit_code == 2
    check_tcti(tcti, "development")


def test_production_takes_the_kernels_resource_manager() -> None:
    check_tcti(DEVICE_TCTI, "production")


@pytest.mark.parametrize(
    "tcti",
    [
        "device:/nonexistent/tpmrm0",
        "swtpm:path=/nonexistent/tpm",
        "tabrmd:bus_name=io.cascade.none,bus_type=session",
        "x",
    ],
)
def test_no_tpm(chip: SoftTpm, tcti: str) -> None:
    with pytest.raises(errors.TpmAbsent):
        Tpm(tcti).call(keys.read_clock)


def test_the_device_link_speaks_to_a_tpm(chip: SoftTpm) -> None:
    """A stream to the software TPM takes the place of the device: same commands, same responses, same silence."""

    def connect(tcti: str) -> DeviceLink:
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(chip.raw_socket))
        return DeviceLink(stream.detach())

    port = Tpm(DEVICE_TCTI, command_seconds_max=0.3, open_link=connect)
    chip.stop_resource_manager()
    try:
        key = port.call(keys.create_node_key)
        assert port.call(lambda esys: keys.sign(esys, key, b"message"))
        chip.freeze()
        started = time.monotonic()
        with pytest.raises(errors.TpmTimeout):
            port.call(keys.read_clock)
        assert 0.25 < time.monotonic() - started < COMMAND_SECONDS_MAX
        threads = threading.active_count()
        for _ in range(5):
            with pytest.raises(errors.TpmTimeout, match="an earlier command"):
                port.call(keys.read_clock)
        assert threading.active_count() == threads
        chip.thaw()
        wait_until("the answer to the old command", lambda: threading.active_count() < threads, 5)
        assert port.call(lambda esys: keys.sign(esys, key, b"message"))
    finally:
        chip.thaw()
        port.close()
        chip.restart_resource_manager()


class CountingLink:
    """A connection to the TPM that counts its commands."""

    def __init__(self, inner: Link, sent: list[bytes]) -> None:
        self._inner = inner
        self._sent = sent
        self.receive, self.close = inner.receive, inner.close

    @property
    def pending(self) -> bool:
        return self._inner.pending

    def send(self, command: bytes) -> None:
        self._sent.append(command)
        self._inner.send(command)


async def test_no_command_runs_in_the_thread_of_the_event_loop(chip: SoftTpm) -> None:
    """The port refuses, so every test of an operation of the agent proves it for that operation.

    `tests/test_source.py` proves that no other module opens a connection to the TPM or makes a context.
    """
    sent: list[bytes] = []
    port = Tpm(chip.tcti, open_link=lambda name: CountingLink(open_link(name), sent))
    kept = await port.run(lambda esys: esys)
    assert await port.run(lambda _: threading.get_ident()) != threading.get_ident()

    def from_a_thread() -> None:
        trio.from_thread.run_sync(port.call, keys.read_clock)

    sent.clear()
    with pytest.raises(RuntimeError, match="event loop"):
        port.call(keys.read_clock)
    with pytest.raises(RuntimeError, match="event loop"):
        await trio.to_thread.run_sync(from_a_thread)
    with pytest.raises(RuntimeError, match="event loop"):
        port.close()
    # A context that outlives its work, which the rules of the port forbid.
    with pytest.raises(TSS2_Exception):
        keys.read_clock(kept)
    assert sent == []
    await port.run(keys.read_clock)
    assert len(sent) == 1
    await port.aclose()


def test_without_an_argument_a_command_may_take_20_seconds(chip: SoftTpm) -> None:
    """The system test of a frozen TPM shortens this limit."""
    port = Tpm(chip.tcti)
    port.call(lambda esys: esys.read_clock())
    assert port._context is not None
    assert port._context[1].seconds_max == COMMAND_SECONDS_MAX == 20.0


@pytest.mark.slow
def test_a_frozen_tpm_times_out_and_recovers(chip: SoftTpm) -> None:
    port = Tpm(chip.tcti, command_seconds_max=0.3, creation_seconds_max=0.3)
    key = port.call(keys.create_node_key)
    chip.freeze()
    try:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(errors.TpmTimeout):
                port.call(lambda esys: keys.sign(esys, key, b"message"))
            assert 0.25 < time.monotonic() - started < COMMAND_SECONDS_MAX
    finally:
        chip.thaw()
    patient = Tpm(chip.tcti)
    assert patient.call(lambda esys: keys.sign(esys, key, b"message"))
    assert port.call(keys.read_clock).clock > 0
    patient.close()
    port.close()


def test_creating_a_key_may_take_longer(chip: SoftTpm) -> None:
    port = Tpm(chip.tcti, command_seconds_max=0.1, creation_seconds_max=0.6)
    parent = port.call(keys.create_node_key).parent
    assert parent
    chip.freeze()
    try:
        started = time.monotonic()
        with pytest.raises(errors.TpmTimeout) as caught:
            port.call(lambda esys: esys.create_primary(None, "ecc"))
        assert 0.5 < time.monotonic() - started < COMMAND_SECONDS_MAX
        assert "0.6 s" in str(caught.value)
    finally:
        chip.thaw()
        port.close()


def test_a_restarted_resource_manager_is_not_noticed(chip: SoftTpm, tpm: Tpm) -> None:
    key = tpm.call(keys.create_node_key)
    for _ in range(3):
        chip.restart_resource_manager()
        assert tpm.call(lambda esys: keys.sign(esys, key, b"message"))


def test_a_missing_resource_manager_is_reported_and_its_return_found(chip: SoftTpm, tpm: Tpm) -> None:
    tpm.call(keys.read_clock)
    chip.stop_resource_manager()
    try:
        with pytest.raises(errors.TpmAbsent):
            tpm.call(keys.read_clock)
    finally:
        chip.restart_resource_manager()
    assert tpm.call(keys.read_clock).clock > 0


def test_lost_work_is_repeated_once(chip: SoftTpm, tpm: Tpm) -> None:
    runs = 0

    def work(esys: object) -> None:
        nonlocal runs
        runs += 1
        raise TSS2_Exception(0xA000A)

    with pytest.raises(errors.TpmAbsent):
        tpm.call(work)
    assert runs == 2
    assert tpm.call(keys.read_clock).clock > 0


def test_the_event_loop_runs_on_while_the_tpm_is_frozen(chip: SoftTpm) -> None:
    async def main() -> None:
        port = Tpm(chip.tcti, command_seconds_max=30.0)
        await port.run(keys.read_clock)
        chip.freeze()
        try:
            started = trio.current_time()
            with trio.move_on_after(0.2) as scope:
                await port.run(keys.read_clock)
            assert scope.cancelled_caught
            assert trio.current_time() - started < 30.0
        finally:
            chip.thaw()
        assert (await port.run(keys.read_clock)).clock > 0
        await port.aclose()

    trio.run(main)


async def test_the_thread_answers_while_it_is_idle_and_while_a_command_is_within_its_bound(
    chip: SoftTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.hwbind.tpm.BETWEEN_SECONDS_MAX", 0.0)
    tpm = Tpm(chip.tcti, command_seconds_max=600)
    assert await tpm.answers(60)
    await tpm.run(keys.read_clock)
    assert await tpm.answers(60)
    async with trio.open_nursery() as nursery:
        chip.freeze()
        nursery.start_soon(tpm.run, keys.read_clock)
        await trio.to_thread.run_sync(wait_until, "the command", lambda: tpm._progress.due is not None)
        await tpm.answers(0.01)  # something may end meanwhile
        assert await tpm.answers(0.01)
        chip.thaw()
    assert await tpm.answers(60)
    await tpm.aclose()


async def test_a_thread_that_hangs_between_commands_does_not_answer(
    chip: SoftTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    tpm = Tpm(chip.tcti)
    hung, released = threading.Event(), threading.Event()

    def work(context: ESAPI) -> None:
        hung.set()
        released.wait(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tpm.run, work)
        await trio.to_thread.run_sync(hung.wait)
        assert await tpm.answers(0.01), "within the bound between commands"
        monkeypatch.setattr("node.hwbind.tpm.monotonic", lambda: time.monotonic() + BETWEEN_SECONDS_MAX)
        assert not await tpm.answers(0.01)
        released.set()
    assert await tpm.answers(60)
    await tpm.aclose()


def test_objects_that_a_failed_flush_left_do_not_fill_the_connection(
    chip: SoftTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resource manager gives a connection a bounded number of objects."""
    port = Tpm(chip.tcti)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(keys, "flush", lambda *_: None)
            made = [port.call(keys.create_ak) for _ in range(40)]
        assert len(made) == 40
        port.call(keys.create_ak)
        with pytest.raises(errors.TpmBusy):
            port.call(lambda _: raised(0xB0902))
    finally:
        port.close()


def raised(code: int) -> None:
    raise TSS2_Exception(code)


def test_many_tasks_share_one_context(chip: SoftTpm, tpm: Tpm) -> None:
    async def main() -> None:
        key = await tpm.run(keys.create_node_key)
        signatures: list[bytes] = []

        async def one() -> None:
            signatures.append(await tpm.run(lambda esys: keys.sign(esys, key, b"message")))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(signatures) == 10

    trio.run(main)


class Configured(dict[Hierarchy, Password]):
    """Passwords that a test changes while the port runs, as an administrator writes files. Counts the readings."""

    readings = 0

    def __call__(self) -> "Configured":
        self.readings += 1
        return self

    def write(self, hierarchy: Hierarchy, value: bytes) -> None:
        self[hierarchy] = Password(value, f"/run/credentials/{hierarchy}")


def lockout_counter(esys: ESAPI) -> int:
    _, capability = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, 0x20E, 1)
    return int(capability.data.tpmProperties[0].value)


@pytest.fixture
def owned(chip: SoftTpm) -> Iterator[SoftTpm]:
    """The chip after its administrator has set the passwords of both hierarchies. It is cleared afterwards."""
    chip.administer("tpm2_changeauth", "-c", "owner", "right")
    chip.administer("tpm2_changeauth", "-c", "endorsement", "right")
    yield chip
    chip.clear()


def test_a_wrong_password_is_tried_once_a_use_and_a_changed_one_again(owned: SoftTpm) -> None:
    configured = Configured()
    port = Tpm(owned.tcti, passwords=configured)
    tries: list[bytes] = []
    before = port.call(lockout_counter)

    def work(esys: ESAPI) -> keys.WrappedKey:
        tries.append(bytes(configured["owner"].value) if "owner" in configured else b"")
        return keys.create_node_key(esys)

    with pytest.raises(errors.TpmHierarchyPassword, match="the owner hierarchy has a password: tpm:session") as none:
        port.call(work)
    assert "tpm_owner_auth" in none.value.advice
    configured.write("owner", b"wrong")
    for runs in (3, 5):  # each time once with the password and once without it
        with pytest.raises(
            errors.TpmHierarchyPassword, match="refuses the password in /run/credentials/owner"
        ) as wrong:
            port.call(work)
        assert len(tries) == runs
        assert "to /run/credentials/owner" in wrong.value.advice
    configured.write("owner", b"right")
    assert port.call(work).private
    assert port.call(lockout_counter) == before
    port.close()


def test_a_cleared_chip_works_with_the_password_it_had(owned: SoftTpm) -> None:
    configured = Configured()
    configured.write("owner", b"right")
    port = Tpm(owned.tcti, passwords=configured)
    assert port.call(keys.create_node_key).private
    owned.clear()
    assert port.call(keys.create_node_key).private
    port.close()


def test_a_password_that_is_configured_before_the_tpm_has_it_is_used_later(chip: SoftTpm) -> None:
    configured = Configured()
    configured.write("owner", b"right")
    port = Tpm(chip.tcti, passwords=configured)
    assert port.call(keys.create_node_key).private
    chip.administer("tpm2_changeauth", "-c", "owner", "right")
    try:
        assert port.call(keys.create_node_key).private
    finally:
        port.close()
        chip.clear()


def test_a_password_file_that_cannot_be_read_is_named(owned: SoftTpm) -> None:
    fault = "cannot read /etc/x: permission denied"
    port = Tpm(owned.tcti, passwords=lambda: {"endorsement": Password(b"", "/etc/x", fault)})
    with pytest.raises(errors.TpmHierarchyPassword, match=fault):
        port.call(lambda esys: esys.create_primary(None, "ecc256", ESYS_TR.ENDORSEMENT))
    port.close()


def test_a_password_is_in_no_text_about_it() -> None:
    assert "secret" not in f"{Password(b'secret', '/etc/x')!r} {Password(b'secret', '/etc/x')}"


def test_a_lockout_says_when_it_ends(chip: SoftTpm, tpm: Tpm) -> None:
    chip.administer("tpm2_dictionarylockout", "-s", "-n", "1", "-t", "40", "-l", "0")
    chip.administer("tpm2_createprimary", "-C", "o", "-p", "secret", "-c", str(chip.directory / "locked"))
    chip.administer("tpm2_evictcontrol", "-C", "o", "-c", str(chip.directory / "locked"), "0x81000099")

    def use(esys: ESAPI) -> None:
        esys.create(esys.tr_from_tpmpublic(0x81000099), None, "ecc256")

    try:
        with pytest.raises(errors.TpmObjectPassword, match="it has a password or a policy: 0x81000099"):
            tpm.call(use)
        with pytest.raises(errors.TpmLockout, match="1 failures of 1, and the lock-out ends after 40 s"):
            tpm.call(use)
        assert tpm.call(keys.create_node_key).private  # our keys are exempt
    finally:
        chip.administer("tpm2_dictionarylockout", "-c")
        chip.clear()
