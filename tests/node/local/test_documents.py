"""The socket's documents, member by member: licensed software is built on them."""

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from node.conditions import Condition
from node.config import AGENT_VERSION
from node.exchanges.failure import failure_of
from node.hwbind.errors import TpmFailed
from node.hwbind.keys import key_hash
from node.licensing.boot_time import machine_clocks
from node.licensing.licence import Licence
from node.link.api import CloudUnreachable
from node.local.documents import StatusDocument, entitlement_document, license_document, status_document
from node.state import State
from protocol.encoding import json_encode
from protocol.signed.statements import Entitlement
from tests.node.licensing.samples import trusted
from tests.node.shells import apply, hardware, load_licence
from tests.simulators.fabric import NODE, TENANT, Fabric, utc_now

LICENSE = {
    "format": 1,
    "state": "active",
    "gate": "open",
    "new_work": True,
    "reason": "the lease is current",
    "next": "",
    "exit_code": 0,
    "flags": [],
    "notice": "",
    "tenant": TENANT,
    "node": NODE,
    "generation": 1,
}

LEASE_MEMBERS = [
    "trust_domain",
    "tenant",
    "node",
    "generation",
    "epoch",
    "seq",
    "issued_at",
    "tier",
    "profile",
    "entitlements",
    "not_before",
    "refresh_after",
    "expires_at",
    "grace_until",
    "terminate_at",
    "notify_at",
    "lease_version",
    "entitlement_terms",
    "final_reason",
    "recovery",
]


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


@pytest.fixture
def licence(state: State) -> Licence:
    return load_licence(state, ours=True)


def members(document: msgspec.Struct) -> dict[str, Any]:
    """A document as it is sent."""
    return dict(json.loads(json_encode(document)))


def status(licence: Licence) -> StatusDocument:
    return status_document(licence.snapshot(), "development", running=True, last_contact_at=None, failures=0)


def test_license(licence: Licence) -> None:
    document = members(license_document(licence.snapshot()))
    lease, valid_until = document.pop("lease"), document.pop("valid_until")
    assert document == LICENSE
    assert list(lease) == LEASE_MEMBERS
    assert valid_until.endswith("Z")


def test_license_without_a_lease(licence: Licence, fabric: Fabric) -> None:
    apply(licence, fabric, fabric.revocation())
    document = members(license_document(licence.snapshot()))
    assert (document["state"], document["gate"], document["exit_code"], document["lease"]) == (
        "revoked",
        "closed",
        81,
        None,
    )
    assert document["next"]


def test_status(licence: Licence) -> None:
    document = members(status(licence))
    assert list(document) == (
        [
            "format",
            "version",
            "mode",
            "license",
            "hardware",
            "agent_running",
            "last_contact_at",
            "failures",
            "offline_bound_at",
            "limits",
            "damaged",
            "conditions",
            "last_failure",
            "fingerprint",
            "time",
            "floor",
        ]
    )
    assert (document["version"], document["mode"], document["hardware"]) == (AGENT_VERSION, "development", "ours")
    assert licence.lease is not None
    assert list(document["time"]) == ["high_at", "low_at", "wall_at", "source", "suspect"]
    assert (document["time"]["source"], document["time"]["suspect"]) == ("wall-clock", False)
    assert list(document["floor"]) == [
        "present",
        "record_state",
        "reason",
        "index",
        "value",
        "writes",
        "writes_per_day",
        "years_left",
        "undefended",
    ]
    assert (document["floor"]["present"], document["floor"]["record_state"]) == (False, "unjudged")
    assert document["offline_bound_at"] == licence.lease.terminate_at.isoformat().replace("+00:00", "Z")


def test_damage_and_a_failing_tpm_are_reported(state: State) -> None:
    check = hardware(ours=True)
    check.report_fault(TpmFailed("0x101"))
    licence = state.load_licence(check, machine_clocks())
    assert members(license_document(licence.snapshot()))["flags"] == ["tpm-failing"]
    path = state.licences.statement_path(1)
    path.write_bytes(b"torn")
    document = members(status(load_licence(state, ours=True)))
    assert document["license"]["flags"] == ["state-damaged"]
    assert str(path) in document["damaged"][0]


def test_entitlement(licence: Licence) -> None:
    document = members(entitlement_document(licence.snapshot(), "export"))
    assert list(document) == [
        *("format", "name", "granted", "state", "reason", "valid_until"),
        *("why", "limit", "not_before", "until", "attributes"),
    ]
    assert (document["granted"], document["reason"]) == (False, "the licence does not include 'export'")


