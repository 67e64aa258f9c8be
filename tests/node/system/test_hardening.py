"""Core dumps and ptrace are forbidden, as a child process sees it that has called `no_core_dumps`."""

import ctypes
import resource

import pytest

from node.system.hardening import no_core_dumps
from tests.node.licensing.samples import in_child

PR_GET_DUMPABLE = 3


def test_no_core_is_dumped_and_other_processes_of_the_user_cannot_read_the_memory() -> None:
    def work() -> None:
        no_core_dumps()
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0

    assert in_child(work) == 0


def test_a_kernel_that_refuses_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def prctl(self, *_: int) -> int:
            return -1

    def refuse() -> None:
        monkeypatch.setattr("node.system.hardening.ctypes.CDLL", lambda *_, **__: Refusing())
        with pytest.raises(OSError, match="cannot forbid core dumps"):
            no_core_dumps()

    assert in_child(refuse) == 0
