"""Bad input over HTTP, on disk and from the TPM gets a stable code and a next step, and changes nothing.

Each test compares both databases row by row before and after the refusal, and the state directory byte by byte. These
tests go through HTTP and real processes. Forged evidence has its own table in
`tests/cloud/fabric/attestation/test_evidence.py`.
"""

import json
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.fabric.bodies.recovery_codes import SetRecoveryPolicy
from cloud.fabric.nonce import SALT_BYTES, make_nonce
from cloud.http.conditions import CHANGING
from lab.cloud import Cloud
from lab.processes import ended, wait_until
from lab.tpm import SoftTpm
from node.disk.files import encode_state
from node.licensing.store import StatementFile
from protocol.codes import make_secret
from protocol.limits import CHALLENGE_TRIES_MAX, REQUEST_BODY_BYTES_MAX
from protocol.messages.activation import Challenge
from protocol.messages.sessions import Ask, OpenSession, Session, StatementAnswer
from tests.simulators.forged_evidence import Maker, PaperChip, request, request_with_bad_signature
from tests.system.support.damage import DAMAGES, FLOORS, RECORDS, Copies, check_gates_stay_closed, damage, damaged_files
from tests.system.support.harness import Plan, new_machine
from tests.system.support.paper_node import SESSIONS, PaperNode, secret_of
from tests.system.support.routes import Route, World, all_routes, world_of
from tests.system.support.snapshots import files_of, unchanged
from tests.system.support.wire import Wire, new_key, once, renew_device
from tests.waiting import stays_true

