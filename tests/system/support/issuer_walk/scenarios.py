"""Table of the issuer walk: the requests of clients to Breakwater, and the fault points of each scenario.

A scenario is a procedure that may be repeated at any replica. The kill interrupts it. Then the scenario runs again,
and with two replicas once more.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.contracts.breakwater import PATH_DEVICE
from cloud.mtls.identity import IdentityError, load_identity
from lab.postgres import postgres_database, sqlite_database
from lab.processes import WAIT_SECONDS, wait_until
from protocol.faults import Stage
from protocol.messages.est import decode_certs_only
from protocol.problems import ProblemDocument
from tests.system.support import witness
from tests.system.support.issuer_walk.checks import check, serials_of
from tests.system.support.issuer_walk.site import Interrupted, Mode, Replica, Site, copy_sqlite, died
from tests.system.support.wire import service_identity

Step = Callable[[Site, Replica, str], None]

RETRIES = 3
BACKGROUND_SECONDS = 5.0
"""The time for work after an answer. A publication follows within a quarter of a second."""


# Preparations


def _nothing(_site: Site, _at: Replica, _tag: str) -> None:
    """No preparation."""


def _a_device(site: Site, at: Replica, tag: str) -> None:
    site.open(at, tag)
    site.device(at, tag)


def _a_session(site: Site, at: Replica, tag: str) -> None:
    _a_device(site, at, tag)
    site.session(at, tag)


def _a_secret(site: Site, _at: Replica, tag: str) -> None:
    site.secret(tag)


def _an_enrolled_service(site: Site, at: Replica, tag: str) -> None:
    _a_secret(site, at, tag)
    _enroll(site, at, tag)


def _a_service_certificate(site: Site, at: Replica, tag: str) -> None:
    _renew_service(site, at, tag)


def _a_dead_record(site: Site, at: Replica, tag: str) -> None:
    """A process died between the record and its certificate. The record is too old to be in another process's work."""
    site.open(at, tag)
    witness.arm(at.control, "breakwater.certificate.store", "before")
    with suppress(Interrupted):
        site.device(at, tag)
    assert died(at.process, at.control, "breakwater.certificate.store", "before", BACKGROUND_SECONDS)
    witness.disarm(at.control)
    if site.mode != "sqlite":
        time.sleep(witness.FLIGHT_SECONDS)


def _a_lost_database(site: Site, _at: Replica, _tag: str) -> None:
    """Stop every process, and replace the database by a new one. CRL numbers must still rise."""
    site.end()
    site.forgotten = frozenset(each.tbs for control in site.controls for each in witness.signatures(control))
    site.memory.certificates.clear()
    site.memory.revoked.clear()
    site.memory.closed.clear()
    site.there_before = frozenset()
    if site.mode == "sqlite":
        copy_sqlite(sqlite_database("breakwater", site.files), site.a)
    else:
        site.use(postgres_database("breakwater"))


def _next_services_ca(site: Site, _at: Replica, tag: str) -> None:
    _, answer = site.requested("services", tag)
    site.pki("rotate", "import", str(answer))


# Procedures


def _issue(site: Site, at: Replica, tag: str) -> None:
    site.open(at, tag)
    site.device(at, tag)
    site.session(at, tag)


def _renew_device(site: Site, at: Replica, tag: str) -> None:
    """Ask for the next device certificate of the same key, with a node's session."""
    site.reenroll(at, f"{tag}.renewed", site.csr(f"{tag}.device"), site.session(at, tag))


def _renew_service(site: Site, at: Replica, tag: str) -> None:
    identity = service_identity(site.installation, "fabric")
    site.reenroll(at, f"{tag}.fabric", site.csr(f"{tag}.fabric"), identity)


def _enroll(site: Site, at: Replica, tag: str) -> None:
    answer = site.enroll(at, site.csr(f"{tag}.ledger"), "ledger", site.secret(tag))
    assert answer.status == 200, answer.body
    site.memory.receive(f"{tag}.ledger", decode_certs_only(answer.body)[0])


