"""Greedy callers of a cloud, at full speed, and honest callers beside them.

`GREEDY` is the table: a hostile node, code, enrolment secret, token and stranger. Each greedy caller sends requests until its time is
over, on several connections, and ignores `Retry-After`. The honest callers send what a fleet and an operator send, and
count the refusals.
"""

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lab.cloud import Cloud
from lab.processes import wait_until
from protocol.limits import EVENT_WAIT_SECONDS_MAX
from protocol.messages.activation import Challenge
from protocol.messages.est import PATH_CACERTS, PATH_SIMPLEENROLL, PATH_SIMPLEREENROLL, TYPE_PKCS10, encode_base64
from protocol.messages.sessions import Ask, Events
from tests.simulators.forged_evidence import request, request_with_bad_signature
from tests.system.support.paper_node import SESSIONS, PaperNode, paper_tenant, secret_of
from tests.system.support.wire import Answer, Closed, Identity, Service, Wire, new_key

HOSTILE = "127.0.0.3"
CONNECTIONS = 4
"""Connections of a greedy caller. It sends as fast as the cloud answers on each."""
POLLS = 8
"""Connections with a long poll that a greedy node keeps on each of its threads."""


class Noticed(msgspec.Struct):
    """Answers that the honest callers got: by kind and status, and the longest time of each kind in seconds."""

    answers: Counter[tuple[str, int]]
    slowest: dict[str, float]

    @property
    def refused(self) -> dict[str, int]:
        return {f"{kind} {status}": count for (kind, status), count in self.answers.items() if status >= 400}


class Scene:
    """A running cloud with an honest and a hostile node, code and token."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.cloud = cloud
        self.tenant = paper_tenant(cloud, directory)
        self.code = secret_of(cloud.code(self.tenant, "--seats", "500"))
        self.leaked = secret_of(cloud.code(self.tenant))
        self.token = (cloud.directory / "operator" / "token").read_text().strip()
        cloud.run("token", "create", "hostile", "--out", str(directory / "hostile"))
        self.hostile_token = (directory / "hostile").read_text().strip()
        leaked = directory / "secret"
        cloud.run("pki", "issue", "ledger", "--dir", str(cloud.directory), "--out", str(leaked), "--host", "127.0.0.1")
        self.leaked_secret = leaked.read_text().strip()
        self.honest = PaperNode(cloud, "honest").join(self.code)
        self.hostile = PaperNode(cloud, "hostile").join(self.code)
        self.reinstalled = PaperNode(cloud, "reinstalled")
        self.joined = 0


Ended = Callable[[], bool]
Seen = Counter[int]


@contextmanager
def _kept(
    scene: Scene, service: Service = "fabric", identity: Identity | None = None
) -> Iterator[Callable[..., Answer]]:
    """A function that sends a hostile request on a kept connection, and connects again when it was closed."""
    wires: list[Wire] = []

    def send(method: str, path: str, body: object = None, **more: object) -> Answer:
        for _ in range(3):
            try:
                if not wires:
                    wires.append(Wire(scene.cloud, service, identity, source=HOSTILE))
                wires[0].begin(method, path, body, **more)  # type: ignore[arg-type]  # as `begin` wants them
                return wires[0].answer()
            except (Closed, OSError):
                wires.clear()
        return Answer(0, {}, b"")

    try:
        yield send
    finally:
        for wire in wires:
            wire.__exit__()


def greedy_node(scene: Scene, ended: Ended, seen: Seen) -> None:
    """One node opens sessions, fetches statements and renews its certificate."""
    node, identity = scene.hostile, scene.hostile.session()
    with (
        _kept(scene) as anonymous,
        _kept(scene, "fabric", identity) as fabric,
        _kept(scene, "breakwater", identity) as issuer,
    ):
        while not ended():
            seen[anonymous("POST", SESSIONS, node.open_session(request(new_key()))).status] += 1
            seen[fabric("POST", "/v1/node/statement", Ask("n" * 32)).status] += 1
            body = encode_base64(request(node.node_key))
            seen[issuer("POST", PATH_SIMPLEREENROLL, body, media_type=TYPE_PKCS10).status] += 1


def greedy_polls(scene: Scene, ended: Ended, seen: Seen) -> None:
    """One node begins long polls on more and more connections, and reads the oldest answers."""
    identity = scene.hostile.session()
    with Wire(scene.cloud, "fabric", identity, source=HOSTILE) as wire:
        wire.begin("GET", "/v1/node/events")
        cursor = wire.answer().into(Events).cursor
    wires: list[Wire] = []
    try:
        while not seen or not ended():
            while len(wires) < POLLS:
                wires.append(Wire(scene.cloud, "fabric", identity, source=HOSTILE))
                wires[-1].begin("GET", f"/v1/node/events?cursor={cursor}&wait={EVENT_WAIT_SECONDS_MAX}")
            oldest = wires.pop(0)
            seen[oldest.answer().status] += 1
            oldest.__exit__()
    finally:
        for each in wires:
            each.__exit__()


def greedy_code(scene: Scene, ended: Ended, seen: Seen) -> None:
    """The holder of a leaked code for one seat activates one machine again and again."""
    node = scene.reinstalled
    while not ended():
        started = node.start(scene.leaked)
        seen[started.status] += 1
        if started.status < 300:
            challenge = started.into(Challenge)
            seen[node.prove(challenge, node.proof(challenge)).status] += 1


def greedy_token(scene: Scene, ended: Ended, seen: Seen) -> None:
    """An operator's token lists nodes and makes tenants."""
    headers = {"authorization": f"Bearer {scene.hostile_token}"}
    with _kept(scene) as send:
        while not ended():
            seen[send("GET", "/v1/nodes?limit=100", headers=headers).status] += 1
            seen[send("POST", "/v1/tenants", {"name": "hostile"}, headers=headers).status] += 1


