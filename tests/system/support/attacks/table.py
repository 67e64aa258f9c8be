"""Values: the table of attacks. A row names the threat, the attack, the defence, and the result that is expected."""

from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "copied-state",
    "rollback",
    "clear",
    "floor",
    "counter",
    "swapped",
    "clocks",
    "clones",
    "forged-cloud",
    "replay",
    "kills",
    "bounds",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

Command = Literal["status", "run", "renew", "activate"]


class Attack(NamedTuple):
    """One attack and its expected result."""

    threat: str
    """Id in docs/threat-model.md."""
    kind: Kind
    name: str
    """The attack. No other row of the kind has this name."""
    defence: str
    """What refuses or bounds the attack."""
    state: str
    """State of the licence after the attack."""
    code: int
    """Exit code of the command."""
    command: Command = "status"
    """The command of `cascadia` whose exit code counts."""
    quick: bool = False
    """Whether `make test` takes the row."""

    def __str__(self) -> str:
        command = "" if self.command == "status" else f"{self.command}: "
        return f"{self.threat}  {self.kind}: {self.name} | {self.defence} | {self.state}, {command}exit {self.code}"


_OLDER_THAN_COUNTER = "the floor record is older than the TPM's counter"
_BELOW_RECORD = "the floor record names a later statement"
_NO_RECORD = "the lease promises a floor record"
_NO_COUNTER = "the record names another counter"
_OTHER_KEY = "the TPM cannot load the node's key"
_TIME_GOES_ON = "after a signed time, elapsed time decides"
_CLOCK_FLOOR = "the time of the floor record is the lower bound"
_CLOCK_AHEAD = "the gate stays closed until a correction or a signed time"
_TOKEN = "each session spends a renewal token"
_NO_CLONE = "the cloud compares tokens and TPM clocks; no clone is suspected"
_TRUST = "the agent trusts the roots of the published trust only"
_SESSION = "the session is for another key"