FROZEN = Plan(tpm_seconds=3.0)
"""An agent that gives a silent TPM up after 3 s; the product waits 20 s."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, installation: Cloud) -> Iterator[World]:
    """One cloud for this module. A test that stops it starts it again."""
    with world_of(installation, tmp_path_factory.mktemp("bad-input")) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(world: World) -> Cloud:
    return world.cloud


@pytest.fixture
def stranger(cloud: Cloud) -> PaperNode:
    """A simulated node with its own chip. Its RSA key is made once, because that takes long."""
    return PaperNode(cloud, "stranger")


# Bodies


def _bodies(good: object) -> dict[str, tuple[bytes, str, tuple[str, ...]]]:
    """For each kind of bad body, by name: body, content type, and the accepted error codes."""
    encoded = good if isinstance(good, bytes) else json.dumps(_builtins(good)).encode()
    fields: dict[str, Any] = json.loads(encoded)
    wrong = {name: [[{"wrong": 1}]] if not isinstance(value, list) else 7 for name, value in fields.items()}
    cases = {
        "nothing": (b"", "application/json", ("malformed",)),
        "torn": (encoded[: len(encoded) // 2], "application/json", ("malformed",)),
        "not UTF-8": (b'{"\xff": 1}', "application/json", ("malformed",)),
        "a list": (b"[]", "application/json", ("invalid",)),
        "null": (b"null", "application/json", ("invalid",)),
        "nested": (b"[" * 50_000, "application/json", ("malformed", "invalid")),
        "all fields of a wrong type": (json.dumps(wrong).encode(), "application/json", ("invalid",)),
        "a field too many": (json.dumps({**fields, "admin": True}).encode(), "application/json", ("invalid",)),
        "a form": (encoded, "application/x-www-form-urlencoded", ("unsupported_media_type",)),
        "oversized": (
            encoded[:-1] + b" " * REQUEST_BODY_BYTES_MAX + b"}",
            "application/json",
            ("too_large",),
        ),
    }
    required = [name for name in fields if name not in _OPTIONAL]
    if required:
        short = {name: value for name, value in fields.items() if name != required[0]}
        cases["a field too few"] = (json.dumps(short).encode(), "application/json", ("invalid",))
    return cases


_OPTIONAL = frozenset(
    {"reason", "presented", "note", "after", "roots", "targets", "contents", "override", "dry_run", "serials"}
    | set(SetRecoveryPolicy.__struct_fields__)
)


def _builtins(value: object) -> Any:
    return msgspec.to_builtins(value)


def test_malformed_oversized_and_wrongly_typed_bodies(world: World) -> None:
    tried = 0
    for route in all_routes():
        good = world.body(route)
        if good is None or isinstance(good, bytes):
            continue  # the tests of each route that takes other bodies than JSON have a table of bad bodies
        cases = _bodies(good)
        with unchanged(world.cloud):
            for name, (body, media_type, codes) in cases.items():
                answer = world.ask(route, route.rightful, body=body, media_type=media_type)
                try:
                    answer.refused(*codes)
                except AssertionError as error:
                    raise AssertionError(f"{route.name}, {name}: {answer.status} {answer.body[:300]!r}") from error
                tried += 1
    assert tried > 200


def test_unknown_parameters_of_the_query_are_refused_on_every_route(world: World) -> None:
    enrolling = {"authorization": "Basic ZmFicmljOng="}
    with unchanged(world.cloud):
        for route in all_routes():
            answer = world.ask(route, route.rightful, enrolling, query="colour=red")
            assert answer.status == 422, (route.name, answer.status, answer.body[:300])
            if route.entry.method != "HEAD":
                assert "no parameter 'colour'" in answer.refused("invalid").detail, route.name


def test_a_dry_run_writes_nothing_on_every_route_that_has_one(world: World) -> None:
    document = json.loads((Path(__file__).parents[2] / "docs/api/fabric.json").read_bytes())
    trying = {
        f"fabric {method.upper()} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if any(parameter["name"] == "dry_run" for parameter in operation.get("parameters", ()))
    }
    assert len(trying) >= 12
    count = "SELECT count(*) FROM audit"
    before = world.cloud.rows("fabric", count)
    with unchanged(world.cloud):
        answers = {
            route.name: world.ask(route, "operator", query="dry_run=true")
            for route in all_routes()
            if route.name in trying
        }
    assert world.cloud.rows("fabric", count) == before
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(trying, 200)
    revoked = answers["fabric POST /v1/nodes/{node}/revoke"].json()
    assert (revoked["id"], revoked["standing"]) == (world.condemned.node, "revoked")
    assert answers["fabric POST /v1/codes/{code}/revoke"].json()["state"] == "revoked"


def test_a_cursor_of_another_list_is_refused_on_every_list(world: World) -> None:
    document = json.loads((Path(__file__).parents[2] / "docs/api/fabric.json").read_bytes())
    listing = {
        f"fabric GET {path}"
        for path, item in document["paths"].items()
        if {"operator": []} in item.get("get", {}).get("security", ())
        and any(parameter["name"] == "cursor" for parameter in item["get"].get("parameters", ()))
    }
    assert len(listing) >= 13
    tenants = Route("fabric", next(each.entry for each in all_routes() if each.name == "fabric GET /v1/tenants"))
    cursor = world.ask(tenants, "operator", query="limit=1").json()["next_cursor"]
    with unchanged(world.cloud):
        for route in (each for each in all_routes() if each.name in listing):
            for value in (cursor.partition(".")[0], f"{cursor[:-1]}!", cursor):
                answer = world.ask(route, "operator", query=f"cursor={value}&limit=2")
                if route.name == tenants.name and value == cursor:
                    assert len(answer.json()["items"]) == 1, answer.body
                    continue
                problem = answer.refused("cursor_foreign")
                assert problem.status == 400, route.name


def test_a_change_of_what_was_not_read_is_refused_on_every_route(world: World) -> None:
    document = json.loads((Path(__file__).parents[2] / "docs/api/fabric.json").read_bytes())
    documented = {
        f"fabric {method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }  # fmt: skip
    changing = [route for route in all_routes() if route.entry.method in CHANGING]
    assert {route.name for route in changing} == {name for name in documented if name.split()[1] in CHANGING}
    assert len(changing) >= 6
    for route in changing:
        with unchanged(world.cloud):
            for value, code in (
                ("", "if_match_required"),
                ("*", "if_match_required"),
                ("stale", "malformed"),
                ('"stale"', "changed_since_read"),
                (f"W/{world.tag(route)}", "changed_since_read"),
            ):
                world.ask(route, route.rightful, {"if-match": value}).refused(code)
        changed = world.ask(route, route.rightful, {"if-match": f'"stale", {world.tag(route)}'})
        assert (changed.status, changed.headers["etag"]) == (200, world.tag(route)), route.name


@pytest.mark.parametrize("raw", [b"\x16\x03\x01\x02\x00garbage\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_bytes_that_are_not_http(world: World, raw: bytes) -> None:
    with unchanged(world.cloud), Wire(world.cloud) as wire:
        wire.send(raw)
        wire.answer().refused("malformed")


# Codes


def test_codes_that_are_not_accepted(cloud: Cloud, world: World, stranger: PaperNode, tmp_path: Path) -> None:
    expiring = secret_of(cloud.code(world.tenant, "--days", "0.00001"))
    expired_at = datetime.now(UTC) + timedelta(days=0.00001)
    revoked_file = tmp_path / "revoked.json"
    revoked_id = cloud.run("code", "create", world.tenant, "--out", str(revoked_file))["code"]["id"]
    cloud.run("code", "revoke", revoked_id)
    unknown = secret_of(revoked_file)[:-6]  # without its end, so the checksum is wrong
    spent = secret_of(cloud.code(world.tenant, "--seats", "1"))
    PaperNode(cloud, "the one seat").activate(spent)
    wait_until("the end of the code", lambda: datetime.now(UTC) > expired_at)
    with unchanged(cloud):
        answers = [stranger.start(code).refused("code_refused") for code in ("", "cac_x", unknown, unknown + "aaaaaa")]
        answers.append(stranger.start(_other_code()).refused("code_refused"))
        # The answer to a malformed code equals the answer to an unknown code.
        assert all(answer == answers[0] for answer in answers)
        stranger.start(expiring).refused("code_expired")
        stranger.start(secret_of(revoked_file)).refused("code_revoked")
    challenge = stranger.start(spent).into(Challenge)
    with unchanged(cloud):
        stranger.prove(challenge, stranger.proof(challenge)).refused("seats_exhausted")


def test_the_agent_says_what_is_wrong_with_a_code(cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path) -> None:
    machine = new_machine(tmp_path, chips[0])
    tenant = cloud.tenant(chips[0], "codes")
    expired = cloud.code(tenant, "--days", "0.00001")
    expired_at = datetime.now(UTC) + timedelta(days=0.00001)
    out = tmp_path / "revoked.json"
    cloud.run("code", "revoke", cloud.run("code", "create", tenant, "--out", str(out))["code"]["id"])
    good = json.loads(expired.read_text())
    files = {
        "another pin": ({**good, "pin": {"version": 1, "sha256": "ab" * 32}}, 65, None),
        "no such code": ({**good, "code": _other_code()}, 77, "code_refused"),
        "a mistyped code": ({**good, "code": good["code"][:-1] + "!"}, 2, "activation_file_invalid"),
        "another format": ({**good, "format": 2}, 2, "activation_file_invalid"),
        "expired": (good, 77, "code_expired"),
        "revoked": (json.loads(out.read_text()), 77, "code_revoked"),
        "no repository": ({**good, "repository_url": "http://127.0.0.1:9"}, 69, None),
    }
    wait_until("the end of the code", lambda: datetime.now(UTC) > expired_at)
    with unchanged(cloud):
        for name, (content, code, stable) in files.items():
            path = tmp_path / "file.json"
            path.write_text(json.dumps(content))
            error = machine.run("activate", str(path), expect=code)["error"]
            assert stable in (None, error["code"]), (name, error)
            assert error["next"], name
            assert not (machine.state / "identity").exists(), name
    error = machine.run("run", expect=80)["error"]
    assert error["next"]


def _other_code() -> str:
    return make_secret("cac", secrets.token_bytes(20))


# Evidence and certificate requests


def test_chips_without_a_trusted_maker(world: World, cloud: Cloud) -> None:
    with unchanged(cloud):
        PaperNode(cloud, "stranger", Maker.new("Unknown")).start(world.code).refused("tier_refused", "evidence_refused")
        node = PaperNode(cloud, "stranger")
        node.start(world.code, node.evidence(certified=False)).refused("tier_refused")


def test_a_real_chip_of_an_untrusted_maker(
    cloud: Cloud, world: World, chips: tuple[SoftTpm, SoftTpm], tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    file = str(cloud.code(world.tenant))  # of a tenant that trusts only the maker of simulated chips
    with unchanged(cloud):
        error = machine.run("activate", file, expect=77)["error"]
    assert error["code"] in ("tier_refused", "evidence_refused")
    assert error["next"]


def wishing(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A CSR that asks for a CA certificate and for the name of a service."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cascade.internal/service/fabric")])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def of_rsa(_: ec.EllipticCurvePrivateKey) -> bytes:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  (weakness is the point)
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


REQUESTS: dict[str, Callable[[ec.EllipticCurvePrivateKey], bytes]] = {
    "no request": lambda _: b"",
    "not PKCS#10": lambda _: b"\x30\x03\x02\x01\x00",
    "a bad signature": request_with_bad_signature,
    "a weak RSA key": of_rsa,
    "a weak curve": lambda _: request(ec.generate_private_key(ec.SECP192R1())),
    "wished-for extensions": wishing,
    "bytes behind it": lambda key: request(key) + b"\x00",
}


@pytest.mark.parametrize("name", [*REQUESTS, "a foreign key"])
def test_certificate_requests_at_the_activation(world: World, cloud: Cloud, stranger: PaperNode, name: str) -> None:
    challenge = stranger.start(world.code).into(Challenge)
    body = stranger.proof(challenge)
    csr = REQUESTS[name](stranger.node_key) if name in REQUESTS else request(new_key())
    # The evidence is valid for this CSR.
    paper = PaperChip(
        ak=stranger.ak,
        node_key=stranger.node_key,
        nonce_secret=body.secret,
        nonce_activation=challenge.activation,
        csr=csr,
    ).prove()
    with unchanged(cloud):
        bent = type(body)(body.secret, csr, paper.key, body.fingerprint)
        stranger.prove(challenge, bent).refused("csr_refused", "evidence_refused")
    # The challenge is still open: the right proof succeeds.
    assert stranger.prove(challenge, stranger.proof(challenge)).status == 200


@pytest.mark.parametrize("name", REQUESTS)
def test_certificate_requests_of_sessions(world: World, cloud: Cloud, name: str) -> None:
    csr = REQUESTS[name](new_key())
    body = world.other.open_session(csr)
    with unchanged(cloud):
        once(cloud, "fabric", "POST", SESSIONS, body).refused("csr_refused")


@pytest.mark.parametrize("name", [*REQUESTS, "a foreign key"])
def test_certificate_requests_of_renewals(world: World, cloud: Cloud, name: str) -> None:
    key = world.other.node_key
    csr = REQUESTS[name](key) if name in REQUESTS else request(new_key())
    with unchanged(cloud), Wire(cloud, "breakwater", world.session) as wire:
        renew_device(wire, csr).refused("csr_refused" if csr else "malformed")


# Challenges


def test_secrets_of_another_challenge_or_another_tpm(world: World, cloud: Cloud, stranger: PaperNode) -> None:
    mine = stranger.start(world.code).into(Challenge)
    earlier = stranger.start(world.code).into(Challenge)
    other = PaperNode(cloud, "the one seat")
    theirs = other.start(world.code).into(Challenge)
    foreign = [stranger.secret(earlier), other.secret(theirs), bytes(32)]
    assert len(foreign) == CHALLENGE_TRIES_MAX
    for left, secret in zip((2, 1, 0), foreign, strict=True):
        body = stranger.proof(mine, secret=secret)
        with unchanged(cloud, "fabric.activation.tries", "fabric.activation.state"):
            problem = stranger.prove(mine, body).refused("challenge_failed")
        assert f"tries left: {left}" in problem.detail
    # The last allowed answer was wrong, so the right answer is refused now.
    with unchanged(cloud):
        stranger.prove(mine, stranger.proof(mine)).refused("activation_closed")


def test_a_replayed_proof(world: World, cloud: Cloud, stranger: PaperNode) -> None:
    first, second = (stranger.start(world.code).into(Challenge) for _ in range(2))
    body = stranger.proof(first)
    # The evidence is for the first challenge, and the secret is of the second.
    with unchanged(cloud):
        bent = type(body)(stranger.secret(second), body.csr, body.key, body.fingerprint)
        stranger.prove(second, bent).refused("evidence_refused")
    good = stranger.prove(first, body)
    assert good.status == 200
    with unchanged(cloud):
        # The same bytes get the stored answer; other bytes are refused.
        assert stranger.prove(first, body).body == good.body
        stranger.prove(first, stranger.proof(first)).refused("activation_closed")
        once(cloud, "fabric", "POST", "/v1/activations/act_00000000000000000000000000/proof", body).refused("not_found")


def test_an_expired_challenge(world: World, cloud: Cloud, stranger: PaperNode) -> None:
    challenge = stranger.start(world.code).into(Challenge)
    # A challenge lasts ten minutes, so the test changes the stored date instead of waiting.
    move(cloud, "UPDATE activation SET expires_at = ? WHERE id = ?", "2026-01-01 00:00:00+00:00", challenge.activation)
    with unchanged(cloud):
        stranger.prove(challenge, stranger.proof(challenge)).refused("challenge_expired")


def move(cloud: Cloud, sql: str, *arguments: object) -> None:
    """Change one row of Fabric's database while Fabric runs."""
    connection = sqlite3.connect(cloud.directory / "fabric" / "database.sqlite", timeout=10)
    try:
        with connection:
            assert connection.execute(sql, arguments).rowcount == 1
    finally:
        connection.close()


