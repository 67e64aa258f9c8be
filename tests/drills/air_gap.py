"""A machine without a network lives by carried files: every answer, every misuse by its name, a kill at every step.

The commands of the machine run in a network namespace that has no network. `tests/system/test_air_gap.py` has one row.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import BIN, Process, Side, StepFailed, ended, start_program, wait_until
from lab.tpm import SoftTpm, shared_bus
from protocol.airgap.text import GROUP_LETTERS
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.fault_walk.scenarios import PREPARE, STAGES, Case, Scenario, answer_of, import_file, walk
from tests.system.support.fault_walk.site import Lane
from tests.system.support.harness import Plan, new_cloud
from tests.system.support.rotation import Rotation, device_issuer

USUAL_TIME = "4 min"
MINUTES_MAX = 20.0

LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
RETYPED_MAX = 12
"""Lines that are retyped wrongly with the real command. The tests of the format try every letter of every line."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice to leave out the kills."""
    parser.add_argument("--no-kills", action="store_true", help="leave out the kills at each step of an import")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Take every row. A row that stops is a finding, and the other rows continue. Raises CannotRun."""
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode:
        raise CannotRun("this machine allows no network namespace. Run the drill as root, or with another kernel")
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cascade-air-gap-")))
        chips = [SoftTpm(scratch / name, ca=scratch / "maker", bus=shared_bus()) for name in ("first", "second")]
        for chip in chips:
            stack.enter_context(chip)
        cloud = new_cloud(scratch).init()
        stack.enter_context(ended(cloud))
        cloud.up()
        site = Site(cloud, scratch, chips)
        stack.enter_context(ended(site.machine, site.other))
        for row in ROWS:
            try:
                row(site)
                say(f"good: {row.__name__.replace('_', ' ')}")
            except (AssertionError, StepFailed) as error:
                findings.append(f"{row.__name__}: {str(error) or 'an assertion failed'}")
                say(f"FOUND: {findings[-1]}")
        figures |= {"rows": len(ROWS), "refusals by name": len(site.refused), **site.figures}
        if not options.no_kills:
            _walk_imports(scratch, chips[0], figures, findings, say)
    return Outcome(figures, tuple(findings))


def without_network(directory: Path, side: Side, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
    """A `Start` that runs the installed command line in a namespace without a network."""
    return start_program(directory, side, ["unshare", "-rn", "--", str(BIN / side), *arguments], env)


class Site:
    """Two machines without a network, and the operators with the cloud."""

    def __init__(self, cloud: Cloud, directory: Path, chips: list[SoftTpm]) -> None:
        self.cloud = cloud
        self.directory = directory
        self.chips = chips
        self.tenant = cloud.tenant(chips[0])
        self.machine = Machine(directory, chips[0], "site", start=without_network)
        self.other = Machine(directory, chips[1], "other", start=without_network)
        self.refused: set[str] = set()
        self.figures: dict[str, Figure] = {}
        self.node = ""
        self._files = 0

    def file(self, kind: str) -> Path:
        """A new file for a request or an answer."""
        self._files += 1
        return self.directory / f"{self._files}-{kind}"

    def ask(self, *options: str, machine: Machine | None = None) -> Path:
        """A request of a machine, in a file."""
        path = self.file("request")
        (machine or self.machine).run("request", *options, "--out", str(path))
        return path

    def answer(self, request: Path, *options: str) -> Path:
        """The operators' answer to a request."""
        path = self.file("answer")
        self.cloud.run("airgap", "answer", str(request), "--out", str(path), *options)
        return path

    def take(self, answer: Path, expect: int = 0) -> Any:
        """Import an answer. Returns the licence."""
        return self.machine.run("license", "import", str(answer), expect=expect)

    def refuse(self, answer: Path, code: str, expect: int, machine: Machine | None = None) -> str:
        """Import an answer that has to be refused by this name, and changes nothing. Returns the text."""
        at = machine or self.machine
        before = content(at.state)
        error = at.run("license", "import", str(answer), expect=expect)["error"]
        assert error["code"] == code, f"the refusal is {error['code']}, not {code}: {error['text']}"
        assert error["next"], f"{code} has no next step"
        assert content(at.state) == before, f"{code} has changed the state directory"
        self.refused.add(code)
        return str(error["text"])

    def visit(self, *options: str) -> Any:
        """One journey: ask, answer, import. Returns the licence, in any state."""
        return self.machine.run("license", "import", str(self.answer(self.ask(*options))), expect=None)


def is_lent(agent: Machine) -> bool:
    """Whether a running agent has lent its state to a command."""
    return "state_lent" in [each["code"] for each in (agent.ask("/v1/status") or {}).get("conditions", ())]


