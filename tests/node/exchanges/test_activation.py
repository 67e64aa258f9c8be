"""Activation on a software TPM, from the file to the confirmed generation, interrupted at every point and continued."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from node.errors import DiskFull, StateDamaged, StateError, StateUnsafe
from node.exchanges.activation import OtherCloud, activate
from node.exchanges.activation_file import read_activation_file
from node.exchanges.enrolment import NotAbove, OtherNode
from node.exits import Exit
from node.hwbind import counter
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.floor_store import FloorStore
from node.licensing.licence import Licence, StatementRejected
from node.licensing.trusted_time import first_floor
from node.link.api import CloudRefused, CloudUnreachable
from node.state import NotActivated, State
from node.trust import published
from node.trust.published import TrustError
from protocol import faults
from protocol.encoding import json_encode
from protocol.evidence import NvCounter
from protocol.limits import HELD_GENERATION_MAX
from protocol.messages.activation import TrustPin
from protocol.messages.sessions import StatementAnswer
from tests.fault_hooks import hooked
from tests.node.shells import forget_floors, hardware, load_licence
from tests.off_loop import off_loop
from tests.simulators.fabric import DAY, DOMAIN, NODE, Fabric, Reply, Request, always, problem, refused, utc_now
from tests.simulators.repository import Repository
from tests.simulators.site import CODE, repository_of, write_activation_file

pytestmark = pytest.mark.slow

CONFIRM = "/v1/node/confirm"


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


async def run(state: State, tpm: Tpm, file: Path) -> Licence:
    return await activate(state, tpm, read_activation_file(file), utc_now, lambda _: None)


async def test_from_a_file_to_an_open_gate(state: State, tpm: Tpm, file: Path, fabric: Fabric) -> None:
    licence = await run(state, tpm, file)
    assert (licence.verdict().state, licence.verdict().gate_open, licence.confirmed) == ("active", True, True)
    current = state.identities.current()
    assert current is not None
    assert (current.generation, state.identities.pending(), state.identities.load_activation()) == (1, None, None)
    assert load_licence(state).lease == licence.lease
    assert [request.path.rpartition("/")[2] for request in fabric.requests] == [
        "activations",
        "proof",
        "nonces",
        "sessions",
        "confirm",
    ]


async def test_again_is_the_next_generation_and_begins_at_the_time_of_the_file(
    state: State, tpm: Tpm, file: Path, fabric: Fabric
) -> None:
    """The cloud signed a time of 2080 by mistake. Every certificate has then ended at `low`."""
    forget_floors(tpm.tcti)
    ahead = utc_now() + 20_000 * DAY
    state.floors.time = lambda: first_floor(ahead)
    await run(state, tpm, file)
    assert load_licence(State(state.directory)).time.low() >= ahead
    licence = await run(State(state.directory), tpm, file)
    assert (licence.identity.generation, fabric.confirmed) == (2, 2)
    assert load_licence(State(state.directory)).time.low() < utc_now()


class CutOffError(Exception):
    """The process ended here."""


@pytest.fixture
def cut() -> Iterator[list[str]]:
    """The fault points, as "before NAME" or "after NAME", at which the next run ends."""
    at: list[str] = []

    def hook(name: str, stage: faults.Stage) -> None:
        if f"{stage} {name}" in at:
            raise CutOffError(name)

    with hooked(hook):
        yield at


POINTS = (
    "node.activation.start",
    "node.activation.save",
    "node.activation.prove",
    "node.identity.save",
    "node.session.send",
    "node.confirm.send",
    "node.statement.write",
    "node.identity.switch",
    "node.activation.clear",
)
BEFORE_THE_PROOF_IS_KEPT = {
    "before node.activation.start",
    "after node.activation.start",
    "before node.activation.save",
}


AFTER = ("node.activation.start", "node.activation.prove", "node.confirm.send", "node.activation.clear")
"""The points to stop at: each send (its answer is lost), and the end. The state after a write is the state before
    the next step, so it needs no point."""


@pytest.mark.parametrize("point", [f"before {name}" for name in POINTS] + [f"after {name}" for name in AFTER])
async def test_an_interrupted_activation_continues_in_the_same_generation(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, cut: list[str], point: str
) -> None:
    cut.append(point)
    with pytest.raises(CutOffError):
        await run(state, tpm, file)
    cut.clear()
    licence = await run(State(state.directory), tpm, file)
    started = len([request for request in fabric.requests if request.path == "/v1/activations"])
    # An interruption at the very end comes after the activation's end. So the repeat is a new activation.
    again = point == "after node.activation.clear"
    assert licence.identity.generation == fabric.last_generation == fabric.confirmed == (2 if again else 1)
    assert licence.verdict().gate_open
    assert started == (
        1 + again if point not in BEFORE_THE_PROOF_IS_KEPT else 2 - (point == "before node.activation.start")
    )
    assert state.identities.load_activation() is None


async def test_a_repeated_proof_is_the_same_bytes(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, cut: list[str]
) -> None:
    cut.append("after node.activation.prove")
    with pytest.raises(CutOffError):
        await run(state, tpm, file)
    cut.clear()
    await run(state, tpm, file)
    first, second = [request.body for request in fabric.requests if request.path.endswith("/proof")]
    assert first == second


async def test_an_exchange_that_has_ended_is_begun_again(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, cut: list[str]
) -> None:
    cut.append("before node.activation.prove")
    with pytest.raises(CutOffError):
        await run(state, tpm, file)
    cut.clear()
    fabric._exchanges.clear()
    licence = await run(state, tpm, file)
    assert licence.verdict().gate_open


@pytest.mark.parametrize("code", ["code_refused", "seats_exhausted", "evidence_refused", "node_revoked"])
async def test_a_refusal_leaves_everything_as_it_was(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, code: str
) -> None:
    await run(state, tpm, file)
    fabric.answers["/v1/activations"] = refused(code)
    with pytest.raises(CloudRefused) as caught:
        await run(state, tpm, file)
    assert (caught.value.code, caught.value.exit) == (code, Exit.REFUSED)
    licence = load_licence(state, ours=True)
    assert (licence.identity.generation, licence.verdict().gate_open) == (1, True)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["_start", "_prove", "_open_session", "_state"])
async def test_a_refused_activation_changes_neither_repository_nor_pin(
    state: State,
    tpm: Tpm,
    file: Path,
    fabric: Fabric,
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """The file names another place of the same repository: an attacker's copy, for example."""
    await run(state, tpm, file)
    trust = contents(state.directory / "trust")
    mirror = f"{repository.url}/"
    other = write_activation_file(tmp_path / "other.json", mirror, repository.pin)
    with monkeypatch.context() as patch:
        patch.setattr(fabric, step, lambda *_: problem("code_refused"))
        with pytest.raises(CloudRefused):
            await run(state, tpm, other)
    assert contents(state.directory / "trust") == trust
    assert (state.identities.load_activation() is None) == (step in ("_start", "_prove"))
    licence = load_licence(state, ours=True)
    assert (licence.identity.generation, licence.verdict().gate_open) == (1, True)
    await run(state, tpm, other)
    assert published.load(state.directory).repository_url == mirror