# Session proofs


def _old_nonce(world: World) -> str:
    """A real nonce of this cloud, made six minutes ago."""
    (key,) = world.cloud.rows("fabric", "SELECT value FROM installation WHERE name = 'nonce_key'")[0]
    now = datetime.now(UTC)
    return make_nonce(bytes(key), now - timedelta(minutes=6), secrets.token_bytes(SALT_BYTES))


def _foreign_nonce(_: World) -> str:
    now = datetime.now(UTC)
    return make_nonce(bytes(32), now, secrets.token_bytes(SALT_BYTES))


PROOFS: dict[str, Callable[[World, bytes], OpenSession]] = {
    "an old nonce": lambda world, csr: world.other.open_session(csr, nonce=_old_nonce(world)),
    "a nonce of another cloud": lambda world, csr: world.other.open_session(csr, nonce=_foreign_nonce(world)),
    "no nonce": lambda world, csr: world.other.open_session(csr, nonce=""),
    "another URL": lambda world, csr: world.other.open_session(csr, url="https://127.0.0.1:1/v1/node/sessions"),
    "the issuer's URL": lambda world, csr: world.other.open_session(
        csr, url=f"https://127.0.0.1:{world.cloud.port + 1}/v1/node/sessions"
    ),
    "another method": lambda world, csr: world.other.open_session(csr, method="GET"),
    "another key": lambda world, csr: world.other.open_session(csr, signer=new_key()),
    "the victim's key": lambda world, csr: world.other.open_session(csr, signer=world.victim.node_key),
    "another request": lambda world, csr: world.other.open_session(csr, csr_sha256="ab" * 32),
    "another node": lambda world, csr: world.other.open_session(csr, node=world.victim.node),
    "another generation": lambda world, csr: world.other.open_session(csr, generation=2),
    "the victim's certificate": lambda world, csr: world.other.open_session(csr, device=world.victim.device),
}


