"""`cloud.fabric.licensing.key_returns`: sequences of machines that share a TPM's state from before a rekey."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from cloud.fabric.licensing import holders as judging
from cloud.fabric.licensing.former_keys import FormerKey, find, replaced, returning
from cloud.fabric.licensing.holders import judge, settle
from cloud.fabric.licensing.key_returns import KeyReturn, judge_return
from cloud.fabric.licensing.known_holders import Arrival, Holders, SessionJudgement
from cloud.fabric.licensing.renewal_tokens import make_token, read_token
from cloud.fabric.licensing.session_evidence import SessionEvidence
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.ids import NodeId

START = datetime(2026, 11, 30, 12, tzinfo=UTC)
MAC = bytes(32)
NODE = NodeId("node_01jd8xk3v5e2r9qz7w4m6n8p0a")


class Machine:
    """A machine: the key of its certificate, its token, and the clock of its TPM."""

    def __init__(self) -> None:
        self.key, self.token, self.clock = b"key 0", "", 1_000_000

    def copy(self) -> "Machine":
        twin = Machine()
        twin.__dict__.update(self.__dict__)
        return twin


class Cloud:
    """The generation as Fabric stores it: the key, its former keys, and the holders."""

    def __init__(self, *, repairs: int = 1, gap: float = 3600, by_chip: bool = True) -> None:
        self.by_chip = by_chip
        self.key, self.former = b"key 0", tuple[FormerKey, ...]()
        self.holders: Holders | None = None
        self.repairs, self.gap, self.now = repairs, gap, START
        self._numbers = itertools.count(1)

    @property
    def known(self) -> Holders:
        assert self.holders is not None
        return self.holders

    def is_suspected(self, cause: str) -> bool:
        return self.known.cause == cause

    def _evidence(self, key: bytes, clock: ClockInfo | None) -> SessionEvidence:
        return SessionEvidence(self.now, self.now, clock, sha256_hex(key)[:16], "f", "192.0.2.1", "1")

    def session(self, machine: Machine) -> str:
        """A session. With a key that is not in force it is refused before it is judged."""
        self.now += timedelta(seconds=self.gap)
        machine.clock += int(self.gap * 1000)
        if machine.key != self.key:
            return "refused"
        proof = f"proof {next(self._numbers)}"
        token = read_token(MAC, NODE, 1, machine.token) if machine.token else None
        evidence = self._evidence(machine.key, ClockInfo(machine.clock, 1, 0, safe=True))
        arrival = Arrival(sha256_hex(proof.encode())[:8], evidence, token, self.repairs > 0)
        judgement = judge(self.holders, arrival)
        self._store(judgement)
        if judgement.gets_token:
            current = self.known.current
            number = judging.next_number(self.known)
            made = make_token(MAC, NODE, 1, chain=current.chain, number=number, parent=current.base, proof=proof)
            machine.token = made.text
        return judgement.outcome

    def _store(self, judgement: SessionJudgement) -> None:
        if judgement.outcome == "restored":
            self.repairs -= 1
        self.holders = judgement.holders

    def renew(self, machine: Machine, *, rekey: bool = False, lost: bool = False) -> str:
        """A renewal with fresh evidence, for the machine's key or a new one. With `lost` its answer does not arrive."""
        self.now += timedelta(seconds=self.gap)
        number = next(self._numbers)
        key = f"key {number}".encode() if rekey else machine.key
        former = returning(self.former, sha256_hex(self.key), sha256_hex(key), sha256_hex(machine.key))
        outcome = "own"
        if former is not None:
            evidence = self._evidence(machine.key, None)
            judgement = judge_return(
                self.holders,
                KeyReturn(
                    f"{number:08x}",
                    former,
                    evidence,
                    sha256_hex(key)[:16],
                    self.by_chip,
                    self.by_chip and self.repairs > 0,
                ),
            )
            self._store(judgement)
            outcome = judgement.outcome
            if not judgement.gets_token:
                return outcome
        if key != self.key:
            self.former = replaced(self.former, self.key, key, self.now, displaced=former is not None)
        self.key = key
        if not lost:
            machine.key = key
        return outcome

    def contact(self, machine: Machine) -> str:
        """As the agent does: a session, and after its refusal a renewal and another session."""
        outcome = self.session(machine)
        if outcome != "refused":
            return outcome
        outcome = self.renew(machine)
        if machine.key != self.key:
            return outcome
        return f"{outcome}, {self.session(machine)}"

    def settle(self, keep: str) -> None:
        self.now += timedelta(seconds=self.gap)
        self.holders = settle(self.known, keep, sha256_hex(keep.encode())[:8], self.now)