async def test_a_refused_first_activation_stores_nothing(state: State, tpm: Tpm, file: Path, fabric: Fabric) -> None:
    fabric.answers["/v1/activations"] = refused("code_refused")
    with pytest.raises(CloudRefused):
        await run(state, tpm, file)
    assert contents(state.directory) == {}


@pytest.mark.parametrize("answer", ["none", "not fresh", "forged"])
async def test_without_a_valid_statement_nothing_is_in_force(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, answer: str
) -> None:
    async def confirm(_: Request) -> Reply:
        fabric.confirmed = 1
        stranger = Fabric()
        stranger.confirmed = 1
        token = {"none": "", "not fresh": fabric.lease(), "forged": stranger.lease()}[answer]
        return Reply(200, json_encode(StatementAnswer(token, "")))

    fabric.answers[CONFIRM] = confirm
    with pytest.raises(StatementRejected):
        await run(state, tpm, file)
    assert state.identities.current() is None
    assert load_licence(state).verdict().state == "pending"


async def test_a_suspended_node_is_activated_and_stays_suspended(
    state: State, tpm: Tpm, file: Path, fabric: Fabric
) -> None:
    async def confirm(request: Request) -> Reply:
        fabric.confirmed = 1
        fabric.say(fabric.suspension())
        return fabric._state(request)

    fabric.answers[CONFIRM] = confirm
    licence = await run(state, tpm, file)
    assert (licence.verdict().state, licence.verdict().exit) == ("suspended", Exit.SUSPENDED)


