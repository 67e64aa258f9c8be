"""The judgement of a fingerprint: thresholds, anchors, several values of a kind, values that cannot be read."""

import json
from collections.abc import Iterable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import json_decode, json_encode
from protocol.fingerprint import (
    ANCHORS,
    VALUES_MAX,
    WEIGHTS,
    EnrolledKind,
    FingerprintPolicy,
    NotEnrollable,
    PolicyError,
    check_policy,
    enroll,
    judge,
)
from protocol.hardware import component_hmac, named, placeholder_hmacs
from protocol.hardware import fingerprint as hmacs
from protocol.limits import COMPONENTS_MAX
from protocol.placeholders import SAMPLES, TEXTS, is_placeholder

SALT = b"s" * 32
UUID = "4c4c4544-0051-3510-8052-b4c04f564432"
MACHINE: dict[str, list[str]] = {
    "product_uuid": [UUID],
    "board_serial": ["CNFCP0096L00DE"],
    "chassis_serial": ["5Q5RVD2"],
    "disk_serial": ["S3Z8NB0K123456"],
    "disk_wwn": ["naa.5000c500a1b2c3d4"],
    "mac": ["b8:2a:72:aa:bb:cc"],
}
MIRROR: dict[str, list[str]] = {
    **MACHINE,
    "disk_serial": ["S3Z8NB0K123456", "S3Z8NB0K777777"],
    "disk_wwn": ["naa.5000c500a1b2c3d4", "naa.5000c500a1b2ffff"],
    "mac": [f"b8:2a:72:aa:bb:{number:02x}" for number in range(16)],
}
VM: dict[str, list[str]] = {"product_uuid": [UUID], "disk_serial": ["vda-4711"]}


def sent(machine: Mapping[str, list[str]]) -> dict[str, str]:
    """The fingerprint of a machine as its agent sends it."""
    return hmacs(SALT, {n: v for kind, values in machine.items() for n, v in named(kind, values, 16).items()})


def changed(machine: Mapping[str, list[str]], **changes: list[str]) -> dict[str, list[str]]:
    """The machine with other values of some kinds; an empty list removes the kind."""
    return {kind: values for kind, values in {**machine, **changes}.items() if values}


def without(kinds: Iterable[str]) -> dict[str, list[str]]:
    """The change that removes these kinds."""
    return {kind: [] for kind in kinds}


NEW_DISK = {"disk_serial": ["S5NEW00001"], "disk_wwn": ["naa.5000c500ffffffff"]}
NEW_CARD = {"mac": ["00:25:90:12:34:56"]}
NEW_BOARD = {"product_uuid": ["4c4c4544-0099-3510-8052-b4c04f564499"], "board_serial": ["CNOTHER000001"]}
NO_DMI = {"product_uuid", "board_serial", "chassis_serial"}

CASES: list[tuple[str, dict[str, list[str]], dict[str, list[str]], set[str], str, int]] = [
    ("the same machine", MACHINE, {}, set(), "match", 100),
    ("another disk", MACHINE, NEW_DISK, set(), "match", 70),
    ("another network card", MACHINE, NEW_CARD, set(), "match", 90),
    ("another disk and card: exactly the threshold", MACHINE, NEW_DISK | NEW_CARD, set(), "match", 60),
    ("another disk, card and chassis", MACHINE, NEW_DISK | NEW_CARD | {"chassis_serial": ["X77"]}, set(), "mismatch", 50),
    ("another board", MACHINE, NEW_BOARD, set(), "mismatch", 50),
    ("a copied disk in another machine", MACHINE, NEW_DISK | NEW_CARD | NEW_BOARD, set(), "mismatch", 10),
    ("the disk itself in another machine", MACHINE, NEW_CARD | NEW_BOARD, set(), "mismatch", 40),
    ("hidden values count as not matched", MACHINE, {"product_uuid": [], "board_serial": []}, set(), "mismatch", 50),
    ("one hidden value", MACHINE, {"chassis_serial": []}, set(), "match", 90),
    ("no permission to read the DMI", MACHINE, without(NO_DMI), NO_DMI, "inconclusive", 40),
    ("the same on a new card", MACHINE, without(NO_DMI) | NEW_CARD, NO_DMI, "inconclusive", 30),
    ("nothing can be read", MACHINE, without(MACHINE), set(MACHINE), "inconclusive", 0),
    ("unreadable, and the rest is of another machine", MACHINE,
     {"board_serial": []} | NEW_DISK | NEW_CARD, {"board_serial"}, "inconclusive", 35),
    ("unreadable, and the rest suffices to refuse", MACHINE,
     NEW_BOARD | {"disk_serial": []}, {"disk_serial"}, "mismatch", 35),
    ("unreadable, and the rest suffices to accept", MACHINE, {"disk_serial": []}, {"disk_serial"}, "match", 85),
    ("one disk of a mirror", MIRROR, {"disk_serial": ["S3Z8NB0K777777"], "disk_wwn": ["naa.5000c500a1b2ffff"]}, set(),
     "match", 100),
    ("both disks of a mirror", MIRROR, NEW_DISK, set(), "match", 70),
    ("one of sixteen cards is left", MIRROR, {"mac": ["b8:2a:72:aa:bb:0f", "00:25:90:12:34:56"]}, set(), "match", 100),
    ("a virtual machine", VM, {}, set(), "match", 40),
    ("a virtual machine on another disk", VM, {"disk_serial": ["vda-4712"]}, set(), "match", 25),
    ("a copied virtual machine with another UUID", VM, {"product_uuid": ["5c4c4544-0051-3510-8052-b4c04f564432"]}, set(),
     "mismatch", 15),
    ("more than was enrolled", VM, {"mac": ["b8:2a:72:aa:bb:cc"], "board_serial": ["B-1"]}, set(), "match", 40),
]  # fmt: skip


