"""`cloud.fabric.licensing.holders`: one machine is never suspected, and two that share a TPM's state are."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.fabric.licensing import holders as judging
from cloud.fabric.licensing.holders import SPENT_MAX, judge, note_behind, settle, suspect
from cloud.fabric.licensing.known_holders import HOLDERS_MAX, Arrival, Holder, Holders, SessionJudgement
from cloud.fabric.licensing.renewal_tokens import NO_TOKEN, RenewalToken, make_token, read_token
from cloud.fabric.licensing.session_evidence import CLOCK_SAVED_MS, SessionEvidence, went_back
from protocol.encoding import sha256_hex
from protocol.evidence import ClockInfo
from protocol.ids import NodeId

START = datetime(2026, 11, 30, 12, tzinfo=UTC)
KEY = bytes(32)
NODE = NodeId("node_01jd8xk3v5e2r9qz7w4m6n8p0a")
HOUR_MS = 3_600_000


def evidence(clock: int = 0, reset: int = 1, restart: int = 0, *, at: float = 0, key: str = "k") -> SessionEvidence:
    when = START + timedelta(seconds=at)
    return SessionEvidence(when, when, ClockInfo(clock, reset, restart, safe=True), key, "f", "192.0.2.1", "1")


class Box:
    """A machine: its TPM's clock and counts, and the token on its disk."""

    def __init__(self) -> None:
        self.clock, self.reset, self.restart = 10 * HOUR_MS, 3, 0
        self.token = ""

    def copy(self) -> "Box":
        """Another machine with the same TPM state and disk."""
        twin = Box()
        twin.__dict__.update(self.__dict__)
        return twin

    def boot(self, *, clean: bool = True) -> None:
        """Restart the TPM. After a power cut its clock goes on at the value that it saved last."""
        self.reset += 1
        if not clean:
            self.clock -= self.clock % CLOCK_SAVED_MS


class Cloud:
    """The judgement over stored holders, with the tokens that it hands out."""

    def __init__(self) -> None:
        self.holders: Holders | None = None
        self.seconds = 0.0
        self._proofs = itertools.count()

    def proof(self, box: Box) -> tuple[str, Arrival]:
        proof = f"proof {next(self._proofs)}"
        token = read_token(KEY, NODE, 1, box.token) if box.token else None
        shown = evidence(box.clock, box.reset, box.restart, at=self.seconds)
        return proof, Arrival(sha256_hex(proof.encode())[:8], shown, token)

    def take(self, proof: str, arrival: Arrival) -> tuple[SessionJudgement, RenewalToken | None]:
        judgement = judge(self.holders, arrival)
        self.holders = judgement.holders
        if not judgement.gets_token:
            return judgement, None
        current = judgement.holders.current
        made = make_token(
            KEY,
            NODE,
            1,
            chain=current.chain,
            number=judging.next_number(judgement.holders),
            parent=current.base,
            proof=proof,
        )
        return judgement, made

    def session(self, box: Box, *, lost: bool = False, after: float = 3600) -> SessionJudgement:
        """One session, `after` seconds after the last. With `lost` its answer does not arrive."""
        self.seconds += after
        box.clock += int(after * 1000)
        judgement, made = self.take(*self.proof(box))
        if made is not None and not lost:
            box.token = made.text
        return judgement

    def outcomes(self, *boxes: Box) -> list[str]:
        return [self.session(box).outcome for box in boxes]

    @property
    def known(self) -> Holders:
        assert self.holders is not None
        return self.holders


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def box(cloud: Cloud) -> Box:
    """A machine that has opened three sessions."""
    made = Box()
    assert cloud.outcomes(made, made, made) == ["normal", "normal", "normal"]
    return made


ONCE = 2**32