def test_an_entitlement_with_terms(licence: Licence, fabric: Fabric) -> None:
    until = utc_now() + timedelta(days=1)
    terms = [Entitlement(name="cameras", limit=8, until=until, attributes={"site": "north"}), "render"]
    ended = Entitlement(name="trial", limit=1, until=utc_now() - timedelta(days=1))
    key = key_hash(licence.identity.node_key.public_key())
    apply(licence, fabric, fabric.lease(node_key=key, entitlements=[*terms, ended]))
    cameras = entitlement_document(licence.snapshot(), "cameras")
    assert (cameras.granted, cameras.why, cameras.limit, cameras.until) == (True, "granted", 8, until)
    assert cameras.attributes == {"site": "north"}
    render = entitlement_document(licence.snapshot(), "render")
    assert (render.granted, render.limit, render.until, render.attributes) == (True, None, None, {})
    trial = entitlement_document(licence.snapshot(), "trial")
    assert (trial.granted, trial.why, trial.limit, trial.until) == (False, "ended", None, ended.until)
    lease = members(license_document(licence.snapshot()))["lease"]
    assert lease["entitlements"] == ["cameras", "render", "trial"], "programs of earlier releases read names"
    assert [each["name"] for each in lease["entitlement_terms"]] == ["cameras", "trial"]
    assert lease["lease_version"] == 2


def test_a_final_lease_says_its_reason(licence: Licence, fabric: Fabric) -> None:
    ends = utc_now() + timedelta(days=3)
    key = key_hash(licence.identity.node_key.public_key())
    token = fabric.lease(node_key=key, final={"reason": "unpaid"}, expires_at=ends, grace_until=ends, terminate_at=ends)
    apply(licence, fabric, token)
    document = license_document(licence.snapshot())
    assert (document.state, document.reason) == ("active", "the lease is current (final lease: unpaid)")
    assert document.lease is not None
    assert document.lease.final_reason == "unpaid"
    assert document.notice.startswith("this is the last lease (unpaid): all licensed software stops at ")


def test_no_entitlement_while_the_gate_is_closed(licence: Licence, fabric: Fabric) -> None:
    apply(licence, fabric, fabric.suspension())
    document = entitlement_document(licence.snapshot(), "render")
    assert (document.granted, document.reason) == (False, "the cloud has suspended the licence (unpaid)")


def test_the_parts_of_one_answer_agree(state: State, licence: Licence, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease ends while a program asks: each answer is of one instant."""
    assert licence.lease is not None
    end = licence.lease.terminate_at
    for times, expected in (
        ([end - timedelta(microseconds=1), end], ("restricted", "open", True)),
        ([end, end - timedelta(microseconds=1)], ("terminated", "closed", False)),
    ):
        clock = iter(times)
        racing = load_licence(state, ours=True)
        monkeypatch.setattr(racing.time, "judged", lambda clock=clock: trusted(next(clock)))
        snapshot = racing.snapshot()
        document = status_document(snapshot, "production", running=True, last_contact_at=None, failures=0)
        granted = entitlement_document(snapshot, "render").granted
        assert (document.license.state, document.license.gate, granted) == expected


def test_conditions_are_in_the_status(licence: Licence) -> None:
    condition = Condition("disk_full", "no space is left", "Free some.", utc_now())
    document = status_document(
        licence.snapshot(), "production", running=True, last_contact_at=None, failures=0, conditions=(condition,)
    )
    assert members(document)["conditions"] == [msgspec.to_builtins(condition)]


def test_the_last_failure_is_in_the_status(licence: Licence) -> None:
    failure = failure_of(CloudUnreachable("cannot reach the cloud: connection refused"), utc_now())
    document = status_document(
        licence.snapshot(), "production", running=True, last_contact_at=None, failures=1, last_failure=failure
    )
    assert members(document)["last_failure"] == json.loads(json_encode(failure))


def test_a_superseded_generation_has_its_flag(licence: Licence, fabric: Fabric) -> None:
    apply(licence, fabric, fabric.revocation(reason="superseded"))
    document = license_document(licence.snapshot())
    assert (document.state, document.flags, document.exit_code) == ("revoked", ("superseded",), 81)


def test_a_machine_without_a_tpm_says_that_it_has_no_hardware_floor(licence: Licence) -> None:
    def limits(in_software: bool) -> str:
        snapshot = msgspec.structs.replace(licence.snapshot(), in_software=in_software)
        return status_document(snapshot, "production", running=True, last_contact_at=None, failures=0).limits

    assert "no hardware floor" in limits(True)
    assert limits(True).startswith(limits(False))
    assert "no hardware floor" not in limits(False)
