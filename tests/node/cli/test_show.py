"""Output of the command line: text for people, and one JSON document for programs."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from node.cli.show import emit, fail, human_entitlement, human_license, human_status, print_document
from node.errors import NodeError
from node.exits import Exit

LEASE = {
    "tier": "attested",
    "entitlements": ["render", "export"],
    "refresh_after": "2026-11-23T12:00:00Z",
    "expires_at": "2026-12-22T12:00:00Z",
    "grace_until": "2027-01-06T12:00:00Z",
    "terminate_at": "2027-01-21T12:00:00Z",
}
LICENSE: dict[str, Any] = {
    "state": "active",
    "gate": "open",
    "reason": "the lease is current",
    "next": "",
    "node": "node_1",
    "tenant": "ten_1",
    "generation": 2,
    "lease": LEASE,
    "flags": ["clock-suspect"],
}
STATUS: dict[str, Any] = {
    "license": LICENSE,
    "agent_running": False,
    "hardware": "ours",
    "last_contact_at": None,
    "mode": "production",
    "offline_bound_at": None,
    "damaged": [],
    "limits": "LIMITS",
}


def rows(text: str) -> list[tuple[str, str]]:
    return [(line[:14].rstrip(), line[15:]) for line in text.splitlines()]


def test_a_license_is_a_row_a_fact_and_says_nothing_empty() -> None:
    shown = rows(human_license(LICENSE))
    assert ("entitlements", "render, export") in shown
    terms = [{"name": "export", "limit": 2, "until": "2027-01-01T00:00:00Z"}]
    with_terms = rows(human_license(LICENSE | {"lease": LEASE | {"entitlement_terms": terms}}))
    assert ("entitlements", "render, export (limit 2; ends at 2027-01-01T00:00:00Z)") in with_terms
    assert ("terminate_at", LEASE["terminate_at"]) in shown
    assert ("flag", "clock-suspect") in shown
    assert "next" not in dict(shown)
    assert "tier" not in dict(rows(human_license(LICENSE | {"lease": None})))
    assert dict(rows(human_license(LICENSE | {"lease": LEASE | {"entitlements": []}})))["entitlements"] == "none"


def test_a_status_shows_the_fingerprint_of_a_machine_without_a_tpm() -> None:
    kinds = [
        {"kind": "board_serial", "weight": 25, "result": "changed", "reason": "x"},
        {"kind": "mac", "weight": 10, "result": "same", "reason": "x"},
    ]
    judged = {"result": "mismatch", "reason": "10 of 35", "enrolled_weight": 35, "matched_weight": 10, "kinds": kinds}
    shown = rows(human_status(STATUS | {"fingerprint": judged}))
    at = shown.index(("fingerprint", "mismatch: 10 of 35"))
    assert shown[at + 1 : at + 3] == [("", "board_serial (25): changed"), ("", "mac (10): same")]
    for without in (STATUS, STATUS | {"fingerprint": None}):
        assert "fingerprint" not in dict(rows(human_status(without)))


def test_trusted_time_is_shown_with_its_source_and_a_suspect_clock() -> None:
    time = {"high_at": "2027-03-01T12:00:00Z", "wall_at": "1970-01-01T00:00:00Z", "source": "floor", "suspect": False}
    shown = dict(rows(human_status(STATUS | {"time": time})))
    assert shown["trusted time"] == "2027-03-01T12:00:00Z (floor)"
    assert "wall clock" not in shown
    shown = dict(rows(human_status(STATUS | {"time": time | {"suspect": True}})))
    assert shown["wall clock"] == "1970-01-01T00:00:00Z: clock-suspect"


FLOOR = {
    "present": True,
    "record_state": "current",
    "reason": "",
    "index": "0x01a00001",
    "value": 7,
    "writes_per_day": 2,
    "years_left": 684,
    "undefended": ["T-90", "T-91"],
}


def test_a_status_shows_the_floor_its_wear_and_the_attacks_without_a_defence() -> None:
    bound = {"offline_bound_at": "2027-01-21T12:00:00Z"}
    shown = rows(human_status(STATUS | bound | {"floor": FLOOR}))
    assert ("floor", "current, counter 0x01a00001 at 7; 2 NV writes a day, 684 years left") in shown
    assert ("offline bound", "2027-01-21T12:00:00Z (T-90, T-91 in docs/threat-model.md)") in shown
    stale = FLOOR | {"record_state": "stale", "reason": "the floor record is older"}
    assert ("", "the floor record is older") in rows(human_status(STATUS | {"floor": stale}))
    assert ("floor", "no hardware floor") in rows(human_status(STATUS | {"floor": FLOOR | {"index": ""}}))


def test_a_status_begins_with_the_license_and_ends_with_the_limits() -> None:
    text = human_status(STATUS)
    assert text.startswith(human_license(LICENSE))
    assert "LIMITS" not in text, "there is no lease that a copy could use"
    assert human_status(STATUS | {"offline_bound_at": "2027-01-21T12:00:00Z"}).endswith("\n\nLIMITS")
    assert "generation" not in dict(rows(human_license(LICENSE | {"generation": 0})))
    assert dict(rows(text))["agent"] == "not running"
    assert dict(rows(text))["last contact"] == "none since start"
    assert {"mode", "offline bound", "damaged"}.isdisjoint(dict(rows(text)))


def test_a_status_shows_unusual_values() -> None:
    unusual = {"mode": "development", "offline_bound_at": "2027-01-21T12:00:00Z", "damaged": ["one", "two"]}
    shown = rows(human_status(STATUS | unusual | {"agent_running": True}))
    assert ("agent", "running") in shown
    assert ("mode", "development: not for production") in shown
    assert ("offline bound", "2027-01-21T12:00:00Z") in shown
    assert [value for name, value in shown if name == "damaged"] == ["one", "two"]


def test_a_status_shows_conditions_with_their_next_step() -> None:
    since = "2026-11-22T12:00:00Z"
    one = {"code": "disk_full", "text": "no space is left", "next": "Free some.", "since": since}
    two = {"code": "tls_failed", "text": "cannot verify the server", "next": "", "since": since}
    shown = rows(human_status(STATUS | {"conditions": [one, two]}))
    begin = shown.index(("problem", f"no space is left (disk_full, since {since})"))
    assert shown[begin + 1 : begin + 3] == [
        ("", "Free some."),
        ("problem", f"cannot verify the server (tls_failed, since {since})"),
    ]


FAILURE = {"at": "2026-11-22T12:00:00Z", "code": "dns_failed", "text": "cannot find cloud.example", "next": "Check it."}


@pytest.mark.parametrize(("failures", "label"), [(3, "last failure"), (0, "past failure")])
def test_a_status_shows_the_last_failure(failures: int, label: str) -> None:
    status = STATUS | {"agent_running": True, "failures": failures, "last_failure": FAILURE}
    shown = rows(human_status(status))
    begin = shown.index((label, "cannot find cloud.example (dns_failed, 2026-11-22T12:00:00Z)"))
    assert shown[begin + 1] == ("", "Check it.")


def test_without_an_agent_the_last_failure_is_not_known() -> None:
    assert "only a running agent" in dict(rows(human_status(STATUS)))["last failure"]
    running = STATUS | {"agent_running": True}
    assert "last failure" not in dict(rows(human_status(running)))


def test_a_text_of_a_stranger_stays_in_its_line() -> None:
    text = human_status(
        STATUS | {"damaged": ["a\x1b[2J\nstate          active"], "limits": "L\r", "offline_bound_at": "X"}
    )
    assert ("damaged", "a\\x1b[2J\\x0astate          active") in rows(text)
    assert text.endswith("L\\x0d")
    assert "\n" not in human_entitlement({"name": "a\nb", "granted": True, "reason": "", "valid_until": ""})


@pytest.mark.parametrize(("granted", "word"), [(True, "granted"), (False, "denied")])
def test_an_entitlement_is_one_line(granted: bool, word: str) -> None:
    document = {"name": "render", "granted": granted, "reason": "because", "valid_until": "2026-11-22T12:00:00Z"}
    assert human_entitlement(document) == f"render: {word} (because; until 2026-11-22T12:00:00Z)"
    terms = {"limit": 8, "until": "2027-01-01T00:00:00Z", "attributes": {"site": "north"}}
    assert human_entitlement(document | terms) == (
        f"render: {word} (because; limit 8; ends at 2027-01-01T00:00:00Z; site north; until 2026-11-22T12:00:00Z)"
    )


def test_a_document_is_printed_for_a_person_or_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    print_document(LICENSE, True, human_license)
    assert json.loads(capsys.readouterr().out) == LICENSE
    print_document(LICENSE, False, human_license)
    assert capsys.readouterr().out == human_license(LICENSE) + "\n"


def test_a_failure_exits_with_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    error = NodeError.of("cannot do it", exit=Exit.TRY_AGAIN, code="busy", next="Wait.")
    with pytest.raises(SystemExit) as ended:
        fail(error, as_json=False)
    output = capsys.readouterr()
    assert (ended.value.code, output.out, output.err) == (75, "", "cascadia: cannot do it\n  Wait.\n")
    with pytest.raises(SystemExit) as ended:
        fail(error, as_json=True)
    output = capsys.readouterr()
    assert (ended.value.code, output.err) == (75, "")
    assert json.loads(output.out) == {
        "error": {"code": "busy", "text": "cannot do it", "next": "Wait.", "exit_code": 75}
    }


def test_a_reader_that_closes_the_pipe_early_is_no_fault() -> None:
    """The exit code, here 81, reports the outcome of a command. A closed pipe must not replace it."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "from node.cli.show import emit; import sys; emit('x' * 100_000); emit('y'); sys.exit(81)"
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (81, b"")


def test_output_reaches_a_pipe_that_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    emit("one line")
    assert capfd.readouterr().out == "one line\n"


@pytest.mark.parametrize(
    ("encoding", "where", "expected"),
    [
        ("ascii", os.devnull, (0, b"")),
        ("utf-8", "/dev/full", (70, b"cascadia: cannot write the output: No space left")),
    ],
)
def test_an_output_that_cannot_be_written_has_no_traceback(
    encoding: str, where: str, expected: tuple[int, bytes]
) -> None:
    program = "from node.cli.show import emit; emit('caf\u00e9 ' * 100)"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    with open(where, "wb") as output:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=output, stderr=subprocess.PIPE, env=environment, check=False
        )
    assert (done.returncode, done.stderr[: len(expected[1])]) == expected
    assert b"Traceback" not in done.stderr