@pytest.mark.parametrize(
    ("before", "now", "back"),
    [
        (evidence(1000), evidence(1000), False),
        (evidence(1000), evidence(2000), False),
        (evidence(100_000), evidence(40_000), False),
        (evidence(100_000), evidence(39_999), True),
        (evidence(CLOCK_SAVED_MS + 5, 1), evidence(5, 2), False),
        (evidence(CLOCK_SAVED_MS + 6, 1), evidence(5, 2), True),
        (evidence(CLOCK_SAVED_MS + 6, 1, 0), evidence(6, 1, 1), False),
        (evidence(0, 2), evidence(ONCE, 1), True),
        (evidence(0, 2, 1), evidence(ONCE, 2, 0), True),
        (evidence(0, 2, 9), evidence(0, 3, 0), False),
        (evidence(ONCE, 7, 3), evidence(0, 0, 0), True),
        (evidence(ONCE, 7, 3), evidence(0, 0, 0, key="a new key after a clear"), False),
    ],
    ids=[
        "same", "on", "within the tolerance", "beyond it", "unclean restart", "further than an unclean restart",
        "resumed", "fewer resets", "fewer restarts", "reset ends the restarts", "cleared, same key", "cleared, new key",
    ],
)  # fmt: skip
def test_the_clock_of_a_tpm(before: SessionEvidence, now: SessionEvidence, back: bool) -> None:
    assert went_back(before, now) is back


def test_a_lost_answer_is_no_clone(cloud: Cloud, box: Box) -> None:
    for _ in range(5):
        assert cloud.session(box, lost=True).outcome in ("normal", "repeated")
    assert cloud.outcomes(box, box, box) == ["repeated", "normal", "normal"]
    assert cloud.known.all == (cloud.known.current,)


def test_a_repeated_proof_gets_the_same_token(cloud: Cloud, box: Box) -> None:
    proof, arrival = cloud.proof(box)
    _, first = cloud.take(proof, arrival)
    again, second = cloud.take(proof, arrival)
    assert first == second
    assert again.outcome == "repeated"


def test_a_request_that_a_later_one_overtook_changes_nothing(cloud: Cloud, box: Box) -> None:
    """The first two requests lose their answers, and the cloud works on them after a third and a fourth."""
    slow, slower = cloud.proof(box), cloud.proof(box)
    assert cloud.outcomes(box, box) == ["normal", "normal"]
    before = cloud.holders
    for request in (slow, slower):
        judgement, made = cloud.take(*request)
        assert (judgement.outcome, made, cloud.holders) == ("late", None, before)
    assert cloud.outcomes(box) == ["normal"]


def test_two_replicas_whose_clocks_differ_answer_one_machine(cloud: Cloud, box: Box) -> None:
    """An agent restarts, and another replica answers. Its clock is behind, and it stores its change first."""
    stored = cloud.holders
    cloud.seconds += 60
    first, arrival = cloud.proof(box)
    _, made = cloud.take(first, arrival)
    assert made is not None
    box.token, cloud.holders = made.text, stored
    box.clock += 5000  # the clock of the other replica is five seconds behind, and three seconds have passed
    assert cloud.session(box, after=-2).outcome == "ahead"
    judgement, made = cloud.take(first, arrival)
    assert (judgement.outcome, judgement.holders.cause, made) == ("late", "", None)
    assert cloud.outcomes(box, box) == ["normal", "normal"]


@pytest.mark.parametrize("boots", [0, 1], ids=["with its disk alone", "with its TPM, and booted"])
def test_a_machine_put_back_within_seconds_is_no_overtaken_request(cloud: Cloud, box: Box, boots: int) -> None:
    """Its TPM shows that it asks later than the session that spent the token after its own."""
    snapshot = box.copy()
    assert [cloud.session(box, after=2).outcome for _ in range(2)] == ["normal", "normal"]
    if boots:
        snapshot.boot()
    else:
        snapshot.clock = box.clock
    assert cloud.session(snapshot, after=2).outcome == "restored"
    assert cloud.session(snapshot, after=2).outcome == "normal"