def _enroll_wrongly_first(site: Site, at: Replica, tag: str) -> None:
    """A refused request leaves the one-time secret usable. A successful request uses it up."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("elsewhere")]), critical=False)
    wrong = site.kept(f"{tag}.wrong", lambda key: builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    site.enroll(at, wrong, "ledger", site.secret(tag)).refused("csr_refused", "enrolment_refused")
    _enroll(site, at, tag)


def _close(site: Site, at: Replica, tag: str) -> None:
    site.close(at, tag, "device")
    _closed_for_ever(site, at, tag)


def _close_one(site: Site, at: Replica, tag: str) -> None:
    site.close(at, tag, "device", one=True)
    _closed_for_ever(site, at, tag)


def _closed_for_ever(site: Site, at: Replica, tag: str) -> None:
    problem: ProblemDocument = site.tell(at, PATH_DEVICE, site.order(tag, "late", 1)).refused("generation_closed")
    assert problem.detail


def _close_and_publish(site: Site, at: Replica, tag: str) -> None:
    """Close a new node's generation, because a repeated closing publishes no CRL. Repeats an interrupted closing.

    The publication follows the closing so soon that the kill may prevent the answer. Then the client asks again.
    """
    begun = site.files / f"{tag}.closing"
    new = begun.read_text() if begun.exists() else site.tag()
    begun.write_text(new)
    if f"{new}.device" not in site.memory.certificates:
        _a_device(site, at, new)
    site.close(at, new, "device")
    begun.unlink()


def _rekey(site: Site, at: Replica, tag: str) -> None:
    site.device(at, tag, "rekeyed")
    site.supersede(at, tag, "rekeyed", "device")


def _issue_without_key(site: Site, at: Replica, tag: str) -> None:
    """The first signature fails. The repeated request gets a certificate with a new record."""
    site.open(at, tag)
    if f"{tag}.device" not in site.memory.certificates and not (site.files / f"{tag}.failed").exists():
        (at.control / "fail").touch()
        (site.files / f"{tag}.failed").touch()
    site.device(at, tag)


def _start(site: Site, at: Replica, tag: str) -> None:
    at.up()
    if not at.running:
        raise Interrupted("the issuer did not start")
    site.open(at, tag)
    site.device(at, tag)


def _start_on_a_new_database(site: Site, at: Replica, tag: str) -> None:
    """Start, and publish the root's list again. An issuer does not publish a list from a file that may be old."""
    _start(site, at, tag)
    site.pki("crl", "--import", str(site.a.directory / "breakwater" / "certs" / "root.crl"))


def _revoke_certificate(site: Site, _at: Replica, tag: str) -> None:
    name = f"{tag}.fabric"
    pem = site.files / f"{name}.pem"
    pem.write_bytes(x509.load_der_x509_certificate(site.memory.certificates[name]).public_bytes(Encoding.PEM))
    site.pki("revoke", "--certificate", str(pem), "--reason", "keyCompromise")
    site.memory.revoke(name)


def _revoke_service(site: Site, _at: Replica, _tag: str) -> None:
    site.pki("revoke", "--service", "ledger", "--reason", "cessationOfOperation")
    for name in [name for name in site.memory.certificates if name.endswith(".ledger")]:
        site.memory.revoke(name)


def _publish(site: Site, _at: Replica, _tag: str) -> None:
    site.pki("crl", "--publish")


def _rotate(site: Site, at: Replica, tag: str) -> None:
    """Rotate to the next CA for nodes, and issue a certificate from it."""
    authority, answer = site.requested("nodes", tag)
    site.pki("rotate", "import", str(answer))
    site.pki("rotate", "activate", authority, "--override", "--reason", "the walk")
    site.open(at, tag)
    device = x509.load_der_x509_certificate(site.device(at, tag))
    device.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.read_bytes()))


def _cross(site: Site, _at: Replica, tag: str) -> None:
    for answer in site.new_root(tag):
        site.pki("rotate", "import", str(answer))


