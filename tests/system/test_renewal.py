"""Renewal with the real commands: after the certificate has expired, with a new key, and on refusal."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.types import TPMT_PUBLIC

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from node.disk.identity import IdentityStore
from protocol.messages.renewal import PATH_RENEWALS, ProveRenewal, RenewalChallenge, Renewed, StartRenewal, path_proof
from tests.simulators.forged_evidence import p256
from tests.system.support.device_certificate import device, expire
from tests.system.support.harness import new_machine
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of
from tests.system.support.snapshots import unchanged
from tests.system.support.wire import once


def activated(cloud: Cloud, machine: Machine, chip: SoftTpm) -> str:
    tenant = cloud.tenant(chip)
    machine.run("activate", str(cloud.code(tenant)))
    return tenant


def actions(cloud: Cloud) -> list[str]:
    return [action for (action,) in cloud.rows("fabric", "SELECT action FROM audit ORDER BY id")]


def test_an_expired_machine_renews_by_itself(cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm]) -> None:
    activated(cloud, machine, chips[0])
    over = expire(cloud, machine)
    machine.up()
    wait_until("the contact", lambda: machine.ask("/v1/status")["last_contact_at"])
    assert machine.granted()
    renewed = device(machine)
    assert renewed.not_valid_after_utc > datetime.now(UTC) + timedelta(days=30)
    assert renewed.public_key() == over.public_key()
    assert [action for action in actions(cloud) if action.startswith("renewal.")] == [
        "renewal.challenged",
        "renewal.proved",
        "renewal.issued",
    ]
    assert machine.ask("/v1/license")["generation"] == 1
    # Later renewals use the session.
    machine.run("renew")
    assert device(machine).serial_number != renewed.serial_number


@pytest.mark.parametrize("running", [False, True])
def test_a_rekey_changes_the_key_in_the_tpm(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], running: bool
) -> None:
    activated(cloud, machine, chips[0])
    if running:
        machine.up()
    keys = [device(machine).public_key()]
    for _ in range(2):
        machine.run("renew", "--rekey")
        keys.append(device(machine).public_key())
    assert len({key.public_bytes(serialization.Encoding.DER, _SPKI) for key in keys}) == 3
    stored = IdentityStore(machine.state).current()
    assert stored is not None
    TPMT_PUBLIC.unmarshal(stored.node_key.public)
    ((known,),) = cloud.rows("fabric", "SELECT node_public_key FROM generation")
    assert known == keys[-1].public_bytes(serialization.Encoding.DER, _SPKI)
    valid = "SELECT COUNT(*) FROM certificate WHERE profile = 'device' AND state = 'issued'"
    wait_until("the revocation of the old keys' certificates", lambda: cloud.rows("breakwater", valid) == [(1,)])
    assert set(cloud.rows("breakwater", "SELECT reason FROM certificate WHERE state = 'revoked'")) == {(4,)}
    machine.down()
    machine.up()
    wait_until("the contact", lambda: machine.ask("/v1/status")["last_contact_at"])
    assert machine.granted()
    assert machine.ask("/v1/license")["generation"] == 1


_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def test_an_expired_superseded_machine_is_reported_as_superseded(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = activated(cloud, machine, chips[0])
    new_machine(tmp_path, chips[0], "reinstalled").run("activate", str(cloud.code(tenant)))
    expire(cloud, machine)
    assert machine.launch().wait() == 81
    assert "superseded" in machine.run("status", expect=81)["license"]["reason"]


def test_an_expired_revoked_machine_is_reported_as_revoked(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm]
) -> None:
    activated(cloud, machine, chips[0])
    (node,) = cloud.run("node", "list")
    cloud.run("node", "revoke", node["id"], "--reason", "stolen")
    over = expire(cloud, machine)
    assert machine.launch().wait() == 81
    assert machine.run("status", expect=81)["license"]["state"] == "revoked"
    assert device(machine) == over


def test_an_expired_state_directory_in_another_machine_is_refused(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    activated(cloud, machine, chips[0])
    expire(cloud, machine)
    moved = new_machine(tmp_path, chips[1], "moved")
    shutil.copytree(machine.state, moved.state)
    with ended(moved), unchanged(cloud):
        moved.up()
        assert moved.licence == "hardware-mismatch"
        moved.run("renew", "--rekey", expect=84)


def test_a_renewal_over_http(cloud: Cloud, tmp_path: Path) -> None:
    """Renewal over HTTP: a new key before the certificate is due, and a refusal for the evidence of another chip."""
    code = secret_of(cloud.code(paper_tenant(cloud, tmp_path), "--seats", "2"))
    mine, other = PaperNode(cloud, "mine").join(code), PaperNode(cloud, "other").join(code)
    with unchanged(cloud):
        stolen = StartRenewal(mine.device, other.evidence(), "1.0")
        once(cloud, "fabric", "POST", PATH_RENEWALS, stolen).refused("certificate_refused")
    body = StartRenewal(mine.device, mine.evidence(), "1.0")
    challenge = once(cloud, "fabric", "POST", PATH_RENEWALS, body).into(RenewalChallenge)
    path = path_proof(challenge.renewal)

    def proof(key: ec.EllipticCurvePrivateKey) -> ProveRenewal:
        return mine.prove_renewal(challenge, key)

    once(cloud, "fabric", "POST", path, proof(mine.node_key)).refused("conflict")
    new = proof(p256("another key of mine"))
    chain = once(cloud, "fabric", "POST", path, new).into(Renewed).certificate_chain
    assert once(cloud, "fabric", "POST", path, new).into(Renewed).certificate_chain == chain
    assert x509.load_der_x509_certificate(chain[0]).public_key() == p256("another key of mine").public_key()
    once(cloud, "fabric", "POST", path, proof(p256("a third"))).refused("activation_closed")
    once(cloud, "fabric", "POST", PATH_RENEWALS + "/ren_x/proof", new).refused("not_found")
    other.session()