ATTACKS = (
    Attack(
        "T-01",
        "copied-state",
        "the state directory beside another TPM",
        _OTHER_KEY,
        "hardware-mismatch",
        84,
        quick=True,
    ),
    Attack("T-01", "copied-state", "the same, and the cloud answers", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-06", "rollback", "the directory from before a suspension", _OLDER_THAN_COUNTER, "stale", 85, quick=True),
    Attack("T-05", "rollback", "the lease from before a suspension", _BELOW_RECORD, "stale", 85),
    Attack("T-05", "rollback", "one of its two files", "the other file has the suspension", "suspended", 82),
    Attack("T-05", "rollback", "the lease and the floor record", _OLDER_THAN_COUNTER, "stale", 85),
    Attack("T-06", "rollback", "the directory from before a resumption", _OLDER_THAN_COUNTER, "suspended", 82),
    Attack("T-06", "rollback", "the first directory after a resumption", _OLDER_THAN_COUNTER, "stale", 85),
    Attack("T-09", "rollback", "the directory from before an activation", _OLDER_THAN_COUNTER, "stale", 85),
    Attack("T-09", "rollback", "the lease from before an activation", "it is of another generation", "active", 0),
    Attack("T-09", "rollback", "its generation, and the later one deleted", _BELOW_RECORD, "stale", 85),
    Attack("T-09", "rollback", "its generation, and current.json", "the later statement decides", "active", 0),
    Attack("T-07", "rollback", "the directory from before a revocation", _OLDER_THAN_COUNTER, "stale", 85),
    Attack("T-08", "rollback", "the lease from before a revocation", "the tombstone decides", "revoked", 81, "run"),
    Attack("T-08", "rollback", "the lease, and the tombstone deleted", _BELOW_RECORD, "revoked", 81, "run"),
    Attack("T-11", "clear", "the directory from before a suspension", _OTHER_KEY, "hardware-mismatch", 84, quick=True),
    Attack("T-11", "clear", "the lease from before a suspension", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-11", "clear", "the directory from before an activation", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-11", "clear", "the generation from before an activation", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-11", "clear", "the directory from before a revocation", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-11", "clear", "the lease from before a revocation", _BELOW_RECORD, "revoked", 81, "run"),
    Attack("T-11", "clear", "the first directory, after another activation", _OTHER_KEY, "hardware-mismatch", 84),
    Attack("T-10", "floor", "the lease put back, both records deleted", _NO_RECORD, "stale", 85, quick=True),
    Attack("T-10", "floor", "the lease put back, one record deleted", "the other copy decides", "stale", 85),
    Attack("T-10", "floor", "the lease put back, both records edited", "the signature is wrong", "stale", 85),
    Attack("T-02", "floor", "the lease put back, the records of another node", "another key signed them", "stale", 85),
    Attack("T-04", "counter", "the directory put back, the counter deleted", _NO_COUNTER, "stale", 85),
    Attack("T-04", "counter", "the directory put back, the counter created again", _NO_COUNTER, "stale", 85),
    Attack("T-03", "counter", "the directory put back, an ordinary index", _NO_COUNTER, "stale", 85, quick=True),
    Attack("T-04", "counter", "the first lease alone, the counter deleted", _NO_COUNTER, "stale", 85),
    Attack("T-04", "counter", "the counter deleted", _NO_COUNTER, "stale", 85),
    Attack("T-60", "swapped", "the lease of another node", "it names the node", "stale", 85, quick=True),
    Attack("T-60", "swapped", "the tombstone of another node", "it names the node", "stale", 85),
    Attack("T-60", "swapped", "lease and tombstone of another node", "both name the node", "stale", 85),
    Attack("T-26", "clocks", "activates: right", "none is needed", "active", 0),
    Attack("T-26", "clocks", "activates: back 30 days", _TIME_GOES_ON, "active", 0),
    Attack("T-26", "clocks", "activates: forward 400 days", _TIME_GOES_ON, "active", 0),
    Attack("T-26", "clocks", "activates: 1970", _TIME_GOES_ON, "active", 0),
    Attack("T-20", "clocks", "steps while it runs: right", "none is needed", "active", 0),
    Attack("T-20", "clocks", "steps while it runs: back 30 days", _TIME_GOES_ON, "active", 0),
    Attack("T-20", "clocks", "steps while it runs: forward 400 days", _TIME_GOES_ON, "active", 0),
    Attack("T-20", "clocks", "steps while it runs: 1970", _TIME_GOES_ON, "active", 0),
    Attack("T-21", "clocks", "boots offline: right", "none is needed", "active", 0),
    Attack("T-21", "clocks", "boots offline: back 30 days", _CLOCK_FLOOR, "active", 0),
    Attack("T-21", "clocks", "boots offline: 1970", _CLOCK_FLOOR, "active", 0),
    Attack("T-22", "clocks", "boots offline: forward 400 days", _CLOCK_AHEAD, "terminated", 86, quick=True),
    Attack("T-20", "clocks", "steps over refresh_after and back", _TIME_GOES_ON, "refresh-due", 0),
    Attack("T-20", "clocks", "steps over expires_at and back", _TIME_GOES_ON, "grace", 0),
    Attack("T-20", "clocks", "steps over grace_until and back", _TIME_GOES_ON, "restricted", 0),
    Attack("T-20", "clocks", "steps over terminate_at and back", _TIME_GOES_ON, "terminated", 83),
    Attack("T-70", "clones", "the copy and the original run from the copy on", _TOKEN, "grace", 89, quick=True),
    Attack("T-70", "clones", "the copy starts late", _TOKEN, "grace", 89),
    Attack("T-71", "clones", "the copy hides its token", "its TPM's clock is another", "grace", 89),
    Attack("T-72", "clones", "the copy goes on, policy suspend-both", "a settlement keeps one", "suspended", 82),
    Attack("T-72", "clones", "the other machine is kept, then corrected", "a settlement keeps one", "suspended", 82),
    Attack("T-73", "clones", "one machine, put back", _NO_CLONE, "active", 0),
    Attack("T-77", "clones", "a copy from before a rekey", "the former key comes back once", "grace", 89),
    Attack("T-78", "clones", "one machine, put back every night", "a person approves the second", "grace", 89),
    Attack("T-74", "clones", "one machine, its token is lost", _NO_CLONE, "active", 0),
    Attack("T-74", "clones", "one machine, power cuts", _NO_CLONE, "active", 0),
    Attack("T-74", "clones", "one machine, the cloud is killed and restarted", _NO_CLONE, "active", 0),
    Attack("T-80", "forged-cloud", "a public CA's certificate, the node active", _TRUST, "active", 65, "renew"),
    Attack("T-80", "forged-cloud", "the same, the node suspended", _TRUST, "suspended", 65, "renew", quick=True),
    Attack(
        "T-81",
        "replay",
        "a lease and its freshness, to a running agent",
        "the stored statement is later",
        "suspended",
        82,
        quick=True,
    ),
    Attack("T-81", "replay", "a session, to an agent that starts", _SESSION, "suspended", 82),
    Attack("T-81", "replay", "a session, to a restored directory", _SESSION, "stale", 85),
    Attack("T-81", "replay", "the answers from before a revocation", "the tombstone decides", "revoked", 81, "run"),
    Attack("T-13", "kills", "killed at each write of the state directory", "each write is atomic", "active", 0),
    Attack("T-91", "bounds", "disk and TPM copied together, offline", "the end of the lease", "terminated", 83),
    Attack("T-97", "bounds", "the disk of a machine without a TPM put back", "the end of the lease", "terminated", 83),
    Attack(
        "T-97", "bounds", "the disk of a machine without a counter put back", "the end of the lease", "terminated", 83
    ),
    Attack(
        "T-99", "bounds", "the disk from before the first counter put back", "the end of the lease", "terminated", 83
    ),
)
"""The attacks by kind. Rows of a kind run in the order that its module needs."""

IN_OTHER_TESTS: dict[Kind, str] = {
    "kills": "tests/system/test_fault_walk.py",
    "bounds": "tests/system/test_revocation.py",
}
"""The kinds of which `make test` takes no row, and the test of the same defence: kills in chains, and a machine without
its cloud that runs to the bound in its status."""