def _follow(site: Site, at: Replica, tag: str) -> None:
    """Activate a new CA for services. Breakwater's listener has a certificate from it within seconds."""
    authority, answer = site.requested("services", tag)
    site.pki("rotate", "activate", authority, "--override", "--reason", "the walk")
    ca = x509.load_pem_x509_certificate(answer.read_bytes())
    tls, passphrase = at.directory / "breakwater" / "tls", at.directory / "secrets" / "passphrase"

    def followed() -> bool:
        if not at.running:
            raise Interrupted("the issuer died")
        with suppress(IdentityError):  # the read was between two renames of the writer
            return load_identity(tls, passphrase).leaf.issuer == ca.subject
        return False

    wait_until("the issuer's new certificate", followed)


class Scenario(msgspec.Struct, frozen=True):
    """A procedure with its preparation, and the fault points at which it is killed.

    `dies` is the process to kill: the server or the command. With `fresh`, the server restarts before the procedure, so
    that it has issued nothing. `tries` is the number of attempts to reach the fault point. With `at_home`, the retry
    goes to the killed process also when there is a second replica.
    """

    name: str
    prepare: Step
    attempt: Step
    points: tuple[str, ...]
    dies: Literal["server", "command"] = "server"
    fresh: bool = False
    tries: int = 1
    at_home: bool = False


_ISSUANCE = ("breakwater.certificate.record", "breakwater.certificate.store")

SCENARIOS = (
    Scenario("first certificates", _nothing, _issue, ("breakwater.generation.open", *_ISSUANCE)),
    Scenario("first certificate of a process", _nothing, _issue, ("breakwater.shard.reserve",), fresh=True),
    Scenario("renewal by a node", _a_session, _renew_device, _ISSUANCE),
    Scenario("renewal by a service", _nothing, _renew_service, _ISSUANCE),
    Scenario("enrolment", _a_secret, _enroll, ("breakwater.enrolment.bind", *_ISSUANCE)),
    Scenario("refused enrolment", _a_secret, _enroll_wrongly_first, ("breakwater.enrolment.release",)),
    Scenario("close", _a_device, _close, ("breakwater.generation.close",)),
    Scenario("close of one", _a_device, _close_one, ("breakwater.generation.close_one",)),
    Scenario("publication", _nothing, _close_and_publish, ("breakwater.crl.draw", "breakwater.crl.store"), tries=5),
    Scenario("rekey", _a_device, _rekey, ("breakwater.keys.supersede",)),
    Scenario("key out of reach", _nothing, _issue_without_key, ("breakwater.certificate.give_up",)),
    Scenario("record left behind", _a_dead_record, _start, ("breakwater.certificate.orphan",)),
    Scenario(
        "database lost",
        _a_lost_database,
        _start_on_a_new_database,
        (
            "breakwater.authority.adopt",
            "breakwater.identity.publish",
            "breakwater.events.seed",
            "breakwater.events.walk",
            "breakwater.events.finish",
        ),
    ),
    Scenario(
        "pki revoke --certificate",
        _a_service_certificate,
        _revoke_certificate,
        ("breakwater.certificate.revoke",),
        dies="command",
    ),
    Scenario(
        "pki revoke --service", _an_enrolled_service, _revoke_service, ("breakwater.service.revoke",), dies="command"
    ),
    Scenario("pki crl --publish", _nothing, _publish, ("breakwater.crl.draw", "breakwater.crl.store"), dies="command"),
    Scenario(
        "pki rotate", _nothing, _rotate, ("breakwater.authority.prepare", "breakwater.authority.move"), dies="command"
    ),
    Scenario("pki rotate of the root", _nothing, _cross, ("breakwater.authority.cross",), dies="command"),
    Scenario(
        "next CA of services",
        _next_services_ca,
        _follow,
        (
            "breakwater.identity.request",
            "breakwater.identity.key",
            "breakwater.identity.chain",
            "breakwater.identity.swap",
        ),
        at_home=True,
    ),
)


class Case(msgspec.Struct, frozen=True):
    """A scenario in one mode, and the fault point and stage of the kill."""

    mode: Mode
    scenario: Scenario
    point: str
    stage: Stage

    def __str__(self) -> str:
        return f"{self.mode}, {self.scenario.name}: killed {self.stage} {self.point}"


