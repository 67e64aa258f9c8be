"""A machine without a network: the real commands of both sides, with a real TPM and a real cloud.

`make drills PART=air-gap` has the whole table, in a network namespace without a network.
"""

import json
from pathlib import Path

from lab.cloud import Cloud
from lab.machine import Machine
from lab.tpm import SoftTpm


def test_a_machine_is_activated_and_refreshed_by_files(
    cloud: Cloud, machine: Machine, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    tenant = cloud.tenant(chips[0])
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    code = cloud.code(tenant, "--seats", "1")
    # No program answers at this address, so the machine cannot fetch the published trust.
    offline = tmp_path / "offline.json"
    offline.write_text(json.dumps(json.loads(code.read_bytes()) | {"repository_url": "http://127.0.0.1:1"}))
    machine.run("request", "--file", str(offline), "--out", str(request))
    cloud.run("airgap", "answer", str(request), "--out", str(answer))
    activated = machine.run("license", "import", str(answer))
    assert (activated["state"], activated["generation"]) == ("active", 1)
    (node,) = cloud.run("node", "list", "--tenant", tenant)
    assert (node["id"], node["tier"]) == (activated["node"], "attested")
    # The answer is used once. The next request has the receipt, the fingerprint and the floor counter.
    assert machine.run("license", "import", str(answer), expect=65)["error"]["code"] == "airgap_answer_used"
    cloud.run("node", "suspend", node["id"], "--reason", "unpaid")
    machine.run("request", "--text", "--out", str(request))
    cloud.run("airgap", "answer", str(request), "--out", str(answer), "--text")
    assert machine.run("license", "import", str(answer), expect=82)["state"] == "suspended"
    states = [each["state"] for each in cloud.run("airgap", "list", "--node", node["id"])]
    assert sorted(states) == ["answered", "received"]
    # The first contact over a network works as if the machine had been activated over it.
    cloud.run("node", "resume", node["id"])
    renewed = machine.run("renew")
    assert (renewed["state"], renewed["generation"], renewed["node"]) == ("active", 1, node["id"])
    assert sum(each["seats_taken"] for each in cloud.run("code", "list", tenant)) == 1