def greedy_secret(scene: Scene, ended: Ended, seen: Seen) -> None:
    """The holder of an enrolment secret sends requests that are refused, which free the secret for the next request."""
    login = base64.b64encode(f"ledger:{scene.leaked_secret}".encode()).decode()
    headers = {"authorization": f"Basic {login}"}
    with _kept(scene, "breakwater") as send:
        while not ended():
            body = encode_base64(request_with_bad_signature(new_key()))
            seen[send("POST", PATH_SIMPLEENROLL, body, headers=headers, media_type=TYPE_PKCS10).status] += 1


def greedy_stranger(scene: Scene, ended: Ended, seen: Seen) -> None:
    """A caller without an identity asks everything that strangers may ask, and shows wrong secrets."""
    wrong = {"authorization": "Basic " + base64.b64encode(b"fabric:wrong").decode()}
    with _kept(scene) as fabric, _kept(scene, "breakwater") as issuer, _kept(scene, "pki") as public:
        while not ended():
            seen[public("GET", "/ocsp/MAoGCCsGAQUFBzAB").status] += 1
            seen[public("GET", "/crl/nodes-1/1.crl").status] += 1
            seen[fabric("POST", "/v1/node/nonces").status] += 1
            seen[fabric("GET", "/v1/tenants", headers={"authorization": "Bearer wrong"}).status] += 1
            seen[fabric("GET", "/readyz").status] += 1
            body = encode_base64(request(new_key()))
            seen[issuer("POST", PATH_SIMPLEENROLL, body, headers=wrong, media_type=TYPE_PKCS10).status] += 1
            seen[issuer("GET", PATH_CACERTS).status] += 1


GREEDY: dict[str, Callable[[Scene, Ended, Seen], None]] = {
    "node": greedy_node,
    "polls": greedy_polls,
    "code": greedy_code,
    "secret": greedy_secret,
    "token": greedy_token,
    "stranger": greedy_stranger,
}


def _honest(scene: Scene, over: threading.Event, noticed: Noticed, pause: float) -> None:
    """A node, a new machine with the site's code, an operator and strangers, one after the other."""
    headers = {"authorization": f"Bearer {scene.token}"}
    node = scene.honest
    identity = node.session()
    asks: dict[str, tuple[Service, Identity | None, str, str, object, dict[str, str]]] = {
        "statement": ("fabric", identity, "POST", "/v1/node/statement", Ask("n" * 32), {}),
        "nonce": ("fabric", None, "POST", "/v1/node/nonces", None, {}),
        "list": ("fabric", None, "GET", "/v1/tenants", None, headers),
        "make": ("fabric", None, "POST", "/v1/tenants", {"name": "honest"}, headers),
        "ready": ("fabric", None, "GET", "/readyz", None, {}),
        "est": ("breakwater", None, "GET", PATH_CACERTS, None, {}),
        "crl": ("pki", None, "GET", "/crl/nodes-1/1.crl", None, {}),
        "trust": ("repository", None, "GET", "/tuf/metadata/timestamp.json", None, {}),
    }

    def note(kind: str, status: int, begun: float) -> None:
        noticed.answers[kind, status] += 1
        noticed.slowest[kind] = max(noticed.slowest.get(kind, 0.0), time.monotonic() - begun)

    while True:
        for kind, (service, who, method, path, body, sent) in asks.items():
            begun = time.monotonic()
            with Wire(scene.cloud, service, who) as wire:
                wire.begin(method, path, body, sent)
                note(kind, wire.answer().status, begun)
        begun = time.monotonic()
        with Wire(scene.cloud) as wire:
            wire.begin("POST", SESSIONS, node.open_session(request(new_key())))
            answer = wire.answer()
            note("session", answer.status, begun)
        begun = time.monotonic()
        scene.joined += 1
        machine = PaperNode(scene.cloud, f"machine {scene.joined}")
        started = machine.start(scene.code)
        note("activation", started.status, begun)
        if started.status < 300:
            challenge = started.into(Challenge)
            note("proof", machine.prove(challenge, machine.proof(challenge)).status, begun)
        if over.wait(pause):
            return


def attacked(scene: Scene, name: str, seconds: float, pause: float = 1.0) -> tuple[Seen, Noticed]:
    """Let a greedy caller at the cloud for some seconds, and until its first answer. Return its answers, and what the honest callers noticed."""
    over = threading.Event()
    seen, noticed = [Seen() for _ in range(CONNECTIONS)], Noticed(Counter(), {})
    with ThreadPoolExecutor(CONNECTIONS + 1) as threads:
        greedy = [threads.submit(GREEDY[name], scene, over.is_set, each) for each in seen] if name else []
        honest = threads.submit(_honest, scene, over, noticed, pause)
        try:
            over.wait(seconds)
            # A busy machine may need longer for the first answer.
            wait_until("an answer to the greedy caller", lambda: not name or any(seen))
        finally:
            over.set()
        for each in (*greedy, honest):
            each.result()
    return sum(seen, Seen()), noticed