MODES: tuple[Mode, ...] = ("sqlite", "postgresql", "two replicas")
STAGES: tuple[Stage, ...] = ("before", "after")


def modes_of(scenario: Scenario) -> tuple[Mode, ...]:
    """The modes of a scenario. A command is killed beside a running server, so a second replica proves no more."""
    return MODES if scenario.dies == "server" else MODES[:2]


class Group(msgspec.Struct, frozen=True):
    """Cases of one scenario in one mode. They share a site, whose history grows from case to case."""

    mode: Mode
    scenario: Scenario
    cases: tuple[Case, ...]

    def __str__(self) -> str:
        return f"{self.mode}, {self.scenario.name}: {', '.join(f'{each.stage} {each.point}' for each in self.cases)}"


def all_groups() -> list[Group]:
    """The groups of `make drills PART=issuer-walk`: a kill before and one after each fault point, in each mode."""
    return [
        Group(
            mode, scenario, tuple(Case(mode, scenario, point, stage) for point in scenario.points for stage in STAGES)
        )
        for scenario in SCENARIOS
        for mode in modes_of(scenario)
    ]


def kept_groups() -> list[Group]:
    """The groups of `make test`: one kill at each fault point of each scenario, alternately before and after it.

    Each scenario has one mode; the modes take turns.
    """
    groups, number = [], 0
    for turn, scenario in enumerate(SCENARIOS):
        modes = modes_of(scenario)
        mode = modes[turn % len(modes)]
        cases = []
        for point in scenario.points:
            cases.append(Case(mode, scenario, point, STAGES[number % 2]))
            number += 1
        groups.append(Group(mode, scenario, tuple(cases)))
    return groups


def walk_group(site: Site, group: Group) -> dict[Case, float]:
    """Walk the cases, and end the site. Returns the seconds of each case. An error has a note with the case."""
    taken: dict[Case, float] = {}
    try:
        site.there_before = frozenset(serials_of(site))
        for case in group.cases:
            try:
                taken[case] = walk(site, case)
            except BaseException as error:
                error.add_note(str(case))
                raise
    finally:
        site.end()
    return taken


def walk(site: Site, case: Case) -> float:
    """Kill, retry at another replica or after a restart, check. Returns the seconds. Raises AssertionError."""
    begun, scenario, tag = time.monotonic(), case.scenario, site.tag()
    try:
        site.up_all()
        scenario.prepare(site, site.a, tag)
        if scenario.fresh:
            site.a.kill()
            site.up(site.a)
        _kill(site, case, tag)
        retried = site.a if site.b is None or scenario.at_home else site.b
        _retry(site, scenario, retried, tag)
        if site.b is not None:
            _retry(site, scenario, site.a, tag)
    except Interrupted as error:
        raise AssertionError(str(error)) from error
    return time.monotonic() - begun


def _retry(site: Site, scenario: Scenario, at: Replica, tag: str) -> None:
    """Start `at`, run the scenario there up to `RETRIES` times until it is not interrupted, and check."""
    site.up(at)
    for left in reversed(range(RETRIES)):
        try:
            scenario.attempt(site, at, tag)
            break
        except Interrupted:
            if not left or not at.running:
                raise
    check(site, at)


def _kill(site: Site, case: Case, tag: str) -> None:
    commanded = case.scenario.dies == "command"
    control = site.commands if commanded else site.a.control
    witness.arm(control, case.point, case.stage)
    interruption = ""
    for turn in range(case.scenario.tries):
        try:
            case.scenario.attempt(site, site.a, tag)
        except Interrupted as error:
            interruption = str(error)
        process = site.command_process if commanded else site.a.process
        seconds = WAIT_SECONDS if turn == case.scenario.tries - 1 else BACKGROUND_SECONDS
        if died(process, control, case.point, case.stage, seconds):
            witness.disarm(control)
            return
    raise AssertionError(f"no process died at this fault point: {interruption}")
