"""Values and pure functions: the evidence of a session, and its order by the TPM's clock.

The clock of the TPM (TCG TPM 2.0 Library, part 1, section 36) is the node's own report. `holders` judges by it only what
the renewal tokens leave open.
"""

from datetime import datetime, timedelta

import msgspec

from protocol.evidence import ClockInfo

CLOCK_SAVED_MS = 2**22
"""How far the TPM's clock may go back when the TPM restarts: an unclean restart loses up to one save interval (TCG TPM
2.0 Library, part 1, section 36.3)."""
CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far the clocks of two replicas may differ: two proofs of one machine can then be judged in the other order. So the
TPM's clock may seem to go back by this time without a restart."""


class SessionEvidence(msgspec.Struct, frozen=True):
    """The evidence of one session.

    Attributes:
        at: the time of the session.
        asked_at: the time at which this cloud made the nonce of the proof. It orders the proofs of one machine.
        clock: the TPM's clock and counts; None for a node without a TPM.
        key: 16 hex digits that identify the node key. A rekey ends the comparison of clocks.
        fingerprint: 16 hex digits that identify the reported fingerprint.
        address: the address that the request came from.
        agent_version: the version of the agent.
    """

    at: datetime
    asked_at: datetime
    clock: ClockInfo | None
    key: str
    fingerprint: str
    address: str
    agent_version: str


def went_back(before: SessionEvidence, now: SessionEvidence) -> bool:
    """Whether the TPM's clock or counts are behind those of an earlier session, beyond what one TPM does.

    A clear of the TPM sets the counts to 0, and ends the node key. An update of the TPM's firmware may set them to 0 as
    well. Such a machine counts as restored, which is no clone.
    """
    old, new = before.clock, now.clock
    if before.key != now.key or old is None or new is None:
        return False
    old_counts, new_counts = (old.reset_count, old.restart_count), (new.reset_count, new.restart_count)
    if new_counts == old_counts:
        return new.clock < old.clock - CLOCK_TOLERANCE // timedelta(milliseconds=1)
    return new_counts < old_counts or new.clock < old.clock - CLOCK_SAVED_MS


def went_on(before: SessionEvidence, now: SessionEvidence) -> bool:
    """Whether the TPM's clock and counts show that one machine made the proof `now` after the proof `before`.

    False if they cannot be compared: there is no TPM, or the node key was replaced in between.
    """
    old, new = before.clock, now.clock
    if before.key != now.key or old is None or new is None:
        return False
    return (new.reset_count, new.restart_count, new.clock) > (old.reset_count, old.restart_count, old.clock)
