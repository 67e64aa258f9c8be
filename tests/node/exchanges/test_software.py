"""A machine without a TPM: activation, session, renewal, rekey and a second activation, with a key in a file."""

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.agent import Agent
from node.conditions import Conditions
from node.disk.boot import BootRecord
from node.exchanges.activation import activate
from node.exchanges.activation_file import read_activation_file
from node.exchanges.contact import Contact
from node.exchanges.recovery import Asked, look, recover
from node.hwbind import reading
from node.hwbind.errors import TpmAbsent
from node.hwbind.fingerprint import Components, Reasons
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.licensing.licence import Licence
from node.licensing.situation import plan
from node.link.api import CloudRefused
from node.state import State
from protocol.codes import make_recovery_code
from protocol.limits import COMPONENTS_MAX
from protocol.messages.software import PATH_SOFTWARE_ACTIVATIONS, open_software_proof
from tests.fault_hooks import hooked
from tests.node.shells import agent_config
from tests.simulators.fabric import Fabric, refused, utc_now
from tests.simulators.repository import Repository
from tests.simulators.site import repository_of, write_activation_file
from tests.simulators.software_cloud import SoftwareCloud

pytestmark = pytest.mark.slow

MACHINE = {
    "product_uuid": "4c4c4544-0051-3510-8052-b4c04f564432",
    "board_serial": "CNFCP0096L00DE",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:cc",
}
ANOTHER = {
    "product_uuid": "4c4c4544-0099-3510-8052-b4c04f564499",
    "board_serial": "CNOTHER000001",
    "disk_serial": "S3Z8NB0K123456",
    "mac": "b8:2a:72:aa:bb:ff",
}


class Hardware:
    """The machine that the agent reads."""

    def __init__(self) -> None:
        self.values = MACHINE

    def read(self) -> Components:
        return Components(self.values, Reasons())


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    found = Hardware()
    # The machine itself has no argument: the exchange reads it where it runs.
    monkeypatch.setattr(reading, "read_components", found.read)
    return found


@pytest.fixture
def repository(fabric: Fabric) -> Iterator[Repository]:
    with repository_of(fabric).served() as served:
        yield served


@pytest.fixture
def file(tmp_path: Path, repository: Repository) -> Path:
    return write_activation_file(tmp_path / "file.json", repository.url, repository.pin)


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.directory.mkdir(mode=0o700)
    return state


@pytest.fixture
def cloud(fabric: Fabric) -> SoftwareCloud:
    return SoftwareCloud(fabric)


@pytest.fixture
def no_tpm() -> Tpm:
    """The TPM of a machine that has none."""
    return Tpm("device:/nonexistent/tpmrm0", mode="production")


async def run(state: State, tpm: Tpm, file: Path) -> Licence:
    return await activate(state, tpm, read_activation_file(file), utc_now, lambda _: None, in_software=True)


def started(state: State, tpm: Tpm) -> tuple[Contact, HardwareCheck]:
    """The contact of an agent that starts from the disk."""
    hardware = HardwareCheck(tpm, None, Conditions(utc_now))
    licence = state.load_licence(hardware, machine_clocks())
    return Contact(state, tpm, hardware, licence, utc_now), hardware


async def test_from_a_file_to_an_open_gate_and_to_a_copy_on_another_machine(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud, hardware: Hardware
) -> None:
    licence = await run(state, no_tpm, file)
    assert licence.verdict().gate_open
    assert licence.lease is not None
    assert licence.lease.tier == "software"
    assert cloud.held == [""]
    key = state.identities.generation_dir(1) / "node.priv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    contact, check = started(state, no_tpm)
    assert not contact.licence.verdict().gate_open, "the machine is not compared yet"
    await contact.licence.check_hardware()
    assert contact.licence.verdict().gate_open
    assert await contact.attempt()
    await contact.connection.close()
    hardware.values = ANOTHER
    await contact.licence.check_hardware()
    verdict = contact.licence.verdict()
    assert (verdict.state, verdict.gate_open, int(verdict.exit)) == ("hardware-mismatch", False, 84)
    assert check.judgement is not None
    assert check.judgement.of("same") == ("disk_serial",)
    hardware.values = MACHINE
    await contact.licence.check_hardware()
    assert contact.licence.verdict().gate_open


async def test_a_copy_without_its_licence_is_judged_by_the_lease_that_it_fetches(
    state: State, no_tpm: Tpm, file: Path, cloud: SoftwareCloud, hardware: Hardware
) -> None:
    """Without the stored lease there is nothing to compare at the start. The fetched one is judged before the gate opens."""
    await run(state, no_tpm, file)
    for part in ("licence", "identity/statement-g-1.json"):
        path = state.directory / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for values, opened in ((ANOTHER, False), (MACHINE, True)):
        hardware.values = values
        contact, check = started(State(state.directory), no_tpm)
        await contact.licence.check_hardware()
        assert check.can_prove
        assert not contact.licence.verdict().gate_open
        assert await contact.attempt()
        assert contact.licence.lease is not None
        assert contact.licence.verdict().gate_open is opened
        await contact.connection.close()


async def test_a_machine_without_a_tpm_never_falls_to_a_key_in_a_file(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud
) -> None:
    with pytest.raises(TpmAbsent) as caught:
        await activate(state, no_tpm, read_activation_file(file), utc_now, lambda _: None)
    assert "--software" in caught.value.advice
    assert cloud.proofs == []
    assert fabric.requests == []