@pytest.mark.parametrize("has_tpm", [True, False], ids=["with a TPM", "without a TPM"])
def test_a_machine_put_back_whose_clock_shows_no_order_is_restored_after_the_tolerance(
    cloud: Cloud, box: Box, has_tpm: bool
) -> None:
    """A request with the clock of before, or without a clock, may be an overtaken one. A later one may not."""
    snapshot = box.copy()
    assert [cloud.session(box, after=2).outcome for _ in range(2)] == ["normal", "normal"]
    before = cloud.holders
    if not has_tpm:
        current = msgspec.structs.replace(cloud.known.current.last, clock=None)
        changed = msgspec.structs.replace(cloud.known.current, last=current)
        before = cloud.holders = msgspec.structs.replace(cloud.known, all=(changed, *cloud.known.all[1:]))
    assert cloud.session(snapshot, after=2).outcome == "late"
    assert cloud.holders == before
    assert cloud.session(snapshot, after=60).outcome == "restored"


def test_a_snapshot_of_a_session_that_the_cloud_forgot_is_no_clone(cloud: Cloud, box: Box) -> None:
    """The cloud crashed before it stored the session. The next token names the spent token."""
    snapshot, stored = box.copy(), cloud.holders
    cloud.session(box)
    cloud.holders = stored
    assert cloud.outcomes(box, box, snapshot, snapshot) == ["ahead", "normal", "restored", "normal"]


def test_a_node_that_lost_its_token(cloud: Cloud, box: Box) -> None:
    box.token = ""
    assert cloud.outcomes(box, box) == ["token-lost", "normal"]


def test_an_agent_without_tokens_is_never_suspected(cloud: Cloud) -> None:
    old = Box()
    for _ in range(4):
        assert cloud.session(old, lost=True).outcome == "normal"


def test_a_database_put_back_from_a_backup(cloud: Cloud, box: Box) -> None:
    backup = cloud.holders
    cloud.outcomes(box, box, box)
    cloud.holders = backup
    assert cloud.outcomes(box, box) == ["ahead", "normal"]
    cloud.holders = None
    assert cloud.outcomes(box, box) == ["ahead", "normal"]


def test_the_second_refresh_of_a_copy_is_caught(cloud: Cloud, box: Box) -> None:
    twin = box.copy()
    box.boot()
    twin.boot()
    assert cloud.outcomes(box, twin, box) == ["normal", "repeated", "normal"]
    caught = cloud.session(twin)
    assert (caught.outcome, caught.gets_token, caught.holders.cause) == ("suspected", False, "renewal-token")
    assert [each.state for each in caught.holders.all] == ["current", "older"]
    assert caught.holder == caught.holders.all[1].id
    assert caught.holders.all[0].last.at != caught.holders.all[1].last.at


def test_a_copy_that_asks_twice_in_a_row_has_the_original_caught(cloud: Cloud, box: Box) -> None:
    """The copy is first to spend the next token. The other one is caught at its next refresh."""
    twin = box.copy()
    assert cloud.outcomes(twin, twin, box) == ["normal", "normal", "restored"]
    caught = cloud.session(twin)
    assert (caught.outcome, caught.gets_token, caught.holders.cause) == ("suspected", True, "renewal-token")
    assert caught.holder == caught.holders.current.id


def test_a_machine_put_back_from_a_snapshot_is_no_clone(cloud: Cloud, box: Box) -> None:
    snapshot = box.copy()
    cloud.outcomes(box, box)
    assert cloud.outcomes(snapshot, snapshot, snapshot) == ["restored", "normal", "normal"]
    assert (cloud.known.cause, cloud.known.restored) == ("", 1)
    assert [each.state for each in cloud.known.all] == ["current", "left"]


def test_a_snapshot_every_night_is_no_clone(cloud: Cloud, box: Box) -> None:
    snapshot = box.copy()
    for _ in range(10):
        assert cloud.outcomes(box, box)[1] == "normal"
        box = snapshot.copy()
    assert cloud.known.cause == ""
    assert len(cloud.known.all) <= HOLDERS_MAX


def test_a_snapshot_while_the_original_runs_on_is_a_clone(cloud: Cloud, box: Box) -> None:
    snapshot = box.copy()
    cloud.outcomes(box, box)
    assert cloud.outcomes(snapshot, box) == ["restored", "suspected"]
    # The newest holder is the one whose token is later where the two part.
    assert cloud.known.current.id != cloud.known.all[1].id
    assert cloud.outcomes(box, snapshot, box) == ["normal", "older", "normal"]