def pair(**options: float) -> tuple[Cloud, Machine, Machine]:
    """A cloud, a machine that has rekeyed, and a copy from before."""
    cloud = Cloud(repairs=int(options.get("repairs", 1)), gap=options.get("gap", 3600))
    original = Machine()
    assert [cloud.contact(original) for _ in range(2)] == ["normal", "normal"]
    twin = original.copy()
    assert cloud.renew(original, rekey=True) == "own"
    assert cloud.contact(original) == "normal"
    return cloud, original, twin


GAPS = (2.0, 3600.0)
"""Seconds between two contacts: within the tolerance of two clocks, and beyond it."""


@pytest.mark.parametrize("gap", GAPS)
def test_a_machine_put_back_to_before_a_rekey_is_repaired_and_goes_on(gap: float) -> None:
    cloud, _, restored = pair(gap=gap)
    assert [cloud.contact(restored) for _ in range(3)] == ["restored, normal", "normal", "normal"]
    assert (cloud.known.cause, cloud.known.restored, cloud.repairs) == ("", 1, 0)
    assert [each.state for each in cloud.known.all] == ["current", "left"]


@pytest.mark.parametrize("gap", GAPS)
def test_a_copy_from_before_a_rekey_is_caught_at_the_renewal_of_the_original(gap: float) -> None:
    cloud, original, twin = pair(gap=gap)
    assert cloud.contact(twin) == "restored, normal"
    assert cloud.session(original) == "refused"
    assert cloud.renew(original) == "suspected"
    assert cloud.is_suspected("former-key")
    assert [each.state for each in cloud.known.all] == ["current", "older"]
    assert {each.last.key for each in cloud.known.all[:2]} == {sha256_hex(each.key)[:16] for each in (original, twin)}
    for _ in range(6):
        assert (cloud.contact(original), cloud.contact(twin)) == ("normal", "older")
    assert cloud.known.current.last.key == sha256_hex(original.key)[:16]


@pytest.mark.parametrize("gap", GAPS)
def test_a_copy_that_rekeys_at_once_is_caught_too(gap: float) -> None:
    cloud, original, twin = pair(gap=gap)
    assert cloud.renew(twin, rekey=True) == "restored"
    assert cloud.renew(twin, rekey=True) == "own"
    assert cloud.contact(twin) == "normal"
    for _ in range(4):
        assert cloud.renew(twin, rekey=True) == "own"
    assert cloud.contact(original) == "suspected, normal"
    assert (cloud.contact(twin), cloud.contact(original)) == ("older", "normal")


def test_a_copy_without_a_repair_left_waits_and_the_original_that_goes_on_shows_two() -> None:
    cloud, original, twin = pair(repairs=0)
    assert [cloud.contact(twin) for _ in range(2)] == ["unapproved", "older"]
    assert cloud.is_suspected("restored")
    assert cloud.contact(original) == "suspected"
    assert cloud.is_suspected("former-key")
    assert (cloud.contact(twin), cloud.contact(original)) == ("older", "normal")


def test_the_original_goes_on_although_the_copy_asks_while_its_session_is_on_the_way() -> None:
    cloud, original, twin = pair(repairs=0)
    assert cloud.contact(twin) == "unapproved"
    asked = cloud.now + timedelta(seconds=1)
    assert [cloud.contact(twin) for _ in range(3)] == ["older"] * 3
    evidence = SessionEvidence(cloud.now, asked, None, sha256_hex(original.key)[:16], "f", "192.0.2.1", "1")
    token = read_token(MAC, NODE, 1, original.token)
    judgement = judge(cloud.holders, Arrival("0badcafe", evidence, token))
    assert (judgement.outcome, judgement.holders.cause) == ("suspected", "former-key")


def test_a_restored_machine_that_an_operator_approves_goes_on() -> None:
    cloud, original, restored = pair(repairs=0)
    assert cloud.contact(restored) == "unapproved"
    cloud.settle(cloud.known.all[1].id)
    assert (cloud.known.cause, cloud.known.settled_at) == ("", None)
    assert [cloud.contact(restored) for _ in range(2)] == ["normal, normal", "normal"]
    # The machine that was thought to be gone goes on.
    assert cloud.contact(original) == "suspected, normal"


def test_a_restored_machine_that_an_operator_does_not_approve_is_shut_out() -> None:
    cloud, original, restored = pair(repairs=0)
    assert cloud.contact(restored) == "unapproved"
    cloud.settle(cloud.known.current.id)
    assert (cloud.contact(restored), cloud.contact(original)) == ("shut", "normal")