async def test_a_machine_with_a_tpm_gets_a_warning(
    state: State, no_tpm: Tpm, tpm: Tpm, file: Path, cloud: SoftwareCloud, hardware: Hardware
) -> None:
    for chip, warned in ((tpm, True), (no_tpm, False)):
        said: list[str] = []
        licence = await activate(state, chip, read_activation_file(file), utc_now, said.append, in_software=True)
        assert licence.identity.node_key.in_software
        assert any("this machine has a TPM" in text for text in said) is warned


async def test_a_cloud_that_does_not_admit_the_tier(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, hardware: Hardware
) -> None:
    fabric.answers[PATH_SOFTWARE_ACTIVATIONS] = refused("tier_refused")
    with pytest.raises(CloudRefused) as caught:
        await run(state, no_tpm, file)
    assert caught.value.code == "tier_refused"
    assert state.identities.generations() == ()


async def test_a_second_activation_is_proven_by_the_key_in_force(
    state: State, no_tpm: Tpm, file: Path, cloud: SoftwareCloud, hardware: Hardware
) -> None:
    first = await run(state, no_tpm, file)
    old_key = first.identity.node_key
    second = await run(state, no_tpm, file)
    assert second.identity.generation == 2
    assert second.identity.node_key != old_key
    held = open_software_proof(cloud.held[1], old_key.public_key(), held=True)
    assert held == cloud.proofs[1]
    assert held.held is not None
    assert (held.held.node, held.held.generation) == (first.identity.node, 1)
    assert len(held.fingerprint) <= COMPONENTS_MAX


@pytest.mark.parametrize("point", ["node.activation.prove", "node.identity.save", "node.confirm.send"])
async def test_an_interrupted_activation_continues_with_the_same_key(
    state: State, no_tpm: Tpm, file: Path, cloud: SoftwareCloud, hardware: Hardware, point: str
) -> None:
    def cut(name: str, moment: str) -> None:
        if (name, moment) == (point, "after"):
            raise RuntimeError("cut")

    with hooked(cut), pytest.raises(RuntimeError):
        await run(state, no_tpm, file)
    licence = await run(state, no_tpm, file)
    assert licence.verdict().gate_open
    assert len(cloud.proofs) == 1
    assert licence.identity.generation == 1


@pytest.mark.parametrize("rekey", [False, True])
async def test_renewal_with_evidence(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud, hardware: Hardware, rekey: bool
) -> None:
    await run(state, no_tpm, file)
    contact, _ = started(state, no_tpm)
    before = contact.licence.identity
    fabric.taken = set()
    if rekey:
        await contact.renew_device(rekey=True)
    else:
        assert await contact.attempt(), "the certificate that opens no session is renewed"
    after = contact.licence.identity
    assert after.chain != before.chain
    assert (after.node_key != before.node_key) == rekey
    assert [claims.generation for claims in cloud.renewals] == [1]
    assert cloud.renewals[0].fingerprint == cloud.proofs[0].fingerprint
    assert await contact.attempt()
    await contact.connection.close()
    again, _ = started(state, no_tpm)
    assert again.licence.identity.node_key == after.node_key


async def test_a_closed_generation_comes_with_its_revocation(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud, hardware: Hardware
) -> None:
    await run(state, no_tpm, file)
    contact, _ = started(state, no_tpm)
    fabric.revoke()
    with pytest.raises(CloudRefused):
        await contact.renew_device(rekey=True)
    assert contact.licence.revoked


async def test_an_agent_without_a_tpm_settles_online_and_offline(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud, hardware: Hardware, tmp_path: Path
) -> None:
    await run(state, no_tpm, file)
    config = agent_config(tmp_path, settle_seconds=1)
    online = Agent.load(config, State(state.directory), no_tpm)
    await online.settle()
    assert online.snapshot().verdict.gate_open
    assert online.contact.last_contact_at is not None
    assert online.status().fingerprint is not None
    await online.contact.connection.close()
    fabric.answers["/v1/node/sessions"] = refused("unavailable")
    hardware.values = ANOTHER
    moved = Agent.load(config, State(state.directory), no_tpm)
    await moved.settle()
    assert moved.snapshot().verdict.state == "hardware-mismatch"
    assert moved.contact.failures == 0, "a machine that is another one is not settled with the cloud"
    hardware.values = MACHINE
    offline = Agent.load(config, State(state.directory), no_tpm)
    await offline.settle()
    assert offline.snapshot().verdict.gate_open
    assert offline.contact.failures > 0


async def test_a_repaired_machine_recovers_with_a_code(
    state: State, no_tpm: Tpm, file: Path, fabric: Fabric, cloud: SoftwareCloud, hardware: Hardware, tmp_path: Path
) -> None:
    await run(state, no_tpm, file)
    hardware.values = ANOTHER
    held = State(state.directory)
    looked = await look(held, no_tpm, BootRecord(tmp_path), utc_now)
    way = plan(looked.found)
    assert (looked.found.chip, looked.found.in_software, way.way, way.situation) == (
        "none",
        True,
        "recovery",
        "hardware-replaced",
    )
    assert looked.found.same is not None
    assert looked.found.same.of("same") == ("disk_serial",)
    code = make_recovery_code(b"s" * 13)
    with held.owned():
        licence = await recover(held, no_tpm, looked.found, way, utc_now, lambda _: None, Asked(code=code))
    ((sent, claim),) = cloud.claims
    assert (sent, claim.situation, claim.node) == (code, "hardware-replaced", licence.identity.node)
    assert (licence.identity.generation, fabric.confirmed) == (2, 2)
    assert cloud.held[-1], "the held key signs the proof too"