@pytest.mark.parametrize("name", PROOFS)
def test_session_proofs(world: World, cloud: Cloud, name: str) -> None:
    body = PROOFS[name](world, request(new_key()))
    with unchanged(cloud):
        once(cloud, "fabric", "POST", SESSIONS, body).refused("proof_refused")


def test_a_session_certificate_is_no_device_certificate(world: World, cloud: Cloud) -> None:
    session = world.session
    issuing = x509.load_der_x509_certificate(session.chain[1])
    devices = {
        "with the node's key": world.other.open_session(request(new_key()), device=session.chain[0]),
        "with its own key": world.other.open_session(request(new_key()), device=session.chain[0], signer=session.key),
        "a CA": world.other.open_session(request(new_key()), device=issuing.public_bytes(Encoding.DER)),
        "no certificate": world.other.open_session(request(new_key()), device=b"\x30\x00"),
    }
    with unchanged(cloud):
        for body in devices.values():
            once(cloud, "fabric", "POST", SESSIONS, body).refused("certificate_refused")


def test_a_session_of_a_closed_generation(world: World, cloud: Cloud) -> None:
    node = PaperNode(cloud, "the one seat").join(world.code)
    old, old_device, old_key = node.activated, node.device, node.node_key
    session = node.session()
    node.join(world.code)
    assert old is not None
    wait_until("the closing", lambda: cloud.rows("fabric", "SELECT count(*) FROM node WHERE closing") == [(0,)])
    body = node.open_session(request(new_key()), device=old_device, signer=old_key, generation=old.generation)
    once(cloud, "fabric", "POST", SESSIONS, body)  # the first refusal records the delivery of the revocation
    with unchanged(cloud):
        problem = once(cloud, "fabric", "POST", SESSIONS, body).refused("generation_closed")
        assert problem.statement
        assert problem.freshness
        ask = {"nonce": "n" * 32}
        once(cloud, "fabric", "POST", "/v1/node/statement", ask, session).refused("generation_closed")
        once(cloud, "fabric", "POST", "/v1/node/confirm", ask, session).refused("generation_closed")
        with Wire(cloud, "breakwater", session) as wire:
            renew_device(wire, request(old_key)).refused("generation_closed")