async def test_a_cloud_that_counts_again_from_a_lower_generation_numbers_above_the_held_one(
    state: State, tpm: Tpm, file: Path, fabric: Fabric
) -> None:
    """The cloud was restored from a backup that is older than the generation in force."""
    for _ in range(3):
        await run(state, tpm, file)
    fabric.last_generation = 1
    assert (await run(state, tpm, file)).identity.generation == 4


async def test_a_proof_names_the_highest_generation_that_the_directory_holds(
    state: State, tpm: Tpm, file: Path, fabric: Fabric
) -> None:
    """The cloud numbers the new generation above it. A number that no machine reaches does not count."""
    await run(state, tpm, file)
    state.identities.generation_dir(7).mkdir(mode=0o700)
    state.identities.generation_dir(HELD_GENERATION_MAX + 1).mkdir(mode=0o700)
    fabric.last_generation = 7
    await run(state, tpm, file)
    assert fabric.held_generations == [msgspec.UNSET, 7]


async def test_a_cloud_of_an_earlier_release_gets_the_proof_without_the_held_generation(
    state: State, tpm: Tpm, file: Path, fabric: Fabric
) -> None:
    await run(state, tpm, file)
    fabric.knows_held_generation = False
    assert (await run(state, tpm, file)).identity.generation == 2
    assert fabric.held_generations == [msgspec.UNSET, msgspec.UNSET]


async def test_a_generation_that_stays_lower_is_refused(state: State, tpm: Tpm, file: Path, fabric: Fabric) -> None:
    for _ in range(3):
        await run(state, tpm, file)
    fabric.last_generation, fabric.numbers_above = 0, False
    with pytest.raises(NotAbove, match="not above the one in force, 3"):
        await run(state, tpm, file)
    assert state.identities.current_generation() == 3
    fabric.numbers_above = True
    assert (await run(state, tpm, file)).identity.generation == 4