def content(directory: Path) -> dict[str, bytes]:
    """The files of a state directory, without lock, version and kept time, which any owner of the directory writes."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("lock", "version", "time.json")
    }


# Rows, in the order in which the site lives them


def a_first_activation_takes_one_journey(site: Site) -> None:
    code = site.cloud.code(site.tenant, "--seats", "2")
    request = site.ask("--file", str(code))
    assert request.read_bytes() == site.ask("--file", str(code)).read_bytes()
    answer = site.answer(request)
    shutil.copytree(site.machine.state, site.directory / "copied")
    found = site.take(answer)
    assert (found["state"], found["generation"], found["lease"]["tier"]) == ("active", 1, "attested")
    site.node = found["node"]
    assert site.machine.run("renew", expect=69)["error"]["code"] in ("unreachable", "cloud_unreachable", "dns_failed")
    site.figures["bytes of an activation"] = request.stat().st_size
    # Another machine gets the state directory with the keys of the request, and the answer.
    shutil.copytree(site.directory / "copied", site.other.state)
    site.refuse(answer, "airgap_seal_unopened", 84, site.other)
    shutil.rmtree(site.other.state)
    site.refuse(answer, "airgap_answer_used", 65)


def a_refresh_is_carried_as_text_and_as_a_qr_code(site: Site) -> None:
    text, picture = site.ask("--text"), site.directory / "request.svg"
    site.machine.run("request", "--qr", "--out", str(picture))
    assert picture.read_bytes().startswith(b"<?xml")
    answer = site.answer(text, "--text")
    site.figures |= {"lines of a refresh": len(text.read_text().splitlines())}
    site.figures |= {"lines of its answer": len(answer.read_text().splitlines())}
    rows = answer.read_text().splitlines()
    step = max(1, (len(rows) - 2) // RETYPED_MAX)
    for number in range(1, len(rows) - 1, step):
        place = 5 + number % GROUP_LETTERS
        wrong = LETTERS[(LETTERS.index(rows[number][place]) + 1) % 32]
        typed = [*rows[:number], rows[number][:place] + wrong + rows[number][place + 1 :], *rows[number + 1 :]]
        mistyped = site.file("mistyped")
        mistyped.write_text("\n".join(typed).lower())
        found = site.refuse(mistyped, "airgap_damaged", 65)
        assert found.endswith(f": line {number} is mistyped"), found
    retyped = site.file("retyped")
    retyped.write_text(answer.read_text().lower().replace(" ", "  "))
    assert site.take(retyped)["state"] == "active"


def suspension_and_resume_are_carried(site: Site) -> None:
    site.cloud.run("node", "suspend", site.node, "--reason", "unpaid")
    assert site.visit()["state"] == "suspended"
    assert site.machine.run("status", expect=82)["license"]["gate"] == "closed"
    site.cloud.run("node", "resume", site.node, "--reason", "paid")
    assert site.visit()["state"] == "active"


def a_running_agent_changes_its_verdict_at_once(site: Site) -> None:
    agent = site.machine
    agent.up()
    try:
        assert agent.granted()
        site.cloud.run("node", "suspend", site.node, "--reason", "unpaid")
        assert site.visit()["state"] == "suspended"
        assert not agent.granted()
        site.cloud.run("node", "resume", site.node, "--reason", "paid")
        site.visit()
        wait_until("the open gate", agent.granted)
        # The request of an activation needs the state, which the agent lends. A refresh then takes its place.
        site.ask("--file", str(site.cloud.code(site.tenant)))
        wait_until("the agent with its state again", lambda: agent.granted() and not is_lent(agent))
        assert site.visit("--new")["state"] == "active"
    finally:
        agent.down()


def each_misuse_is_refused_by_name(site: Site) -> None:
    first = site.answer(site.ask())
    later = site.ask("--new")
    site.refuse(first, "airgap_answer_outdated", 65)
    site.refuse(later, "airgap_wrong_document", 2)
    answer = site.answer(later)
    document = json.loads(answer.read_bytes())
    changed = site.file("changed")
    changed.write_text(json.dumps(document | {"body": document["body"].replace('"generation":1', '"generation":2')}))
    site.refuse(changed, "airgap_answer_unverified", 65)
    cut = site.file("cut")
    cut.write_bytes(answer.read_bytes()[:-40])
    site.refuse(cut, "airgap_damaged", 65)
    site.other.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    site.refuse(answer, "airgap_nothing_requested", 2, site.other)
    other = site.ask("--file", str(site.cloud.code(site.tenant)), machine=site.other)
    site.refuse(answer, "airgap_answer_for_other", 65, site.other)
    site.refuse(site.answer(other), "airgap_answer_for_other", 65)
    assert site.other.run("request", expect=80)["error"]["code"] == "unactivated"
    site.take(answer)
    # The receipt comes with the next request. From then on the operators see that the answer was used.
    site.visit()
    refused = site.cloud.run("airgap", "answer", str(later), expect=None)["error"]["code"]
    assert refused in ("airgap_request_used", "airgap_request_outdated"), refused
    site.refused.add(refused)


def a_rotation_is_slept_through(site: Site) -> None:
    """New root and issuing CAs, and the old ones are gone. The machine reads all of it from one file."""
    before = device_issuer(site.machine)
    rotation = Rotation(site.cloud, site.directory / "hall")
    rotation.make()
    rotation.publish_both()
    off = ("--override", "--reason", f"{site.node} has no network")
    for name in ("root-2", "nodes-2", "services-2"):
        rotation.rotate("activate", name, *off)
    rotation.trust("renew-devices", "--after", "now", "--reason", "rotation")
    wait_until("the renewal of the services", lambda: rotation.served_by("services-2"))
    rotation.trust("publish", rotation.drop(), *off)
    answer = site.answer(site.ask())
    site.figures["bytes of an answer with a new trust"] = answer.stat().st_size
    state = site.take(answer)["state"]
    assert state == "active", f"the state after the rotation is {state}"
    assert device_issuer(site.machine) != before, "the device certificate is still from the old CA"
    assert site.machine.run("status")["license"]["state"] == "active"


def a_reinstalled_machine_recovers_by_file(site: Site) -> None:
    """The state directory is lost. The file of the first activation names the cloud; an operator decides the case."""
    shutil.rmtree(site.machine.state)
    code = site.cloud.code(site.tenant)
    request = site.ask("--recover", "--node", site.node, "--file", str(code))
    waits = site.cloud.run("airgap", "answer", str(request), expect=75)["error"]
    case = re.search(r"rcv_\w+", waits["text"])
    assert waits["code"] == "approval_needed", waits
    assert case, waits
    site.cloud.run("recovery", "approve", case[0], "--reason", "drill")
    found = site.take(site.answer(request))
    assert (found["state"], found["node"]) == ("active", site.node), found
    assert site.visit()["state"] == "active"


def a_revocation_is_carried_and_a_code_readmits(site: Site) -> None:
    site.cloud.run("node", "revoke", site.node, "--reason", "stolen")
    assert site.visit()["state"] == "revoked"
    assert site.machine.launch().wait() == 81
    code = site.cloud.code(site.tenant, "--readmit", site.node)
    readmitted = site.visit("--file", str(code))
    assert (readmitted["state"], readmitted["node"], readmitted["generation"]) == ("active", site.node, 3)
    nodes = site.cloud.run("node", "list", "--tenant", site.tenant)
    site.figures["nodes"] = len(nodes)
    assert sum(each["id"] == site.node for each in nodes) == 1


ROWS: tuple[Callable[[Site], None], ...] = (
    a_first_activation_takes_one_journey,
    a_refresh_is_carried_as_text_and_as_a_qr_code,
    suspension_and_resume_are_carried,
    a_running_agent_changes_its_verdict_at_once,
    each_misuse_is_refused_by_name,
    a_rotation_is_slept_through,
    a_reinstalled_machine_recovers_by_file,
    a_revocation_is_carried_and_a_code_readmits,
)


# Kills


def _walk_imports(scratch: Path, chip: SoftTpm, figures: dict[str, Figure], findings: list[str], say: Say) -> None:
    """Kill an import of an activation before and after each fault point that it passes, and repeat it."""
    lane = Lane(scratch / "walk", chip, PREPARE)
    scenario = Scenario("import of an activation", "carried activation", import_file, ())
    site = lane.site(scenario.situation)
    record = scratch / "passed"
    site.serve()
    site.machine.start("license", "import", str(answer_of(site)), "--json", start=Plan(record=str(record))).wait()
    site.end()
    passed = dict.fromkeys(line.split()[0] for line in record.read_text().splitlines())
    for point in passed:
        for stage in STAGES:
            try:
                walk(lane, Case(scenario, point, stage))
            except Exception as error:  # noqa: BLE001  the error is a finding, and the other kills continue
                findings.append(f"killed {stage} {point}: {error}")
    say(f"{2 * len(passed)} kills, {len(findings)} findings")
    figures["kills of an import"] = 2 * len(passed)