def test_a_tpm_put_back_without_its_disk_is_no_clone(cloud: Cloud, box: Box) -> None:
    backup = box.copy()
    box.boot()
    cloud.outcomes(box)
    box.clock, box.reset = backup.clock, backup.reset
    assert cloud.outcomes(box, box) == ["restored", "normal"]


def test_a_copy_that_hides_its_token_is_caught_by_the_clock(cloud: Cloud, box: Box) -> None:
    twin = box.copy()
    twin.boot()
    twin.token = ""
    assert cloud.outcomes(twin) == ["token-lost"]
    caught = cloud.session(box)
    assert (caught.outcome, caught.holders.cause, caught.gets_token) == ("suspected", "tpm-clock", True)
    twin.token = ""
    assert cloud.outcomes(box, twin, box) == ["normal", "older", "normal"]


def test_an_update_of_the_firmware_after_a_lost_answer_is_no_clone(cloud: Cloud, box: Box) -> None:
    """The counts fall between two sessions of one machine that asked twice with one token."""
    cloud.session(box, lost=True)
    cloud.session(box)
    assert cloud.known.current.answers == 2
    box.clock, box.reset = 0, 0
    assert cloud.outcomes(box, box) == ["restored", "normal"]
    assert cloud.known.cause == ""


SUPERSEDED = [
    ("another TPM", -1, "asks later", "goes on", "chip"),
    ("another TPM", -1, "overtaken", "goes on", ""),
    ("the same TPM", 1, "asks later", "goes on", ""),
    ("a TPM with other firmware", -3, "asks later", "fell too", ""),
]


@pytest.mark.parametrize("has_token", [True, False])
@pytest.mark.parametrize(("_name", "boots", "order", "then", "cause"), SUPERSEDED)
def test_a_superseded_generation_of_the_same_chip(
    cloud: Cloud, box: Box, _name: str, boots: int, order: str, then: str, cause: str, has_token: bool
) -> None:
    """Two TPMs are shown by three requests: one, another behind it, and a third that goes on from the first."""
    at = cloud.seconds + (3600 if order == "asks later" else 2)
    asked = evidence(box.clock, box.reset + boots, at=at, key="superseded")
    noted = note_behind(cloud.known, asked)
    assert note_behind(noted, msgspec.structs.replace(asked, at=START + timedelta(9))) is noted, "the first one counts"
    cloud.holders, cloud.seconds = noted, at
    if then == "fell too":
        box.clock, box.reset = 0, 0
    box.token = box.token if has_token else ""
    judgement = cloud.session(box)
    assert (judgement.holders.cause, judgement.gets_token, judgement.holders.behind) == (cause, True, None)
    assert [each.last for each in judgement.holders.all[1:] if each.state == "older"] == ([asked] if cause else [])


def test_a_session_within_the_tolerance_decides_nothing_about_a_superseded_generation(cloud: Cloud, box: Box) -> None:
    cloud.holders = note_behind(cloud.known, evidence(box.clock, 1, at=cloud.seconds + 3600))
    cloud.seconds += 3600
    assert cloud.session(box, after=30).holders.behind is not None
    assert cloud.session(box, after=31).holders.cause == "chip"


def test_an_unknown_token_of_a_left_chain(cloud: Cloud, box: Box) -> None:
    """A token that was handed out and left aside is a second holder also after a restore."""
    twin = box.copy()
    cloud.outcomes(box, twin)
    snapshot = box.copy()
    cloud.outcomes(box)
    del snapshot
    assert cloud.outcomes(twin) == ["suspected"]


def test_a_very_old_token_is_a_machine_put_back(cloud: Cloud, box: Box) -> None:
    old = box.copy()
    for _ in range(SPENT_MAX + 5):
        cloud.session(box)
    assert len(cloud.known.current.spent) == SPENT_MAX
    assert cloud.outcomes(old, box) == ["restored", "suspected"]


