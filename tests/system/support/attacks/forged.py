"""Rows: another server answers in the place of the cloud, with a public CA's certificate or with recorded answers.

The machine records what the true cloud answers before a suspension or a revocation. Later the cloud is away, and an
impostor gives the recorded answers again. For a replay the impostor has the TLS key of Fabric, because otherwise the
agent sends no request. It has no key that signs statements.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from tests.system.support.attacks.impostor import Impostor, public_ca, read_recorded
from tests.system.support.attacks.life import TRUST_DOMAIN
from tests.system.support.attacks.site import Result, Seen, Site, judged, look
from tests.system.support.attacks.table import Attack
from tests.system.support.harness import Plan, Recorded, new_machine
from tests.system.support.wire import service_identity

_STATEMENT = "POST /v1/node/statement"
_SESSION = "POST /v1/node/sessions"


class Recording:
    """A machine that has recorded the answers of the cloud while its licence was active. Its agent runs."""

    def __init__(self, site: Site, directory: Path, chip: SoftTpm) -> None:
        self.cloud, self.directory, self.chip = site.cloud, directory, chip
        self.machine = new_machine(directory, chip)
        self.machine.env["CASCADIA_SETTLE_SECONDS"] = "1"
        self.public = public_ca(directory, site.cloud, TRUST_DOMAIN)
        self.machine.env |= self.public.env
        self.recorded: list[Recorded] = []
        self.node = ""
        self._reachable = True
        self._copied = directory / "copied"

    def begin(self) -> None:
        """Activate the machine, and record until the running agent has asked for its statement."""
        file = self.directory / "answers"
        tenant = self.cloud.tenant(self.chip, "recorded")
        self.node = self.machine.run("activate", str(self.cloud.code(tenant)))["node"]
        self.machine.up(Plan(answers=str(file)))
        self.machine.wait_state("active")
        wait_until("a recorded statement", lambda: _STATEMENT in map(str, read_recorded(file)))
        self.recorded = read_recorded(file)
        shutil.copytree(self.machine.state, self._copied)

    def reach(self, *, yes: bool) -> None:
        """Start the cloud, or stop it."""
        if yes != self._reachable:
            (self.cloud.up if yes else self.cloud.down)()
            self._reachable = yes

    def suspended(self) -> None:
        """The node is suspended, and its running agent knows it."""
        if self.machine.licence == "suspended":
            return
        self.reach(yes=True)
        self.cloud.run("node", "suspend", self.node)
        self.machine.wait_state("suspended")

    @contextmanager
    def impostor(self, *, public: bool = False) -> Iterator[Impostor]:
        """A block in which an impostor serves in the place of the cloud. The cloud stays away afterwards."""
        identity = self.public.identity if public else service_identity(self.cloud, "fabric")
        self.reach(yes=False)
        with Impostor(self.directory, self.cloud, identity, self.recorded).serving() as impostor:
            yield impostor

    def failure(self) -> str:
        """The code of the last contact that failed, as the running agent shows it."""
        document: Any = self.machine.ask("/v1/status")
        return str((document["last_failure"] or {}).get("code"))

    # Rows

    def public_and_active(self) -> Seen:
        """The agent trusts no CA of the system. It sends no request, and its licence stays."""
        return self._public()

    def public_and_suspended(self) -> Seen:
        """As `public_and_active`, and the answer in the impostor's hand would be welcome."""
        self.suspended()
        return self._public()

    def _public(self) -> Seen:
        with self.impostor(public=True) as impostor:
            impostor.assert_trusted_by_the_system(self.public.env)
            wait_until("a refused server", lambda: self.failure() == "server_unproven")
            seen = look(self.machine, "renew")
            assert impostor.asked == [], f"the agent has sent {impostor.asked}"
            return seen

    def statement_to_a_running_agent(self) -> Seen:
        """The agent asks in its open session, and gets the lease from before the suspension with its freshness."""
        self.suspended()
        with self.impostor() as impostor:
            wait_until("a replayed statement", lambda: _STATEMENT in impostor.asked)
            wait_until("its refusal", lambda: self.failure() == "statement_rejected")
            assert not self.machine.granted()
            return look(self.machine)

    def session_at_a_start(self) -> Seen:
        """The agent opens a session, and gets one from before the suspension."""
        self.suspended()
        self.machine.down()
        return self._replayed_session()

    def restored_directory(self) -> Seen:
        """The same, with the state directory from before the suspension."""
        self.suspended()
        self.machine.down()
        shutil.rmtree(self.machine.state)
        shutil.copytree(self._copied, self.machine.state)
        return self._replayed_session()

    def _replayed_session(self) -> Seen:
        with self.impostor() as impostor:
            self.machine.up()
            wait_until("a replayed session", lambda: _SESSION in impostor.asked)
            self.machine.start("renew", "--json").wait()
            return look(self.machine)

    def before_a_revocation(self) -> Seen:
        """A revoked machine starts, without its tombstone and with the lease and the answers from before."""
        self.machine.down()
        self.reach(yes=True)
        self.cloud.run("node", "revoke", self.node)
        assert self.machine.launch().wait() == 81
        shutil.rmtree(self.machine.state / "tombstones")
        shutil.rmtree(self.machine.state / "licence" / "g-1")
        shutil.copytree(self._copied / "licence" / "g-1", self.machine.state / "licence" / "g-1")
        with self.impostor():
            return look(self.machine, "run")


ROWS: dict[str, Callable[[Recording], Seen]] = {
    "a public CA's certificate, the node active": Recording.public_and_active,
    "a lease and its freshness, to a running agent": Recording.statement_to_a_running_agent,
    "the same, the node suspended": Recording.public_and_suspended,
    "a session, to an agent that starts": Recording.session_at_a_start,
    "a session, to a restored directory": Recording.restored_directory,
    "the answers from before a revocation": Recording.before_a_revocation,
}
"""In the order of the machine's life: active, suspended, revoked. After a server without proof the agent opens another
session. So the answer in an open session comes first."""
FORGED = frozenset({"a public CA's certificate, the node active", "the same, the node suspended"})
"""The rows of the kind `forged-cloud`. The other rows are replays."""


def take(attacks: Sequence[Attack], site: Site) -> Iterator[Result]:
    """Take the rows on one machine."""
    directory = site.folder("forged")
    with site.new_chip(directory / "chip", 0) as chip:
        recording = Recording(site, directory, chip)
        with ended(recording.machine):
            try:
                recording.begin()
                for attack in sorted(attacks, key=lambda attack: list(ROWS).index(attack.name)):
                    yield judged(attack, partial(ROWS[attack.name], recording))
            finally:
                recording.reach(yes=True)
