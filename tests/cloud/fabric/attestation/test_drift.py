"""How far a machine has drifted from its activation, and which machines take turns with one chip."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cloud.fabric.attestation.drift import AUDIT_PERIOD, MACHINES_MAX, RETURN_WITHIN, Drift, Machine, observe
from protocol.hardware import fingerprint

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SALT = b"s" * 32
BASE = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "chassis_serial": "5Q5RVD2",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}


def sent(**changes: str) -> dict[str, str]:
    """The fingerprint of the machine with other values; an empty value removes the kind."""
    return fingerprint(SALT, {kind: value for kind, value in {**BASE, **changes}.items() if value})


def machine(number: int) -> dict[str, str]:
    """The fingerprint of another machine."""
    return sent(
        product_uuid=f"4c4c4544-0051-3510-8052-b4c04f56{number:04x}",
        board_serial=f"CNB00{number}7",
        chassis_serial=f"5QX{number}VD2",
        disk_serial=f"S3Z8NB0K77{number}",
        mac=f"b8:2a:72:aa:cc:{number:02x}",
    )


def walk(*reports: tuple[dict[str, str], datetime]) -> list[tuple[Drift, tuple[Machine, ...], Machine | None, bool]]:
    """Observe the reports in order, each with the state that the one before it left."""
    drift: Drift | None = None
    machines: tuple[Machine, ...] = ()
    seen = []
    for report, at in reports:
        observed = observe(sent(), drift, machines, report, at)
        drift, machines = observed.drift, observed.machines
        seen.append((observed.drift, observed.machines, observed.other, observed.audited))
    return seen


@pytest.mark.parametrize(
    ("report", "result", "changed", "missing", "audited"),
    [
        (sent(), "match", (), (), False),
        (sent(disk_serial="NEW1234"), "match", ("disk_serial",), (), True),
        (sent(mac="", chassis_serial=""), "match", (), ("chassis_serial", "mac"), True),
        (sent(product_uuid="", board_serial=""), "mismatch", (), ("product_uuid", "board_serial"), True),
        ({}, "mismatch", (), ("product_uuid", "board_serial", "chassis_serial", "disk_serial", "mac"), True),
        ({"mac": "no HMAC"}, "mismatch", ("mac",), ("product_uuid", "board_serial", "chassis_serial", "disk_serial"), True),
    ],
)  # fmt: skip
def test_a_report_is_compared_with_the_activation(
    report: dict[str, str], result: str, changed: tuple[str, ...], missing: tuple[str, ...], audited: bool
) -> None:
    drift, _, other, entry = walk((report, NOW))[0]
    assert (drift.result, drift.changed, drift.missing, entry) == (result, changed, missing, audited)
    assert other is None
    assert drift.reason


def test_an_activation_without_serial_numbers_is_compared_with_nothing() -> None:
    observed = observe({}, None, (), sent(), NOW)
    assert (observed.drift.result, observed.audited, observed.other) == ("not-enrolled", False, None)
    assert observe({}, observed.drift, observed.machines, machine(1), NOW).drift.result == "not-enrolled"


def test_a_change_is_audited_once_and_a_further_one_after_an_hour() -> None:
    disk, both = sent(disk_serial="NEW1234"), sent(disk_serial="NEW1234", mac="")
    seen = walk(
        (disk, NOW), (disk, NOW + HOUR / 4), (both, NOW + HOUR / 2), (disk, NOW + AUDIT_PERIOD), (sent(), NOW + 3 * HOUR)
    )  # fmt: skip
    assert [entry for *_, entry in seen] == [True, False, False, True, True]
    assert [drift.changed_at - NOW for drift, *_ in seen] == [
        timedelta(0),
        timedelta(0),
        HOUR / 2,
        AUDIT_PERIOD,
        3 * HOUR,
    ]


def test_another_result_is_audited_at_once() -> None:
    seen = walk((sent(mac=""), NOW), (machine(1), NOW + timedelta(seconds=1)))
    assert [(drift.result, entry) for drift, *_, entry in seen] == [("match", True), ("mismatch", True)]


def test_two_machines_that_take_turns() -> None:
    """The activation itself is the first machine."""
    seen = walk((machine(1), NOW), (sent(), NOW + HOUR), (machine(1), NOW + 2 * HOUR))
    assert [other is not None for *_, other, _ in seen] == [False, True, True]
    assert seen[1][2] is not None
    assert seen[1][2].fingerprint == machine(1)
    assert [drift.alternated_at for drift, *_ in seen] == [None, NOW + HOUR, NOW + 2 * HOUR]


def test_what_is_no_alternation() -> None:
    """Small changes, a missing permission, one change of the whole machine, and a repair that was undone."""
    small = walk(
        (sent(disk_serial="NEW1234"), NOW), (sent(), NOW), (sent(mac="", disk_serial="NEW1234"), NOW), (sent(), NOW)
    )
    hidden = walk(
        *[(report, NOW) for report in (sent(product_uuid="", board_serial="", chassis_serial=""), sent()) * 3]
    )
    nothing = walk(*[(report, NOW) for report in ({}, sent()) * 3])
    moved = walk((machine(1), NOW), (machine(1), NOW + HOUR))
    late = walk((machine(1), NOW), (sent(), NOW + RETURN_WITHIN + HOUR))
    for seen in (small, hidden, nothing, moved, late):
        assert all(other is None for *_, other, _ in seen)


def test_the_machines_are_bounded_and_the_oldest_is_forgotten() -> None:
    seen = walk(*[(machine(number), NOW + number * HOUR) for number in range(1, 12)])
    assert all(len(machines) <= MACHINES_MAX for _, machines, *_ in seen)
    assert [kept.fingerprint for kept in seen[-1][1]] == [machine(number) for number in (11, 10, 9, 8)]
    assert len(msgspec.json.encode(seen[-1][1])) < 12 * 1024
