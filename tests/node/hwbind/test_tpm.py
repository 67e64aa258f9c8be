"""The port: bounds, recovery and classes of faults, on a software TPM behind a resource manager."""

import errno
import os
import socket
import threading
import time

import pytest
import trio
from tpm2_pytss import TSS2_Exception

from lab.processes import wait_until
from lab.tpm import SoftTpm
from node.hwbind import errors, keys
from node.hwbind.tpm import COMMAND_SECONDS_MAX, DEVICE_TCTI, DeviceLink, Tpm, check_tcti, classify


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
    ("code", "kind"),
    [
        (0xA000A, errors.TpmAbsent),
        (0xA0008, errors.TpmAbsent),
        (0xA0015, errors.TpmAbsent),
        (0x70007, errors.TpmAbsent),
        (0x902, errors.TpmBusy),
        (0xC0902, errors.TpmBusy),
        (0x922, errors.TpmBusy),
        (0x923, errors.TpmBusy),
        (0x921, errors.TpmLockout),
        (0x98E, errors.TpmPermission),
        (0x9A2, errors.TpmPermission),
        (0x185, errors.TpmPermission),
        (0x120, errors.TpmPermission),
        (0x1DF, errors.TpmIntegrity),
        (0x101, errors.TpmFailed),
        (0x18B, errors.TpmFailed),
        (0x7000B, errors.TpmFailed),
    ],
)
def test_every_code_has_its_class(code: int, kind: type[errors.TpmError]) -> None:
    fault = classify(TSS2_Exception(code))
    assert type(fault) is kind
    assert f"{code:#x}" in str(fault)


def test_every_class_says_what_to_do() -> None:
    kinds = errors.TpmError.__subclasses__()
    assert len(kinds) == 9
    assert len({kind.code for kind in kinds} | {errors.TpmError.code}) == 9  # TpmFailed has its base's code
    for kind in kinds:
        assert kind.summary.startswith("cannot ")
        assert kind.advice
        assert kind.exit_code == {"tpm-connection-refused": 2, "tpm-not-ours": 84}.get(kind.code, 87)


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


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.TpmAbsent),
        (errno.ENXIO, errors.TpmAbsent),
        (errno.EACCES, errors.TpmPermission),
        (errno.EBUSY, errors.TpmBusy),
        (errno.EIO, errors.TpmFailed),
    ],
)
def test_a_device_that_does_not_open(monkeypatch: pytest.MonkeyPatch, number: int, kind: type[errors.TpmError]) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    # Root may open every file, so the test raises the operating system's refusal itself.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind):
        DeviceLink.open("/dev/tpmrm0")


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
