"""The state directory: which generation a start uses, and which damage stops the start."""

import os
import shutil
from functools import partial
from pathlib import Path

import msgspec
import pytest

from node.disk import calls
from node.disk.files import encode_state, remove_directory, remove_file, write_atomic
from node.disk.identity import Identity, _CurrentFile
from node.disk.pending import PendingRenewal
from node.errors import NodeError, StateDamaged, StateError, StateUnreadable, StateUnsafe
from node.hwbind import counter, keys
from node.hwbind.succession import Succession, record_succession
from node.hwbind.tpm import Tpm
from node.licensing import floors
from node.licensing.boot_time import machine_clocks
from node.licensing.store import StatementFile
from node.state import CONDITION_CURRENT, CONDITION_OPEN, CONDITION_PENDING, NotActivated, State
from protocol.evidence import NvCounter
from protocol.ids import NodeId, NodeSpiffeId, RenewalId
from protocol.signed.envelope import assemble, key_id
from tests.node.conftest import Machine
from tests.node.shells import apply, hardware, identity, install, load_licence, trust_of
from tests.node.state_faults import CODES, Fault, FaultyStart
from tests.off_loop import off_loop
from tests.simulators.fabric import DOMAIN, NODE, TENANT, Fabric, utc_now


def codes(state: State) -> list[str]:
    return [condition.code for condition in state.conditions.current()]


def in_use(state: State) -> tuple[int, bool, str]:
    licence = load_licence(state, ours=True)
    return licence.identity.generation, licence.confirmed, licence.verdict().state


async def test_another_key_beside_the_certificate_is_found(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """This TPM can load the key, but the certificate is for another key. The start refuses it."""
    stored = state.identities.load(1)
    stranger = await tpm.run(keys.create_node_key)
    shutil.rmtree(state.identities.generation_dir(1))
    (state.directory / "current.json").unlink()
    state.identities.save_generation(msgspec.structs.replace(stored, node_key=stranger))
    state.identities.switch_to(1)
    with pytest.raises(StateDamaged, match="not the certificate of this node"):
        load_licence(state)


def test_nothing_to_run_as(tmp_path: Path) -> None:
    with pytest.raises(NotActivated) as caught:
        load_licence(State(tmp_path))
    assert isinstance(caught.value, NodeError)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("call", "name"), [("open", "current.json"), ("open", "identity"), ("listdir", "identity")])
def test_only_a_confirmed_absence_is_unactivated(tmp_path: Path, call: str, name: str, code: int) -> None:
    def fail(made: str, path: str) -> None:
        if (made, path) == (call, str(tmp_path / name)):
            raise OSError(code, os.strerror(code))

    (tmp_path / "identity").mkdir(mode=0o700)
    with calls.hooked(fail), pytest.raises(StateError) as caught:
        load_licence(State(tmp_path))
    assert isinstance(caught.value, StateUnreadable | StateDamaged)


async def test_a_pending_generation_replaces_a_revoked_one(fabric: Fabric, state: State, machine: Machine) -> None:
    apply(load_licence(state), fabric, fabric.revocation())
    assert load_licence(state).revoked
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    licence = load_licence(state)
    assert (licence.identity.generation, licence.confirmed, licence.verdict().state) == (2, False, "pending")


def make_stray(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "link":
        path.symlink_to("g-1")
    else:
        path.mkdir(mode=0 if kind == "closed" else 0o700)
    if kind == "junk":
        (path / "identity.json").write_bytes(b"{}")


@pytest.mark.parametrize("stray", ["empty", "file", "link", "closed", "junk"])
async def test_a_stray_generation_stops_neither_a_start_nor_a_waiting_generation(
    fabric: Fabric, state: State, machine: Machine, stray: str
) -> None:
    path = state.directory / "identity" / "g-99"
    make_stray(path, stray)
    assert in_use(state) == (1, True, "active")
    assert codes(state) == [CONDITION_PENDING]
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    with state.owned():
        waiting = state.pending(trust_of(fabric), 1)
    assert waiting is not None
    assert waiting.generation == 2
    remove_file(path) if stray in ("file", "link") else remove_directory(path)
    assert state.pending(trust_of(fabric), 1) == waiting
    assert codes(state) == []


def tear(path: Path, damage: str) -> None:
    if damage == "open":
        path.chmod(0o666)
    elif damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "torn" else b"")