def test_a_repeated_proof_gets_the_same_certificate(world: World, cloud: Cloud) -> None:
    body = world.other.open_session(request(new_key()))
    first = once(cloud, "fabric", "POST", SESSIONS, body).into(Session)
    with unchanged(cloud):
        assert once(cloud, "fabric", "POST", SESSIONS, body).into(Session).certificate_chain == first.certificate_chain


# Damaged state, under the real agent


@pytest.fixture(scope="module")
def copies(cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], tmp_path_factory: pytest.TempPathFactory) -> Copies:
    directory = tmp_path_factory.mktemp("copies")
    machine = new_machine(directory, chips[0], "original")
    tenant = cloud.tenant(chips[0], "copies")
    assert machine.run("activate", str(cloud.code(tenant)))["state"] == "active"
    (machine.state / "lock").unlink()
    return Copies(directory, chips[0], machine.state)


@pytest.fixture(scope="class")
def cloud_gone(world: World) -> Iterator[None]:
    """The cloud is stopped during the tests of the class."""
    world.cloud.down()
    yield
    world.close()
    world.forget()
    world.cloud.up()


@pytest.fixture(scope="module")
def statement_of_another(world: World, copies: Copies) -> bytes:
    """The record of a valid statement of another node, as that node's agent stores it."""
    answer = once(world.cloud, "fabric", "POST", "/v1/node/statement", Ask("n" * 32), world.session)
    token = answer.into(StatementAnswer).statement
    kid = json.loads((copies.saved / RECORDS[0]).read_bytes())["kid"]
    return encode_state(StatementFile(kid=kid, token=token, received_at=datetime.now(UTC)))


