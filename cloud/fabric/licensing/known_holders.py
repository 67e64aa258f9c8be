"""Values: the holders of a generation's key, as far as their sessions and renewals show, and what a session is judged as."""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.fabric.bodies.clones import CloneCause, HolderState, NoCause
from cloud.fabric.licensing.renewal_tokens import CHAIN_BYTES, FIRST_CHAIN, NO_TOKEN, RenewalToken
from cloud.fabric.licensing.session_evidence import SessionEvidence
from protocol.encoding import json_encode, sha256_hex

HOLDERS_MAX = 4
"""Holders of a generation that are kept, with the evidence of each. The first to go are those that were left."""

Outcome = Literal[
    "normal", "repeated", "token-lost", "late", "ahead", "restored", "unapproved", "suspected", "older", "shut"
]
"""`normal`, `repeated` (a lost answer), `token-lost`, `late` (an answer that another overtook) and `ahead` (the cloud
lost a change) are of one machine. `restored` is too, as far as is known. `unapproved` is a restored machine that waits
for an operator. `suspected` raises the flag. `older` and `shut` are sessions of a holder that gets no token."""


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """One holder of the generation's key, as far as its sessions show.

    Attributes:
        id: 8 hex digits. An operator names the evidence by it.
        state: see `HolderState`.
        since: the time of its first session.
        last: the evidence of its last session.
        chain: the chain of its tokens.
        number: the number of the token that it spent last, or at which its chain began.
        base: the digest of that token; NO_TOKEN before the first.
        answers: how many sessions were answered with a token after `base`. More than one: an answer was lost, or two
            machines ask.
        awaited: the key (as in `SessionEvidence`) of its next session, after a renewal with a former key; empty otherwise.
        spent: the tokens that it spent before, as (number, digest), the newest last.
        unspent: the chain of a token that it got after `base`, and has not spent yet, when another holder took its place;
            empty without one.
        asked_before: the evidence of the session before the repeats of the last token; None without a repeat.
        statement: the statement that was signed for this holder alone; empty for the holder of the node's statement.
    """

    id: str
    state: HolderState
    since: datetime
    last: SessionEvidence
    chain: str = FIRST_CHAIN
    number: int = 0
    base: str = NO_TOKEN
    answers: int = 1
    spent: tuple[tuple[int, str], ...] = ()
    statement: str = ""
    asked_before: SessionEvidence | None = None
    awaited: str = ""
    unspent: str = ""


class Holders(msgspec.Struct, frozen=True, omit_defaults=True):
    """The holders of a generation, the current one first.

    Attributes:
        all: at most HOLDERS_MAX holders. Exactly one is `current`.
        cause: why a clone is suspected; empty if none is.
        since: the time at which the suspicion arose.
        restored: how many times the machine was put back.
        settled: the highest token number when an operator settled a suspicion. Tokens up to it belong to no holder.
        behind: the evidence of a superseded generation of the same chip that asked with a TPM behind that of the current
            holder. The current holder's next session shows whether there are two TPMs.
        settled_at: when an operator settled a suspicion last. Keys that were replaced before belong to no holder.
    """

    all: tuple[Holder, ...]
    cause: CloneCause | NoCause = ""
    since: datetime | None = None
    restored: int = 0
    settled: int = 0
    behind: SessionEvidence | None = None
    settled_at: datetime | None = None

    @property
    def current(self) -> Holder:
        """The current holder."""
        return self.all[0]

    @property
    def highest(self) -> int:
        """The highest number that a holder spent. The next token's is higher."""
        return max(holder.number for holder in self.all)

    def find(self, holder: str) -> Holder | None:
        """The holder with this id, or None."""
        return next((each for each in self.all if each.id == holder), None)

    def of_key(self, key: str) -> Holder | None:
        """The first holder that showed this key last (see `SessionEvidence`), or renewed for this key; or None."""
        return next((each for each in self.all if key and key in (each.last.key, each.awaited)), None)


class Arrival(msgspec.Struct, frozen=True):
    """A session that a node opens: its evidence, and its token if this cloud made the token.

    `id` has 8 hex digits. It becomes the id of a new holder, and the name of a new chain. It must follow from the proof,
    so that a repeated proof gets the same token. `may_repair`: whether a restored machine is repaired without a person.
    """

    id: str
    evidence: SessionEvidence
    token: RenewalToken | None = None
    may_repair: bool = True


class SessionJudgement(msgspec.Struct, frozen=True):
    """What a session shows.

    Attributes:
        outcome: see `Outcome`.
        holders: the holders with this session.
        holder: the id of the holder that opened it.
        gets_token: whether the answer carries a new token, after the current holder's `base`.
    """

    outcome: Outcome
    holders: Holders
    holder: str
    gets_token: bool = True


def with_holder(holders: Holders, changed: Holder) -> Holders:
    """The holders with a changed or a new holder."""
    if holders.find(changed.id) is None:
        return bounded(holders, (holders.current, changed, *holders.all[1:]))
    return msgspec.structs.replace(
        holders, all=tuple(changed if each.id == changed.id else each for each in holders.all)
    )


def bounded(holders: Holders, all_: tuple[Holder, ...]) -> Holders:
    """At most HOLDERS_MAX: the current one, then those that are refused, then those that were left."""
    current, *rest = all_
    rest.sort(key=lambda each: each.state == "left")
    return msgspec.structs.replace(holders, all=(current, *rest[: HOLDERS_MAX - 1]))


def holder_id(evidence: SessionEvidence) -> str:
    """The id of a holder that is known by other evidence than its tokens: 8 hex digits, always the same."""
    return sha256_hex(json_encode(evidence))[: 2 * CHAIN_BYTES]