@pytest.fixture
def pair(cloud: Cloud, box: Box) -> tuple[Box, Box]:
    """Two machines of one TPM state, the second one suspected as the older holder."""
    twin = box.copy()
    cloud.outcomes(box, twin, box, twin)
    assert cloud.known.cause == "renewal-token"
    return box, twin


def test_a_suspicion_stays_until_it_is_settled(cloud: Cloud, pair: tuple[Box, Box]) -> None:
    box, twin = pair
    assert cloud.outcomes(box, twin, twin, box) == ["normal", "older", "older", "normal"]
    twin.token = ""
    assert cloud.outcomes(twin, box) == ["older", "normal"]
    assert cloud.known.cause == "renewal-token"


@pytest.mark.parametrize("keep", [0, 1])
def test_an_operator_keeps_one_holder(cloud: Cloud, pair: tuple[Box, Box], keep: int) -> None:
    kept, other = pair if keep == 0 else pair[::-1]
    cloud.holders = settle(cloud.known, cloud.known.all[keep].id, "0badcafe", START)
    assert cloud.known.cause == ""
    assert cloud.outcomes(kept, kept)[1] == "normal"
    assert cloud.outcomes(other, kept, other, kept) == ["shut", "normal", "shut", "normal"]
    other.token = ""
    assert cloud.outcomes(other, kept) == ["shut", "normal"]


def test_the_kept_machine_may_be_put_back_to_a_later_snapshot(cloud: Cloud, pair: tuple[Box, Box]) -> None:
    kept, _ = pair
    before = kept.copy()
    cloud.holders = settle(cloud.known, cloud.known.current.id, "0badcafe", START)
    cloud.outcomes(kept, kept)
    after = kept.copy()
    cloud.outcomes(kept, kept)
    assert cloud.outcomes(after, after) == ["restored", "normal"]
    assert cloud.outcomes(before) == ["shut"]


def keep(cloud: Cloud, state: str) -> None:
    """Keep the holder in this state."""
    kept = next(each for each in cloud.known.all if each.state == state)
    cloud.holders = settle(cloud.known, kept.id, "0badcafe", START)


@pytest.mark.parametrize(("asks", "first"), [(0, "normal"), (1, "repeated")])
def test_a_kept_holder_goes_on_with_the_token_that_it_got_before_the_flag(
    cloud: Cloud, box: Box, asks: int, first: str
) -> None:
    """The restored machine got a token. Then the machine of before goes on, which raises the flag."""
    again = box.copy()
    assert cloud.outcomes(box, box, again, again, box) == ["normal", "normal", "restored", "normal", "suspected"]
    assert cloud.outcomes(*[again] * asks) == ["older"] * asks
    snapshot = box.copy()
    keep(cloud, "older")
    assert cloud.outcomes(again, again, again) == [first, "normal", "normal"]
    assert cloud.outcomes(box, snapshot, again, again) == ["shut", "shut", "normal", "normal"]


def test_of_two_tpms_that_got_one_token_each_either_may_be_kept(cloud: Cloud, box: Box) -> None:
    """Both tokens follow the same one. A snapshot of the other machine has a token that it has spent."""
    twin = box.copy()
    twin.boot()
    cloud.session(box)
    snapshot = box.copy()
    assert cloud.outcomes(twin, box) == ["repeated", "suspected"]
    keep(cloud, "older")
    assert cloud.outcomes(box, snapshot) == ["shut", "shut"]
    assert cloud.outcomes(twin, twin, snapshot, box, twin) == ["normal", "normal", "shut", "shut", "normal"]


def test_a_holder_that_was_left_may_be_kept(cloud: Cloud, box: Box) -> None:
    again = box.copy()
    assert cloud.outcomes(box, box, again) == ["normal", "normal", "restored"]
    cloud.holders = suspect(cloud.known, "replaced", Holder("0badf00d", "older", START, evidence()), START)
    keep(cloud, "left")
    assert cloud.outcomes(box, again, box, again) == ["normal", "shut", "normal", "shut"]