@pytest.mark.parametrize("damage", ["torn", "empty", "directory", "open"])
async def test_signed_statements_replace_a_torn_record(fabric: Fabric, state: State, damage: str) -> None:
    path = state.directory / "current.json"
    tear(path, damage)
    assert in_use(state) == (1, True, "active")
    assert CONDITION_CURRENT in codes(state)
    assert state.pending(trust_of(fabric), 1) is None
    assert CONDITION_CURRENT in codes(state)
    if damage != "directory":
        with state.owned():
            assert state.pending(trust_of(fabric), 1) is None
        assert state.identities.current_generation() == 1
        assert CONDITION_CURRENT not in codes(state)


async def test_a_torn_record_never_leads_to_a_lower_generation(fabric: Fabric, state: State, machine: Machine) -> None:
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    licence = load_licence(state)
    assert licence.identity.generation == 1
    second = state.pending(trust_of(fabric), 1)
    assert second is not None
    apply(
        state.licence_of(second, licence.trust, licence._hardware, confirmed=False),
        fabric,
        fabric.lease(2),
    )
    # Interrupted between the statement and the switch: the lease says that the cloud has confirmed the generation.
    assert in_use(state) == (2, True, "active")
    with state.owned():
        state.pending(trust_of(fabric), 2)
    assert state.identities.current_generation() == 2
    (state.directory / "current.json").write_bytes(b"")
    assert in_use(state) == (2, True, "active")
    (state.directory / "licence/g-2/statement.json").write_bytes(b"torn")
    assert in_use(state) == (2, True, "active"), "the copy of the statement"
    state.licences.copy_path(2).write_bytes(b"torn")
    assert in_use(state) == (2, True, "stale")
    apply(load_licence(state), fabric, fabric.revocation(2))
    assert in_use(state) == (2, True, "revoked")