@pytest.mark.usefixtures("statement_of_another", "cloud_gone")
class TestDamagedState:
    """Agents that cannot reach the cloud. `make drills PART=damaged-state` damages each file in every way."""

    def test_the_undamaged_state_opens_the_gate(self, copies: Copies) -> None:
        whole = copies.offline("whole")
        with ended(whole):
            whole.up()
            assert whole.granted()
            whole.down()

    def test_damaged_state_never_opens_the_gate(self, copies: Copies) -> None:
        """Each file is damaged in one way, and each way is used for several files."""
        check_gates_stay_closed(copies, list(zip(damaged_files(copies.saved), cycle(DAMAGES), strict=False)))

    def test_another_record_decides_and_the_damage_is_shown(self, copies: Copies) -> None:
        names = [*RECORDS, *FLOORS, "current.json"]
        machines = [copies.offline(f"with damaged {name.replace('/', ' ')}") for name in names]
        with ended(*machines):
            for machine, name in zip(machines, names, strict=True):
                damage(machine, [name], "torn")
                machine.launch()
            for machine, name in zip(machines, names, strict=True):
                wait_until("an answer", machine.answers)
                wait_until("an open gate", machine.granted)
                # The agent writes current.json again at once.
                damaged = machine.ask("/v1/status")["damaged"]
                assert any(name in text for text in damaged) == (name != "current.json")

    def test_state_of_another_node_or_generation(self, copies: Copies, statement_of_another: bytes) -> None:
        """A valid statement of another node does not open the gate. The agent has no other record here."""
        mine = copies.offline("with another's statement")
        for name in RECORDS:
            (mine.state / name).write_bytes(statement_of_another)
        with ended(mine):
            mine.up()
            assert mine.licence == "stale"
            assert not mine.granted()
            error = mine.run("status", expect=85)["license"]
            assert error["next"]
            assert mine.down() == 0


