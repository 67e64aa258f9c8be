"""Findings: what a check returns or raises becomes a finding, and a bug stays an exception."""

import socket

import pytest

from cloud.crypto.keyfile import KeyFileError
from cloud.process.findings import Addresses, Findings, check_listeners
from cloud.process.settings import ListenerSettings, ServiceSettings


async def test_what_a_check_returns_or_raises_becomes_a_finding() -> None:
    async def passes() -> str:
        return ""

    async def says() -> str:
        return "it is late"

    async def raises() -> str:
        raise KeyFileError("cannot read it")

    findings = Findings("fabric")
    assert await findings.attempt("one", passes, (), "Wait.")
    assert not await findings.attempt("two", says, (), "Wait.")
    assert not await findings.attempt("three", raises, (), "Wait.")
    findings.skip("four", "not asked for")
    assert [(each.check, each.state, each.cause) for each in findings.found] == [
        ("one", "passed", ""),
        ("two", "failed", "it is late"),
        ("three", "failed", "cannot read it"),
        ("four", "skipped", "not asked for"),
    ]


async def test_a_bug_is_no_finding() -> None:
    async def breaks() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Findings("fabric").attempt("one", breaks, (), "")


@pytest.mark.parametrize(("host", "state"), [("127.0.0.1", "failed"), ("::", "failed"), ("127.0.0.2", "passed")])
def test_two_listeners_with_one_port_are_found(host: str, state: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    taken: Addresses = {}
    findings = Findings("both")
    for each in ("127.0.0.1", host):
        settings = ServiceSettings(trust_domain="", listeners=(ListenerSettings(host=each, port=port),))
        check_listeners(settings, findings, taken)
    first, second = findings.found
    assert (first.state, second.state) == ("passed", state)
    assert state == "passed" or second.cause == "another listener of this installation has this port"