@pytest.mark.parametrize(
    ("enrolled", "changes", "unreadable", "result", "weight"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_still_the_machine(
    enrolled: dict[str, list[str]], changes: dict[str, list[str]], unreadable: set[str], result: str, weight: int
) -> None:
    judged = judge(enroll(sent(enrolled)), sent(changed(enrolled, **changes)), unreadable)
    assert (judged.result, judged.matched_weight) == (result, weight)
    assert judged.enrolled_weight == sum(WEIGHTS[kind] for kind in enrolled)


def test_each_kind_has_its_reason() -> None:
    now = changed(MACHINE, **(NEW_DISK | {"mac": [], "chassis_serial": []}))
    judged = judge(enroll(sent(MACHINE)), sent(now), {"mac"})
    assert {kind.kind: kind.result for kind in judged.kinds} == {
        "product_uuid": "same",
        "board_serial": "same",
        "chassis_serial": "missing",
        "disk_serial": "changed",
        "disk_wwn": "changed",
        "mac": "unreadable",
    }
    assert all(kind.reason for kind in judged.kinds)
    assert judged.of("changed") == ("disk_serial", "disk_wwn")
    assert judged.result == "inconclusive"
    assert judged.reason == "50 of 100 of the enrolled weight is the same, less than 60 %"


def test_an_anchor_must_be_left() -> None:
    """A policy whose other kinds suffice by weight: neither the disk nor the board is left."""
    policy = FingerprintPolicy(
        matched_percent_min=60,
        kinds=(
            EnrolledKind("chassis_serial", 70, False, ("a" * 32,)),
            EnrolledKind("disk_serial", 30, True, ("b" * 32,)),
        ),
    )
    judged = judge(policy, {"chassis_serial": "a" * 64})
    assert (judged.result, judged.matched_weight) == ("mismatch", 70)
    assert judged.reason.endswith("and neither a disk nor the board")
    assert judge(policy, {"chassis_serial": "a" * 64}, {"disk_serial"}).result == "inconclusive"


def test_many_small_changes_add_up() -> None:
    """Each step changes little; the comparison is with the enrolled values, so the third step is refused."""
    policy, machine, results = enroll(sent(MACHINE)), MACHINE, []
    for step in (NEW_CARD, NEW_DISK, {"chassis_serial": ["X77"]}):
        machine = changed(machine, **step)
        results.append(judge(policy, sent(machine)).result)
    assert results == ["match", "match", "mismatch"]
    first, second = (
        changed(MIRROR, disk_serial=["S3Z8NB0K777777", "NEW1"]),
        changed(MIRROR, disk_serial=["NEW1", "NEW2"]),
    )
    assert judge(enroll(sent(MIRROR)), sent(first)).of("changed") == ()
    assert judge(enroll(sent(MIRROR)), sent(second)).of("changed") == ("disk_serial",)


@pytest.mark.parametrize(
    ("fingerprint", "text"),
    [
        (sent({"mac": ["b8:2a:72:aa:bb:cc"], "chassis_serial": ["5Q5RVD2"]}), "no serial number of a disk or of the board"),
        (sent({"product_uuid": [UUID]}), "weight 25"),
        (sent({"disk_serial": ["S1A2B3"], "mac": ["b8:2a:72:aa:bb:cc"]}), "weight 25"),
        ({}, "no serial number"),
        ({"product_uuid": "00", "disk_serial": "11"}, "not an HMAC-SHA-256"),
        (sent({"product_uuid": [UUID, "5c4c4544-0051-3510-8052-b4c04f564432"]}), "more than 1 values of the kind product_uuid"),
        (sent({"disk_serial": [f"S3Z8NB0K1{n}" for n in range(7)]}), "more than 6 values of the kind disk_serial"),
        ({f"mac/{n}": f"{n:064x}" for n in range(COMPONENTS_MAX + 1)}, "more than 32 components"),
        ({f"vendor/{n}": f"{n:064x}" for n in range(5)}, "no serial number"),
    ],
)  # fmt: skip
def test_machines_that_are_not_enrolled(fingerprint: dict[str, str], text: str) -> None:
    with pytest.raises(NotEnrollable, match=text):
        enroll(fingerprint)


def test_the_cloud_drops_placeholders_that_an_older_agent_sends() -> None:
    value = "8a95d198-7f46-11e5-bf8b-08002704d48e"
    older = {**sent(VM), "product_uuid": component_hmac(SALT, "product_uuid", value)}
    assert enroll(older).enrolled_weight == 40
    with pytest.raises(NotEnrollable):
        enroll(older, placeholder_hmacs(SALT))
    assert all(is_placeholder(value) for value in (*SAMPLES, *TEXTS))
    assert all((*SAMPLES.values(), *TEXTS.values())), "a source is missing"


def test_the_policy_is_the_clouds() -> None:
    policy = enroll(sent(MIRROR))
    assert {kind.kind: kind.weight for kind in policy.kinds} == WEIGHTS
    assert {kind.kind for kind in policy.kinds if kind.anchor} == ANCHORS
    assert set(VALUES_MAX) == set(WEIGHTS)
    assert sum(VALUES_MAX.values()) <= COMPONENTS_MAX
    check_policy(policy)
    assert json_decode(json_encode(policy), FingerprintPolicy) == policy
    assert len(json_encode(policy)) < 2048


def test_the_largest_policy_is_small() -> None:
    fullest = {name: f"{number:064x}" for number, name in enumerate(sent({k: [f"{k}{n}x7" for n in range(VALUES_MAX[k])] for k in WEIGHTS}))}  # fmt: skip
    assert len(fullest) == sum(VALUES_MAX.values())
    assert len(json_encode(enroll(fullest))) < 2048


def test_the_vector() -> None:
    """A literal policy and fingerprint of this format. A change is a new version."""
    policy = json_decode(
        json.dumps(
            {
                "matched_percent_min": 60,
                "kinds": [
                    {"kind": "product_uuid", "weight": 25, "anchor": True, "digests": ["156fb73dd3be4cfbba14dc37917ca6e8"]},
                    {"kind": "disk_serial", "weight": 15, "anchor": True, "digests": ["5" * 32]},
                ],
            }
        ).encode(),
        FingerprintPolicy,
    )  # fmt: skip
    check_policy(policy)
    assert judge(policy, {"product_uuid": "156fb73dd3be4cfbba14dc37917ca6e8" + "0" * 32}).result == "match"
    assert judge(policy, {"disk_serial/2": "5" * 64}).result == "mismatch"
    assert sent(VM)["product_uuid"] == "156fb73dd3be4cfbba14dc37917ca6e88e8ab04fc917418fa17e0c0fd60befd4"


GOOD = enroll(sent(VM))
FIRST = GOOD.kinds[0]


@pytest.mark.parametrize(
    "policy",
    [
        msgspec.structs.replace(GOOD, matched_percent_min=0),
        msgspec.structs.replace(GOOD, matched_percent_min=101),
        msgspec.structs.replace(GOOD, kinds=()),
        msgspec.structs.replace(GOOD, kinds=(FIRST, FIRST)),
        msgspec.structs.replace(GOOD, kinds=tuple(EnrolledKind(f"k{n}", 1, True, ("a" * 32,)) for n in range(17))),
        *(
            msgspec.structs.replace(GOOD, kinds=(msgspec.structs.replace(FIRST, **change),))
            for change in (
                {"kind": "mac/2"}, {"kind": ""}, {"weight": 0}, {"weight": 1001}, {"weight": -1}, {"digests": ()},
                {"digests": ("A" * 32,)}, {"digests": ("a" * 31,)}, {"digests": ("a" * 32,) * 33}, {"anchor": False},
            )
        ),
    ],
)  # fmt: skip
def test_malformed_policies(policy: FingerprintPolicy) -> None:
    with pytest.raises(PolicyError):
        check_policy(policy)


@given(
    st.sets(st.sampled_from(sorted(WEIGHTS))), st.sets(st.sampled_from(sorted(WEIGHTS))), st.sampled_from([MACHINE, MIRROR, VM])
)  # fmt: skip
def test_a_reading_that_fails_never_refuses_the_machine(
    unreadable: set[str], others: set[str], machine: dict[str, list[str]]
) -> None:
    """A kind that cannot be read never turns a match into a mismatch, and a complete reading decides."""
    now = changed(machine, **{kind: ["A-1"] for kind in others if kind in machine})
    policy, complete = enroll(sent(machine)), judge(enroll(sent(machine)), sent(now))
    hidden = judge(policy, sent({k: v for k, v in now.items() if k not in unreadable}), unreadable)
    assert complete.result != "inconclusive"
    assert hidden.result in (complete.result, "inconclusive")