def open_everything(directory: Path) -> None:
    """The effect of `chmod -R a+rwX`, and then of `chmod go-w` on the top directory."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    directory.chmod(0o755)


@pytest.mark.parametrize("planted_by", [None, 12345], ids=["in place", "another user's files"])
async def test_a_forged_trust_in_an_open_state_gives_no_lease(
    tmp_path: Path, fabric: Fabric, state: State, machine: Machine, planted_by: int | None
) -> None:
    """Another user plants a trust with keys of his own, and a lease that these keys signed."""
    open_everything(state.directory)
    forger = Fabric()
    forged = install(tmp_path / "forged", forger, machine.ak, machine.node_key, forger.lease(1, entitlements=("all",)))
    assert in_use(forged) == (1, True, "active")
    for source in sorted(path for path in forged.directory.rglob("*") if path.is_file()):
        target = state.directory / source.relative_to(forged.directory)
        if planted_by is not None and os.geteuid() == 0:
            target.unlink(missing_ok=True)
            target.write_bytes(source.read_bytes())
            os.chown(target, planted_by, planted_by)
            target.chmod(0o600)
        else:
            target.write_bytes(source.read_bytes())
    for _ in range(3):  # The first start removes permissions. Later starts must refuse as well.
        restarted = State(state.directory)
        with restarted.owned(), pytest.raises(StateUnsafe, match="the pin") as caught:
            load_licence(restarted)
        assert "cascadia activate" in caught.value.next
        assert CONDITION_OPEN in codes(restarted)


async def test_open_files_of_an_identity_are_verified_and_written_again(fabric: Fabric, state: State) -> None:
    home = state.identities.generation_dir(1)
    stored = state.identities.load(1)
    for path in home.iterdir():
        path.chmod(0o666)
    home.chmod(0o777)
    assert in_use(state) == (1, True, "active")
    with state.owned():
        assert in_use(state) == (1, True, "active")
    assert CONDITION_OPEN in codes(state)
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}
    assert home.stat().st_mode & 0o022 == 0
    assert state.identities.load(1) == stored


async def test_a_forged_identity_in_open_files_is_refused(fabric: Fabric, state: State, machine: Machine) -> None:
    """The certificate names the node and the key, but another CA signed it."""
    forged = identity(Fabric(), machine.ak, machine.node_key)
    shutil.rmtree(state.identities.generation_dir(1))
    (state.directory / "current.json").unlink()
    state.identities.save_generation(forged)
    state.identities.switch_to(1)
    assert load_licence(state).identity == forged
    (state.identities.generation_dir(1) / "device.pem").chmod(0o666)
    with state.owned(), pytest.raises(StateUnsafe, match="not from the cloud"):
        load_licence(state)


async def test_open_directories_and_signed_files_stop_nothing(fabric: Fabric, state: State) -> None:
    for path in (state.directory, *state.directory.rglob("*")):
        if path.is_dir():
            path.chmod(0o777)
    (state.directory / "licence/g-1/statement.json").chmod(0o666)
    with state.owned():
        assert in_use(state) == (1, True, "active")
    assert codes(state) == [CONDITION_OPEN]
    assert not [path for path in state.directory.rglob("*") if path.stat().st_mode & 0o022]


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True], ids=["intact record", "torn record"])
async def test_a_call_that_fails_stops_no_start_for_good(fabric: Fabric, state: State, torn: bool) -> None:
    """Each kind of call on each file fails once; the codes take turns. The drill `state-faults` has the whole table."""
    start = FaultyStart(state, trust_of(fabric), torn=torn)
    made = start.calls()
    kinds = {call.split()[0] for call in made}
    assert kinds >= {"open", "read", "fstat", "listdir", "flock"}
    assert not torn or kinds >= {"write", "fsync", "fchmod", "rename"}
    first = {call: number for number, call in reversed(list(enumerate(made, start=1)))}
    faults = [
        Fault(number, call, CODES[at % len(CODES)])
        for at, (call, number) in enumerate(sorted(first.items())[:: 2 if torn else 3])
    ]
    assert [finding for fault in faults if (finding := start.finding(fault))] == []
    assert start.attempt() == ("active", True)


# A higher, confirmed generation voids the lower ones


def point_at(state: State, generation: int) -> None:
    """What root can do: make another generation the current one, with a checksum that fits."""
    write_atomic(state.directory / "current.json", encode_state(_CurrentFile(generation=generation)))


def put_back_lease(state: State, fabric: Fabric) -> None:
    """An undamaged, unexpired lease of generation 1. The agent had removed it."""
    path = state.licences.statement_path(1)
    token = fabric.lease(1)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kid = key_id(fabric.keys["lease"].public_key())
    path.write_bytes(encode_state(StatementFile(kid=kid, token=token, received_at=utc_now())))


def second_generation(state: State, fabric: Fabric, machine: Machine) -> None:
    """Generation 2 as an activation makes it: stored, confirmed, with a lease."""
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    pending = state.identities.pending()
    assert pending is not None
    fabric.confirmed = 2
    licence = state.licence_of(pending, load_licence(state).trust, hardware(), confirmed=False)
    apply(licence, fabric, fabric.lease(2))
    state.identities.switch_to(2)


@pytest.mark.parametrize("kept_lease", [False, True], ids=["removed", "lease put back"])
@pytest.mark.parametrize("identity_of_2", [True, False], ids=["with identity", "without identity"])
@pytest.mark.parametrize(
    ("word", "states"),
    [("lease", ("active", "stale")), ("suspension", ("suspended", "stale")), ("revocation", ("revoked", "revoked"))],
)
async def test_current_json_does_not_bring_back_a_lower_generation(
    fabric: Fabric,
    state: State,
    machine: Machine,
    word: str,
    states: tuple[str, str],
    identity_of_2: bool,
    kept_lease: bool,
) -> None:
    second_generation(state, fabric, machine)
    token = {"lease": fabric.lease, "suspension": fabric.suspension, "revocation": fabric.revocation}[word]()
    apply(load_licence(state), fabric, token)
    point_at(state, 1)
    if kept_lease:
        put_back_lease(state, fabric)
    if not identity_of_2:
        shutil.rmtree(state.identities.generation_dir(2))
    licence = load_licence(State(state.directory), ours=True)
    verdict = licence.verdict()
    assert verdict.state == states[0 if identity_of_2 else 1]
    assert verdict.gate_open == (verdict.state == "active" and licence.identity.generation == 2)
    if kept_lease or word == "lease":
        assert licence.snapshot().offline_bound is not None


@pytest.mark.parametrize("remains", ["tombstone", "statement", "copy"])
async def test_one_record_of_the_higher_generation_is_enough(
    fabric: Fabric, state: State, machine: Machine, remains: str
) -> None:
    second_generation(state, fabric, machine)
    apply(load_licence(state), fabric, fabric.revocation(2))
    point_at(state, 1)
    put_back_lease(state, fabric)
    paths = {
        "tombstone": state.licences.tombstone_path(2),
        "statement": state.licences.statement_path(2),
        "copy": state.licences.copy_path(2),
    }
    for name, path in paths.items():
        if name != remains:
            path.unlink()
    assert load_licence(State(state.directory), ours=True).verdict().state == "revoked"


async def test_the_offline_bound_counts_what_root_could_bring_back(
    fabric: Fabric, state: State, machine: Machine
) -> None:
    """With every record of generation 2 deleted, generation 1 would run to the end of its lease."""
    second_generation(state, fabric, machine)
    apply(load_licence(state), fabric, fabric.suspension())
    assert load_licence(state).snapshot().offline_bound is None
    put_back_lease(state, fabric)
    bound = load_licence(state).snapshot().offline_bound
    assert bound is not None
    for path in (state.licences.statement_path(2), state.licences.copy_path(2)):
        path.unlink()
    point_at(state, 1)
    licence = load_licence(state, ours=True)
    assert licence.lease is not None
    assert (licence.verdict().gate_open, licence.lease.terminate_at) == (True, bound)


async def test_what_does_not_prove_a_confirmation_voids_nothing(fabric: Fabric, state: State, machine: Machine) -> None:
    """A stored generation with its certificate, `current.json`, and the revocation of a lapsed activation."""
    state.identities.save_generation(identity(fabric, machine.ak, machine.node_key, 2))
    assert load_licence(state, ours=True).verdict().gate_open
    pending = state.identities.load(2)
    licence = state.licence_of(pending, load_licence(state).trust, hardware(), confirmed=False)
    apply(licence, fabric, fabric.revocation(2, "superseded"))
    licence = load_licence(state, ours=True)
    assert (licence.identity.generation, licence.verdict().gate_open) == (1, True)
    point_at(state, 2)
    assert not load_licence(state, ours=True).verdict().gate_open
    point_at(state, 1)
    assert load_licence(state, ours=True).verdict().gate_open


async def test_a_crash_before_the_switch_is_repaired_without_the_cloud(
    fabric: Fabric, state: State, machine: Machine
) -> None:
    second_generation(state, fabric, machine)
    point_at(state, 1)
    again = State(state.directory)
    licence = load_licence(again, ours=True)
    assert (licence.identity.generation, licence.confirmed, licence.verdict().gate_open) == (2, True, True)
    with again.owned():
        again.pending(trust_of(fabric), 2)
    assert again.identities.current_generation() == 2
    (state.directory / "current.json").unlink()
    licence = load_licence(State(state.directory), ours=True)
    assert (licence.identity.generation, licence.confirmed, licence.verdict().gate_open) == (2, True, True)


OTHER_NODE = NodeId("node_0" + "2" * 25)
COUNTER = NvCounter(0x01A00001, counter.name_of(0x01A00001, f"{DOMAIN}/{NODE}"), 7)


def write_floors(state: State, tpm: Tpm, key: keys.WrappedKey) -> None:
    """The floor record of this node at the value of COUNTER, signed by `key`."""
    of = state.identities.load(1)
    before = msgspec.structs.replace(COUNTER, value=COUNTER.value - 1)
    record = floors.next_record(
        None, holder=of.holder, counter=before, entries=(), boot="boot", now=utc_now(), time=None
    )
    signed = floors.signing_input(record, key.public_key())
    signature = off_loop(lambda: tpm.call(lambda esys: keys.sign(esys, key, signed)))
    assert not state.floors.store.write(assemble(signed, signature))


def rekey_under_way(state: State, new: keys.WrappedKey, succession: Succession | None) -> None:
    state.identities.save_renewal(
        PendingRenewal(
            generation=1,
            renewal=RenewalId("ren_0" + "1" * 25),
            node_key=new,
            proof=b"{}",
            succession=succession or msgspec.UNSET,
        )
    )


async def test_a_key_that_only_a_file_names_signs_no_floor_record(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """The author of a file knows the counter's value from the old record. He can name a key and sign with it."""
    stranger = await tpm.run(keys.create_node_key)
    write_floors(state, tpm, stranger)
    of_himself = await tpm.run(partial(record_succession, former=stranger, new=stranger))
    forged = msgspec.structs.replace(of_himself, former=machine.node_key.public)
    for succession in (None, of_himself, forged):
        rekey_under_way(state, stranger, succession)
        load_licence(state)
        assert state.floors.place is None
        assert "no key of this node has signed it" in state.floors._found.damaged[0]


