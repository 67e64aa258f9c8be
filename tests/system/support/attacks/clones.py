"""Rows: a machine is copied with its TPM, or put back: what the cloud sees, each policy, and the operator's settlement."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.system.support.attacks.site import Result, Seen, Site, judged, look
from tests.system.support.attacks.table import Attack
from tests.system.support.copies import Copies, activated, boot


def _forget(copies: Copies) -> None:
    for path in copies.machine.state.rglob("renewal-token*.json"):
        path.unlink()


def _suspected(copies: Copies, cause: str) -> None:
    case = copies.case()
    assert case is not None, "no clone is suspected"
    assert case["cause"] == cause, f"the cause is {case['cause']}, not {cause}"
    assert len(case["evidence"]) >= 2, "the evidence of one holder is missing"


def _not_suspected(copies: Copies) -> None:
    assert copies.case() is None, f"a clone is suspected: {copies.case()}"


def _interleaved(copies: Copies) -> Seen:
    """Both run from the copy on. The second refresh of the older copy is caught, and an operator keeps the original."""
    machine = copies.machine
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (machine, twin, machine):
            assert copies.session(each) == "active"
        _not_suspected(copies)
        copies.session(twin, "grace")
        seen = look(twin)
        _suspected(copies, "renewal-token")
        machine.wait_state("grace")
        assert machine.granted(), "the original stops"
        case = copies.case()
        assert case is not None
        current, older = case["evidence"]
        assert (current["state"], older["state"]) == ("current", "older")
        copies.cloud.run("node", "settle", copies.node, "--keep", current["id"])
        machine.wait_state("active")
        twin.wait_state("suspended")
        _not_suspected(copies)
        return seen


def _late_copy(copies: Copies) -> Seen:
    """The copy starts after three sessions of the original. The original's next session shows two machines."""
    snapshot = copies.snapshot("s")
    for _ in range(3):
        copies.session(copies.machine)
    with copies.copy(snapshot, "twin") as twin:
        boot(twin)  # the copy starts later than the original's sessions, and its TPM shows that
        assert copies.session(twin) == "active"
        _not_suspected(copies)
        copies.session(copies.machine, "grace")
        _suspected(copies, "renewal-token")
        copies.session(twin, "grace")
        return look(twin)


def _hidden_token(copies: Copies) -> Seen:
    """The copy has no token. The counts of its TPM are ahead of the original's."""
    snapshot = copies.snapshot("s")
    copies.session(copies.machine)
    with copies.copy(snapshot, "twin") as twin:
        for _ in range(3):
            boot(twin)
        for path in twin.state.rglob("renewal-token*.json"):
            path.unlink()
        assert copies.session(twin) == "active"
        copies.session(copies.machine, "grace", "active")
        _suspected(copies, "tpm-clock")
        copies.machine.wait_state("grace")
        return look(copies.machine)


def _both_suspended(copies: Copies) -> Seen:
    copies.cloud.run("tenant", "clone-policy", copies.tenant, "suspend-both")
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (copies.machine, twin, copies.machine):
            copies.session(each)
        assert copies.session(twin, "suspended") == "suspended"
        copies.machine.wait_state("suspended")
        case = copies.case()
        assert case is not None
        copies.cloud.run("node", "settle", copies.node, "--keep", case["evidence"][0]["id"])
        copies.machine.wait_state("active")
        copies.session(twin, "suspended")
        return look(twin)


def _kept_the_other(copies: Copies) -> Seen:
    """The operator keeps the older copy, and then corrects the choice."""
    with copies.copy(copies.snapshot("s"), "twin") as twin:
        for each in (copies.machine, twin, copies.machine):
            copies.session(each)
        copies.session(twin, "grace")
        case = copies.case()
        assert case is not None
        current, older = case["evidence"]
        copies.cloud.run("node", "settle", copies.node, "--keep", older["id"])
        twin.wait_state("active")
        assert copies.session(copies.machine, "suspended") == "suspended"
        copies.cloud.run("node", "settle", copies.node, "--keep", current["id"])
        copies.machine.wait_state("active")
        copies.session(twin, "suspended")
        return look(twin)


def _restored(copies: Copies) -> Seen:
    snapshot = copies.snapshot("s")
    for _ in range(2):
        copies.session(copies.machine)
    copies.put_back(snapshot)
    for _ in range(2):
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)
    assert copies.actions().count("node.restored") == 1, "the audit has no single entry of the restore"
    return look(copies.machine)


