"""`node.exchanges.approval`: the wait for an operator, with a clock that jumps."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trio
from trio.testing import MockClock

from node.disk.pending import ApprovalWait
from node.exchanges.approval import JITTER, WAIT_MARGIN, ApprovalPending, until_approved
from node.exits import Exit
from node.link.api import CloudRefused, CloudUnreachable
from protocol.ids import ActivationId, NodeId, RecoveryId, TenantId
from protocol.limits import APPROVAL_RETRY_SECONDS_MAX, APPROVAL_RETRY_SECONDS_MIN, APPROVE_WITHIN
from protocol.messages.activation import Activated, AwaitedApproval
from protocol.messages.recovery import AwaitedRecovery, Needs
from protocol.problems import KINDS, document

ID = ActivationId("act_01jd7xq2vafw6b8tn4rz9k3mec")
AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
CASE = RecoveryId("rcv_01jd7xq2vafw6b8tn4rz9k3mec")
DONE = Activated(TenantId("ten_1"), NodeId("node_1"), 1, (b"",), AT)
Answer = Activated | AwaitedApproval | Exception


def waits(retry_seconds: int, until: datetime = AT + APPROVE_WITHIN) -> AwaitedApproval:
    return AwaitedApproval(ID, AT, until, retry_seconds)


class Cloud:
    """Answers in order; the last answer is repeated. `asked_at` has the times of the questions."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked_at: list[float] = []
        self.stored: list[ApprovalWait] = []
        self.said: list[str] = []

    async def send(self) -> Activated | AwaitedApproval:
        self.asked_at.append(trio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, *, wait: bool = True) -> Activated:
        return await until_approved(self.send, self.store, self.said.append, wait=wait)

    async def store(self, waiting: ApprovalWait) -> None:
        self.stored.append(waiting)

    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


async def test_the_proof_is_repeated_until_an_operator_has_approved(autojump_clock: MockClock) -> None:
    cloud = Cloud(waits(12), waits(30), DONE)
    assert await cloud.ask() == DONE
    assert [int(pause) // 6 for pause in cloud.pauses()] == [2, 5]
    assert all(base <= pause <= base * (1 + JITTER) for base, pause in zip((12, 30), cloud.pauses(), strict=True))
    assert cloud.stored == [ApprovalWait(ID, AT, AT + APPROVE_WITHIN)]
    assert all(ID in text and "2026-12-14 12:00 UTC" in text for text in cloud.said)


async def test_without_waiting_the_command_ends_with_the_state_pending(autojump_clock: MockClock) -> None:
    cloud = Cloud(waits(12))
    with pytest.raises(ApprovalPending) as caught:
        await cloud.ask(wait=False)
    assert (caught.value.exit, caught.value.code) == (Exit.PENDING, "approval_pending")
    assert f"cascade activation approve {ID}" in caught.value.next
    assert len(cloud.asked_at) == len(cloud.stored) == 1


@pytest.mark.parametrize(
    ("needs", "step"),
    [
        ("operator", f"cascade recovery approve {CASE}"),
        ("code", "with a recovery code"),
        ("operator-or-code", "Or: run `cascadia recover` with a recovery code"),
    ],
)
async def test_a_recovery_that_waits_names_its_case(autojump_clock: MockClock, needs: Needs, step: str) -> None:
    recovery = AwaitedRecovery(CASE, "needs_operator", needs, AT + APPROVE_WITHIN)
    cloud = Cloud(msgspec.structs.replace(waits(12), recovery=recovery))
    with pytest.raises(ApprovalPending) as caught:
        await cloud.ask(wait=False)
    assert (caught.value.exit, caught.value.code) == (Exit.PENDING, "recovery_pending")
    assert step in caught.value.next
    assert (CASE in caught.value.text, "2026-12-14 12:00 UTC" in caught.value.text) == (True, True)
    assert cloud.stored == [ApprovalWait(ID, AT, AT + APPROVE_WITHIN, recovery)]


async def test_no_answer_makes_the_machine_ask_too_often_or_never(autojump_clock: MockClock) -> None:
    cloud = Cloud(waits(0), waits(-5), waits(10**9), DONE)
    await cloud.ask()
    least, most = APPROVAL_RETRY_SECONDS_MIN, APPROVAL_RETRY_SECONDS_MAX
    assert all(least <= pause <= most * (1 + JITTER) for pause in cloud.pauses())
    assert cloud.pauses()[2] >= most


async def test_an_approval_prolongs_the_stored_wait(autojump_clock: MockClock) -> None:
    later = AT + 2 * APPROVE_WITHIN
    cloud = Cloud(waits(10), waits(10), waits(10, later), DONE)
    await cloud.ask()
    assert [wait.expires_at for wait in cloud.stored] == [AT + APPROVE_WITHIN, later]


@pytest.mark.parametrize("code", ["approval_denied", "approval_expired", "code_revoked"])
async def test_a_refusal_ends_the_wait(autojump_clock: MockClock, code: str) -> None:
    cloud = Cloud(waits(10), CloudRefused(document(KINDS[code], "why")))
    with pytest.raises(CloudRefused) as caught:
        await cloud.ask()
    assert (caught.value.code, caught.value.exit) == (code, Exit.REFUSED)


async def test_an_unreachable_cloud_ends_a_wait_that_has_not_begun(autojump_clock: MockClock) -> None:
    with pytest.raises(CloudUnreachable):
        await Cloud(CloudUnreachable("away")).ask()


async def test_an_unreachable_cloud_prolongs_a_wait_that_has_begun(autojump_clock: MockClock) -> None:
    away = [CloudUnreachable("away")] * 6
    cloud = Cloud(waits(10), *away, CloudUnreachable("busy", retry_after_seconds=500.0), DONE)
    assert await cloud.ask() == DONE
    bounds = (20, 40, 80, 160, 300, 300, 500)
    assert all(low <= pause <= low * (1 + JITTER) for low, pause in zip(bounds, cloud.pauses()[1:], strict=True))
    assert sum("away" in text for text in cloud.said) == 6


async def test_a_wait_without_a_cloud_ends(autojump_clock: MockClock) -> None:
    cloud = Cloud(waits(10), CloudUnreachable("away"))
    with pytest.raises(CloudUnreachable):
        await cloud.ask()
    waited = timedelta(seconds=cloud.asked_at[-1] - cloud.asked_at[0])
    assert APPROVE_WITHIN < waited <= APPROVE_WITHIN + 2 * WAIT_MARGIN