async def test_after_a_rekey_that_was_cut_off_the_record_of_either_key_fits(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """The record and the identity on the disk change one after the other, and each of them can fail alone."""
    former, new = machine.node_key, await tpm.run(keys.create_node_key)
    succession = await tpm.run(partial(record_succession, former=former, new=new))
    write_floors(state, tpm, new)
    rekey_under_way(state, new, succession)
    load_licence(state)
    assert state.floors.place == COUNTER.index, "the identity has the former key, and the record the new one"
    write_floors(state, tpm, former)
    chain = identity(fabric, machine.ak, new).chain
    state.identities.replace_device_chain(1, chain, new, None, succession)
    state.identities.clear_renewal()
    load_licence(state)
    assert state.floors.place == COUNTER.index, "the identity has the new key, and the record the former one"


def of_another_node(state: State, fabric: Fabric, machine: Machine, key: keys.WrappedKey) -> Identity:
    """Generation 2, of another node, with a certificate of the cloud."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.simulators.fabric.NODE_URI", str(NodeSpiffeId(DOMAIN, TENANT, OTHER_NODE)))
        other = msgspec.structs.replace(identity(fabric, machine.ak, key, 2), node=OTHER_NODE)
    state.identities.save_generation(other)
    return other


async def test_an_activation_as_another_node_leaves_the_floor_in_force(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    """The confirmation of the new node may fail for days. Meanwhile the present node runs on its lease."""
    write_floors(state, tpm, machine.node_key)
    check = hardware(ours=True)
    check._counter = COUNTER
    licence = state.load_licence(check, machine_clocks())
    assert licence.verdict().gate_open
    other = of_another_node(state, fabric, machine, await tpm.run(keys.create_node_key))
    pending = state.licence_of(other, licence.trust, check, confirmed=False)
    assert pending.verdict().state == "pending"
    assert (licence.verdict().gate_open, state.floors.status().record_state) == (True, "current")
    expected = check._counter_place
    pending.put_in_force()
    assert check._counter_place != expected
    assert state.floors.place is None, "the new node has no record yet"


async def test_the_key_of_another_node_signs_no_floor_record(
    fabric: Fabric, state: State, tpm: Tpm, machine: Machine
) -> None:
    stranger = await tpm.run(keys.create_node_key)
    of_another_node(state, fabric, machine, stranger)
    write_floors(state, tpm, stranger)
    assert state.floors.store.load(state.identities.load(1).holder, stranger.public_key()).records
    load_licence(state)
    assert state.floors.place is None
    assert state.floors._found.damaged