async def test_a_machine_that_the_cloud_knows_as_another_node_gets_a_generation_above(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud was restored from a backup that is older than the machine's first activation."""
    await run(state, tpm, file)
    other = "node_0" + "2" * 25
    fabric.last_generation = 0
    monkeypatch.setattr("tests.simulators.fabric.NODE", other)
    monkeypatch.setattr("tests.simulators.fabric.NODE_URI", f"spiffe://{DOMAIN}/tenant/ten_0{'1' * 25}/node/{other}")
    fabric.numbers_above = False
    with pytest.raises(OtherNode) as caught:
        await run(state, tpm, file)
    assert caught.value.exit is Exit.HARDWARE_MISMATCH
    assert state.identities.load_activation() is None
    fabric.numbers_above = True
    licence = await run(state, tpm, file)
    assert (licence.identity.node, licence.identity.generation) == (other, 2)
    assert licence.verdict().gate_open


async def test_a_file_of_another_cloud_leaves_the_licence_in_force(
    state: State, tpm: Tpm, file: Path, tmp_path: Path
) -> None:
    await run(state, tpm, file)
    before = published.load(state.directory)
    other = Fabric()
    with repository_of(other).served() as served, pytest.raises(OtherCloud) as caught:
        await run(state, tpm, write_activation_file(tmp_path / "other.json", served.url, served.pin))
    assert (caught.value.exit, other.handshakes) == (Exit.VERIFICATION, [])
    assert published.load(state.directory).pin == before.pin
    licence = load_licence(state, ours=True)
    assert licence.verdict().gate_open


@pytest.mark.parametrize("name", ["identity.json", "device.pem", "node.priv"])
async def test_a_damaged_generation_is_followed_by_a_new_one(state: State, tpm: Tpm, file: Path, name: str) -> None:
    await run(state, tpm, file)
    (state.identities.generation_dir(1) / name).write_bytes(b"torn")
    with pytest.raises(StateDamaged):
        load_licence(state)
    licence = await run(state, tpm, file)
    assert (licence.identity.generation, licence.verdict().gate_open) == (2, True)


async def test_an_activation_ends_the_doubt_in_a_state_that_others_could_write(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, cut: list[str]
) -> None:
    """The file brings the pin again. Afterwards no file is open to others, and the agent starts."""
    await run(state, tpm, file)
    cut.append("after node.activation.prove")
    with pytest.raises(CutOffError):
        await run(state, tpm, file)
    cut.clear()
    for path in (state.directory, *state.directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    with pytest.raises(StateUnsafe, match="the pin"):
        load_licence(state)
    restarted = State(state.directory)
    with restarted.owned():
        licence = await run(restarted, tpm, file)
        assert licence.verdict().gate_open
        assert load_licence(restarted, ours=True).verdict().state == "active"
        restarted.inspect()
    named = {path: path.stat().st_mode & 0o022 for path in state.directory.rglob("*") if "g-1" not in path.parts}
    assert not [path for path, mode in named.items() if mode]


async def test_an_interrupted_activation_continues_after_damage(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, cut: list[str]
) -> None:
    await run(state, tpm, file)
    cut.append("after node.activation.prove")
    with pytest.raises(CutOffError):
        await run(state, tpm, file)
    cut.clear()
    (state.identities.generation_dir(1) / "identity.json").write_bytes(b"torn")
    assert (await run(state, tpm, file)).identity.generation == fabric.confirmed == 2


async def test_a_wrong_pin_opens_no_connection(
    state: State, tpm: Tpm, tmp_path: Path, repository: Repository, fabric: Fabric
) -> None:
    file = write_activation_file(tmp_path / "wrong.json", repository.url, TrustPin(1, "0" * 64))
    with pytest.raises(TrustError) as caught:
        await run(state, tpm, file)
    assert (caught.value.exit, fabric.handshakes) == (Exit.VERIFICATION, [])


async def test_an_activation_without_a_cloud_stores_nothing(state: State, tpm: Tpm, file: Path, fabric: Fabric) -> None:
    fabric.answers["/v1/activations"] = always(503)
    with pytest.raises(CloudUnreachable):
        await run(state, tpm, file)
    assert state.identities.load_activation() is None


async def test_no_power_cut_in_an_activation_leaves_a_lease_without_its_floor(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, tmp_path: Path
) -> None:
    """A machine whose power is cut at any point, and that starts without the cloud, is not `stale`."""
    forget_floors(tpm.tcti)
    port = Tpm(tpm.tcti)
    cuts: list[tuple[str, Path, NvCounter | None]] = []

    def hook(name: str, stage: faults.Stage) -> None:
        # Before the counter there is no floor. The state before a step is that after the step before it.
        if stage == "before" or not (cuts or name == "node.floor.establish"):
            return
        copy = tmp_path / f"cut-{len(cuts)}"
        shutil.copytree(state.directory, copy)
        held = off_loop(lambda: port.call(lambda esys: counter.find(esys, f"{DOMAIN}/{NODE}")))
        cuts.append((name, copy, held))

    with hooked(hook):
        await run(state, tpm, file)
    await port.aclose()
    shown = {}
    for number, (point, copy, held) in enumerate(cuts):
        check = hardware(ours=True)
        check._counter = held
        with suppress(NotActivated):
            licence = State(copy).load_licence(check, machine_clocks())
            shown[number, point] = licence.verdict().state
    assert set(shown.values()) == {"pending", "active"}, shown
    offered = fabric.proofs[-1].floor
    assert isinstance(offered, NvCounter), "the session before the confirmation names the counter"
    points = [point for point, _, _ in cuts]
    assert points.index("node.floor.count") < points.index("node.confirm.send")
    assert "T-99" not in state.floors.status().undefended


async def test_a_floor_record_that_is_not_complete_is_said(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activation is valid. The machine must reach the cloud once more before it works offline."""

    def full(*_: object) -> dict[Path, StateError]:
        return {path: DiskFull(path) for path in state.floors.store.paths}

    monkeypatch.setattr(FloorStore, "write", full)
    said: list[str] = []
    assert (await activate(state, tpm, read_activation_file(file), utc_now, said.append)).verdict().gate_open
    assert "the floor record is not complete" in said[-1]


async def test_the_log_has_no_secret(
    state: State, tpm: Tpm, file: Path, fabric: Fabric, caplog: pytest.LogCaptureFixture
) -> None:
    """At the most verbose level, of our loggers and of the libraries'."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    await activate(state, tpm, read_activation_file(file), utc_now, said.append)
    text = "\n".join([caplog.text, *said])
    assert "127.0.0.1" in text
    assert CODE[4:] not in text
    assert "PRIVATE KEY" not in text
    bodies = [str(json.loads(request.body).get("secret", "")) for request in fabric.requests if request.body]
    secrets = [secret for secret in bodies if secret]
    assert secrets
    assert not [secret for secret in (*secrets, fabric.statement) if secret in text]