@pytest.mark.parametrize("keep_original", [True, False])
def test_an_operator_keeps_one_of_the_two(keep_original: bool) -> None:
    cloud, original, twin = pair()
    for each in (twin, original, twin):
        cloud.contact(each)
    kept, other = (original, twin) if keep_original else (twin, original)
    key = sha256_hex(kept.key)[:16]
    cloud.settle(next(each.id for each in cloud.known.all if each.last.key == key))
    assert cloud.contact(kept) == ("normal" if keep_original else "normal, normal")
    for _ in range(3):
        assert (cloud.contact(other), cloud.contact(kept)) == ("shut", "normal")
    assert cloud.known.cause == ""


def test_a_third_copy_after_the_settling_is_shut_out_and_a_later_backup_is_not() -> None:
    cloud, original, twin = pair()
    for each in (twin, original, twin):
        cloud.contact(each)
    cloud.settle(cloud.known.current.id)
    cloud.contact(original)
    assert cloud.renew(original, rekey=True) == "own"
    assert cloud.contact(original) == "normal"
    backup = original.copy()
    assert cloud.renew(original, rekey=True) == "own"
    cloud.contact(original)
    cloud.repairs = 1
    assert cloud.contact(twin) == "shut"
    assert cloud.contact(backup) == "restored, normal"


@pytest.mark.parametrize("repairs", [0, 1])
def test_a_rekey_whose_answer_was_lost_is_neither_restored_nor_a_clone(repairs: int) -> None:
    """The node lost its stored proof too, so it shows its former key. It never used the new one."""
    cloud, machine = Cloud(repairs=repairs), Machine()
    cloud.contact(machine)
    for _ in range(5):
        assert cloud.renew(machine, rekey=True, lost=True) in ("own", "normal")
        assert cloud.contact(machine) == "normal, normal"
    assert (cloud.known.cause, cloud.known.restored, cloud.repairs) == ("", 0, repairs)
    assert len(cloud.known.all) == 1


def test_a_lost_answer_of_a_return_costs_one_repair() -> None:
    cloud, _, restored = pair()
    for _ in range(3):
        assert cloud.session(restored) == ("refused" if cloud.key != restored.key else "normal")
        cloud.renew(restored, lost=True)
    assert cloud.contact(restored) == "normal"
    assert cloud.known.restored == 1


def test_the_original_goes_on_before_the_certificate_of_the_copy_is_issued() -> None:
    """The copy's renewal was accepted, and its key is not in force yet."""
    cloud, original, twin = pair()
    former = find(cloud.former, sha256_hex(twin.key))
    assert former is not None
    cloud.now += timedelta(hours=1)
    back = KeyReturn("0badcafe", former, cloud._evidence(twin.key, None), sha256_hex(twin.key)[:16])
    cloud.holders = judge_return(cloud.holders, back).holders
    assert cloud.session(original) == "suspected"
    assert cloud.known.current.last.key == sha256_hex(original.key)[:16]
    cloud.former = replaced(cloud.former, cloud.key, twin.key, cloud.now, displaced=True)
    cloud.key = twin.key
    assert cloud.session(twin) == "older"
    assert cloud.contact(original) == "normal, normal"
    assert (cloud.contact(twin), cloud.contact(original)) == ("older", "normal")


def test_a_session_that_was_asked_before_the_return_shows_nothing() -> None:
    cloud, original, twin = pair()
    asked = cloud.now + timedelta(minutes=1)
    assert cloud.renew(twin) == "restored"
    evidence = SessionEvidence(cloud.now, asked, None, sha256_hex(original.key)[:16], "f", "192.0.2.1", "1")
    judgement = judge(cloud.holders, Arrival("0badcafe", evidence))
    assert (judgement.outcome, judgement.holders) == ("late", cloud.holders)


def test_a_former_key_before_the_first_session() -> None:
    cloud, machine = Cloud(), Machine()
    cloud.renew(machine, rekey=True, lost=True)
    assert cloud.contact(machine) == "normal, normal"


def test_a_machine_without_a_tpm_is_accepted_with_a_former_key_after_an_operator_kept_it_only() -> None:
    """Also if no machine has used the new key yet: a person may have replaced the key to shut out a copy."""
    cloud, machine = Cloud(by_chip=False), Machine()
    cloud.contact(machine)
    copy = machine.copy()
    assert cloud.renew(machine, rekey=True) == "own"
    assert [cloud.contact(copy) for _ in range(3)] == ["unapproved", "older", "older"]
    assert len(cloud.known.all) == 2
    assert cloud.contact(machine) == "suspected"
    cloud.settle(cloud.known.all[1].id)
    assert [cloud.contact(copy) for _ in range(2)] == ["normal, normal", "normal"]
    assert cloud.contact(machine) == "shut"
