"""A machine without a TPM at a real cloud: activated, approved through a kill of the cloud, known again, and renewed."""

import msgspec
import pytest

from lab.cloud import Cloud
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.renewal import Renewed
from protocol.messages.sessions import (
    Session,
)
from protocol.messages.software import (
    PATH_SOFTWARE_ACTIVATIONS,
    PATH_SOFTWARE_RENEWALS,
    StartSoftwareActivation,
    path_software_proof,
)
from tests.cloud.fabric.software_machine import SERIALS, spki_of
from tests.system.support.paper_node import secret_of
from tests.system.support.software_node import SoftwareNode
from tests.system.support.wire import new_key

OTHER = {name: f"other {value}" for name, value in SERIALS.items()} | {
    "product_uuid": "0b5f0d66-8d1e-4a3c-9a52-0a4a5c1f7e11",
    "mac": "a4:bb:6d:99:99:99",
}


@pytest.mark.long(6.0, "software tier")
def test_a_machine_without_a_tpm_is_approved_known_again_and_renewed(cloud: Cloud) -> None:
    tenant = str(cloud.run("tenant", "create", "without TPMs")["id"])
    refused = SoftwareNode(cloud)
    body = StartSoftwareActivation(secret_of(cloud.code(tenant)), spki_of(refused.key), "1.0")
    refused.ask(PATH_SOFTWARE_ACTIVATIONS, body).refused("tier_refused")
    cloud.run("tenant", "tiers", tenant, "software")
    cloud.run("tenant", "approve-tiers", tenant, "software")
    code = secret_of(cloud.code(tenant, "--seats", "2"))
    node = SoftwareNode(cloud)
    activation, proof = node.start(code)
    path = path_software_proof(activation)
    answer = node.ask(path, proof)
    assert (answer.status, answer.headers["retry-after"]) == (202, "10")
    assert answer.into(AwaitedApproval).activation == activation
    cloud.kill()
    cloud.up()
    assert node.ask(path, proof).status == 202
    shown = cloud.run("activation", "approve", activation)
    assert (shown["tier"], shown["matched"], shown["seat_reserved"]) == ("software", "", True)
    node.activated = node.ask(path, proof).into(Activated)
    assert node.confirm().statement
    (listed,) = cloud.run("node", "list", "--tenant", tenant)
    assert (listed["tier"], listed["id"]) == ("software", node.activated.node)
    # The key and the serial numbers are the same node in the same seat. A copied directory is neither.
    cloud.run("tenant", "approve-tiers", tenant, "none")
    activation, proof = node.start(code)
    again = node.ask(path_software_proof(activation), proof).into(Activated)
    assert (again.node, again.generation) == (node.activated.node, 2)
    node.activated = again
    node.confirm()
    assert sum(code["seats_taken"] for code in cloud.run("code", "list", tenant)) == 1
    serials, node.serials = node.serials, OTHER
    node.open_session().refused("fingerprint_refused")
    copied, key = node.activated, node.key
    activation, proof = node.start(code)
    assert node.ask(path_software_proof(activation), proof).into(AwaitedApproval).activation == activation
    assert cloud.run("activation", "show", activation)["matched"] == "changed"
    node.serials, node.activated, node.key = serials, copied, key
    # A new key; the answer is lost, and the repeat gets the same certificate.
    fresh = new_key()
    body_of_renewal = node.rekey(fresh)
    first = node.ask(PATH_SOFTWARE_RENEWALS, body_of_renewal).into(Renewed)
    assert node.ask(PATH_SOFTWARE_RENEWALS, body_of_renewal).into(Renewed) == first
    node.key, node.activated = fresh, msgspec.structs.replace(copied, certificate_chain=first.certificate_chain)
    assert node.open_session().into(Session).current.statement
