"""sd_listen_fds: which descriptors are this process's, and that they are taken once."""

import os

import pytest

from node.system.listening import FIRST, PASSED_MAX, passed_descriptors


def test_the_descriptors_of_this_process() -> None:
    reading, writing = sorted(os.pipe())
    try:
        os.set_inheritable(reading, True)
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "cascadia.socket", "A": "b"}
        assert passed_descriptors(environment, first=reading) == (reading,)
        assert environment == {"A": "b"}
        assert not os.get_inheritable(reading)
        assert passed_descriptors(environment, first=reading) == ()
    finally:
        os.close(reading)
        os.close(writing)


def test_systemd_counts_from_three() -> None:
    assert passed_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, pid=7, first=1000) == (1000, 1001)
    assert FIRST == 3


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "8", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "7"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "0"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "-1"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "7", "LISTEN_FDS": str(PASSED_MAX + 1)},
    ],
)
def test_what_is_for_another_process_is_not_used(environment: dict[str, str]) -> None:
    assert passed_descriptors(environment, pid=7, first=1000) == ()
    assert environment == {}