def test_settling_an_unknown_holder(cloud: Cloud, box: Box) -> None:
    assert box.token
    with pytest.raises(KeyError):
        settle(cloud.known, "ffffffff", "0badcafe", START)


def test_a_suspicion_from_other_evidence(cloud: Cloud, box: Box) -> None:
    other = Holder("0badcafe", "left", START, evidence())
    flagged = suspect(cloud.known, "fingerprint", other, START)
    assert (flagged.cause, flagged.since, [each.state for each in flagged.all]) == (
        "fingerprint",
        START,
        ["current", "older"],
    )
    assert suspect(flagged, "chip", other, START + timedelta(1)).cause == "fingerprint"
    cloud.holders = flagged
    assert cloud.outcomes(box, box) == ["normal", "normal"]


def test_holders_are_bounded(cloud: Cloud, pair: tuple[Box, Box]) -> None:
    for number in range(10):
        stranger = Box()
        stranger.reset = number
        cloud.session(stranger)
    assert len(cloud.known.all) == HOLDERS_MAX
    assert len(msgspec.json.encode(cloud.known)) < 8_000
    assert cloud.outcomes(pair[0]) == ["normal"]


STEPS: dict[str, Callable[[Cloud, Box], None]] = {
    "session": lambda cloud, box: _expect(cloud.session(box)),
    "soon": lambda cloud, box: _expect(cloud.session(box, after=1)),
    "lost": lambda cloud, box: _expect(cloud.session(box, lost=True)),
    "boot": lambda _, box: box.boot(),
    "power cut": lambda _, box: box.boot(clean=False),
    "resume": lambda _, box: setattr(box, "restart", box.restart + 1),
    "token lost": lambda _, box: setattr(box, "token", ""),
}


def _expect(judgement: SessionJudgement) -> None:
    assert judgement.outcome in ("normal", "repeated", "token-lost")
    assert judgement.holders.cause == ""


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_one_machine_is_never_suspected(steps: list[str]) -> None:
    cloud, box = Cloud(), Box()
    for step in steps:
        STEPS[step](cloud, box)
        cloud.seconds += 60


@given(st.lists(st.sampled_from([*sorted(STEPS), "forget"]), max_size=30))
def test_a_disk_that_forgets_its_last_writes_is_no_clone(steps: list[str]) -> None:
    cloud, box = Cloud(), Box()
    tokens = [""]
    for step in steps:
        cloud.seconds += 60
        if step == "forget":
            box.token = tokens[-2] if len(tokens) > 1 else ""
            del tokens[-1:]
            tokens = tokens or [""]
        elif step in ("session", "soon"):
            assert cloud.session(box).holders.cause == ""
            tokens.append(box.token)
        elif step == "lost":
            assert cloud.session(box, lost=True).holders.cause == ""
        elif step != "token lost":
            STEPS[step](cloud, box)


@given(st.lists(st.sampled_from([*sorted(STEPS), "old request"]), max_size=20), st.data())
def test_requests_in_any_order_of_one_machine(steps: list[str], data: st.DataObject) -> None:
    """Requests that lost their answers are worked on later, at any time. None of them is a clone."""
    cloud, box = Cloud(), Box()
    waiting: list[tuple[str, Arrival]] = []
    for step in steps:
        cloud.seconds += 1
        if step == "old request" and waiting:
            judgement, _ = cloud.take(*waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
            assert judgement.holders.cause == ""
            assert judgement.outcome != "restored"
        elif step == "lost":
            waiting.append(cloud.proof(box))
        elif step in STEPS:
            STEPS[step](cloud, box)


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_two_machines_are_caught_once_each_has_asked_again_after_the_other(order: list[bool]) -> None:
    cloud, box = Cloud(), Box()
    cloud.outcomes(box, box)
    twin, turns = box.copy(), 0
    last: bool | None = None
    for asks in order:
        turns += asks is not last and last is not None
        last = asks
        cloud.session(twin if asks else box)
    # A, B, A, B: the second refresh of either copy after one of the other.
    if turns >= 3:
        assert cloud.known.cause
    assert cloud.known.current.base != NO_TOKEN