# TPM


def test_no_tpm(copies: Copies, tmp_path: Path, cloud: Cloud) -> None:
    machine = copies.machine("without a tpm")
    machine.env = {**machine.env, "CASCADIA_TPM": "tabrmd:bus_name=io.cascade.nobody,bus_type=session"}
    before = files_of(machine.state)
    for command in ("run", "renew"):
        error = machine.run(command, expect=87)["error"]
        assert error["code"] == "tpm-absent"
        assert error["next"]
    status = machine.run("status", expect=87)
    assert (status["hardware"], status["license"]["gate"]) == ("unavailable", "closed")
    assert status["license"]["next"]
    bare = new_machine(tmp_path, copies.chip, "bare")
    bare.env = machine.env
    error = bare.run("activate", str(cloud.code(str(cloud.run("tenant", "list")[0]["id"]))), expect=87)["error"]
    assert error["code"] == "tpm-absent"
    assert files_of(machine.state) == before
    assert not (bare.state / "identity").exists()
    refused = {**machine.env, "CASCADIA_MODE": "production"}
    machine.env = refused
    assert machine.run("run", expect=2)["error"]["code"] == "tpm-connection-refused"


@pytest.mark.long(10, "test_bad_input.py")
def test_a_frozen_tpm_at_the_start_and_a_restarted_manager_while_running(copies: Copies, cloud: Cloud) -> None:
    machine = copies.machine("frozen", FROZEN)
    with ended(machine):
        machine.up()
        machine.wait_state("active")
        # An update of the resource manager closes the connection. The agent connects again.
        copies.chip.restart_resource_manager()
        machine.run("renew", expect=0)
        assert machine.granted()
        copies.chip.freeze()
        try:
            # A frozen chip does not change the licence: the agent answers, and the gate stays open.
            waiting = machine.start("renew", "--json")
            stays_true("the gate is open", machine.granted, 1)
            second = copies.machine("frozen at its start", FROZEN)
            late = second.launch()
            assert late.wait(40) == 87, late.report()
            assert "no answer in time" in late.tail()
            assert waiting.wait(60) != 0
            assert machine.granted()
        finally:
            copies.chip.thaw()
        wait_until("a renewal once the TPM answers again", lambda: machine.start("renew").wait(60) == 0, 60)
        assert machine.granted()
        assert machine.down() == 0


# Disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_leaves_the_old_state_intact(
    copies: Copies, cloud: Cloud, chips: tuple[SoftTpm, SoftTpm], small_disk: Path, tmp_path: Path
) -> None:
    machine = new_machine(tmp_path, chips[0])
    machine.env = {**machine.env, "CASCADIA_STATE_DIR": str(small_disk / "state")}
    shutil.copytree(copies.saved, small_disk / "state")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))
    before = files_of(small_disk / "state")
    file_ = str(cloud.code(str(next(t["id"] for t in cloud.run("tenant", "list") if t["name"] == "copies"))))
    error = machine.run("activate", file_, expect=70)["error"]
    assert error["code"] == "disk_full"
    assert "Free space" in error["next"]
    assert files_of(small_disk / "state") == before
    with ended(machine):
        machine.up()
        assert machine.granted()
        node = machine.ask("/v1/status")["license"]["node"]
        # The agent cannot store the suspension. It keeps the suspension in memory, and the files on disk stay intact.
        cloud.run("node", "suspend", node)
        wait_until("the suspension", lambda: not machine.granted())
        assert machine.ask("/v1/status") is not None
        assert files_of(small_disk / "state") == before
        filler.unlink()
        # A restart without the cloud reads the suspension only from disk.
        wait_until("the storing of the suspension", lambda: files_of(small_disk / "state") != before, 5)
        assert machine.licence == "suspended"
        cloud.run("node", "resume", node)
        machine.wait_state("active")
        assert machine.down() == 0