def _restored_every_night(copies: Copies) -> Seen:
    """The first restore is repaired. The second one keeps the dates of the lease until an operator approves it."""
    machine, snapshot = copies.machine, copies.snapshot("s")
    for restored in (False, True):
        if restored:
            copies.put_back(snapshot)
        for _ in range(2):  # after one session the token of the snapshot could be that of a lost answer
            assert copies.session(machine) == "active"
    ends = machine.ask("/v1/license")["lease"]["terminate_at"]
    copies.put_back(snapshot)
    copies.session(machine, "grace")
    seen = look(machine)
    _suspected(copies, "restored")
    assert machine.granted(), "the restored machine stops"
    assert machine.ask("/v1/license")["lease"]["terminate_at"] >= ends, "its lease ends earlier"
    used = copies.cloud.run("node", "show", copies.node)["repairs"]
    assert (used["used"], used["allowed"]) == (1, 1), f"the repairs are {used}"
    case = copies.case()
    assert case is not None
    copies.cloud.run("node", "settle", copies.node, "--keep", case["evidence"][1]["id"])
    assert copies.session(machine) == "active"
    _not_suspected(copies)
    actions = copies.actions()
    assert (actions.count("node.restored"), actions.count("node.restore_unapproved")) == (1, 1), actions
    return seen


def _before_a_rekey(copies: Copies) -> Seen:
    """The copy has the former key. The original's renewal shows both, whatever the time between their contacts."""
    machine = copies.machine
    snapshot = copies.snapshot("s")
    machine.up()
    machine.wait_state("active")
    machine.run("renew", "--rekey")
    with copies.copy(snapshot, "twin") as twin:
        boot(twin)
        assert copies.session(twin) == "active"
        _not_suspected(copies)
        copies.session(machine, "grace")
        _suspected(copies, "former-key")
        assert machine.granted(), "the original stops"
        copies.session(twin, "grace")
        seen = look(twin)
        for _ in range(3):
            assert copies.session(machine, "grace") == "grace"
        status = machine.ask("/v1/status")
        assert status["last_failure"] is None, f"the original is refused: {status['last_failure']}"
        case = copies.case()
        assert case is not None
        copies.cloud.run("node", "settle", copies.node, "--keep", case["evidence"][0]["id"])
        machine.wait_state("active")
        return seen


def _lost_token(copies: Copies) -> Seen:
    copies.machine.down()
    _forget(copies)
    for _ in range(2):
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)
    return look(copies.machine)


def _power_cuts(copies: Copies) -> Seen:
    for _ in range(3):
        copies.machine.kill()
        copies.machine.chip.stop()
        copies.machine.chip.start()
        copies.machine.up()
        copies.machine.wait_state("active")
    _not_suspected(copies)
    return look(copies.machine)


def _cloud_restarts(copies: Copies) -> Seen:
    for kill in (True, False, True):
        if kill:
            copies.cloud.kill()
        else:
            copies.cloud.down()
        copies.cloud.up()
        assert copies.session(copies.machine) == "active"
    _not_suspected(copies)
    return look(copies.machine)


ROWS: dict[str, Callable[[Copies], Seen]] = {
    "the copy and the original run from the copy on": _interleaved,
    "the copy starts late": _late_copy,
    "the copy hides its token": _hidden_token,
    "the copy goes on, policy suspend-both": _both_suspended,
    "the other machine is kept, then corrected": _kept_the_other,
    "one machine, put back": _restored,
    "a copy from before a rekey": _before_a_rekey,
    "one machine, put back every night": _restored_every_night,
    "one machine, its token is lost": _lost_token,
    "one machine, power cuts": _power_cuts,
    "one machine, the cloud is killed and restarted": _cloud_restarts,
}


def take(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take each row with a machine and a tenant of its own."""
    place = site.folder("clones")
    for number, attack in enumerate(attacks):
        directory = place / str(number)
        directory.mkdir()
        yield judged(attack, partial(_taken, attack, directory, site))


def _taken(attack: Attack, directory: Path, site: Site) -> Seen:
    with activated(directory, site.cloud, site.new_chip(directory / "chip", 0), attack.name) as copies:
        return ROWS[attack.name](copies)
