"""Simulator of Fabric and Breakwater for tests of the node: real TLS 1.3 on loopback, real statements, chosen errors.

The simulator uses none of the cloud's code and shares only `protocol` with the node. So it can show a mistake that node
and cloud both make. It has one tenant and one node, and no database. It runs as a trio task (`serve`) or, for a command
line that runs its own loop, in a thread (`in_thread`). A test causes errors through `answers` (the answer of a path),
`leaves` (the server certificates), or a change of the public attributes between two requests.
"""

import base64
import contextlib
import secrets
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tpm2_pytss.types import TPM2B_NAME, TPM2B_PUBLIC, TPMT_PUBLIC
from tpm2_pytss.utils import make_credential

from protocol import problems
from protocol.encoding import json_decode, json_encode, sha256, sha256_hex
from protocol.ids import EKU_DEVICE, ActivationId, NodeId, RenewalId, TenantId, make_id
from protocol.messages import est, sessions
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, ProveActivation, StartActivation
from protocol.messages.recovery import AwaitedRecovery, RecoveryClaim
from protocol.messages.renewal import ProveRenewal, RenewalChallenge, Renewed, StartRenewal
from protocol.signed import statements
from protocol.signed.envelope import KeyRing, VerificationKey, key_id, seal
from protocol.signed.freshness import TYP_FRESHNESS, Freshness, payload_of
from protocol.signed.trust import ServiceUrls, X509Bundle

DOMAIN = "cascade.internal"
TENANT = TenantId("ten_0" + "1" * 25)
NODE = NodeId("node_0" + "1" * 25)
NODE_URI = f"spiffe://{DOMAIN}/tenant/{TENANT}/node/{NODE}"
DAY = timedelta(days=1)
REFRESH_AFTER = DAY
"""Time from the issue of a lease to its `refresh_after`."""
AUTHORITY_LIFE = 3650 * DAY
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Leaf:
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]


def subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def make_certificate(
    issuer: Authority | ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    name: x509.Name,
    *extensions: x509.ExtensionType,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> x509.Certificate:
    """A certificate signed by `issuer`. If `issuer` is a key, the certificate is self-issued."""
    signed_by, above = (issuer.key, issuer.certificate.subject) if isinstance(issuer, Authority) else (issuer, name)
    builder = x509.CertificateBuilder(
        issuer_name=above,
        subject_name=name,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=not_before or utc_now() - timedelta(minutes=5),
        not_valid_after=not_after or utc_now() + DAY,
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signed_by, hashes.SHA256())


def authority(name: str, above: Authority | None = None) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    named = subject((NameOID.COMMON_NAME, name))
    constraints = x509.BasicConstraints(ca=True, path_length=0 if above else None)
    ends_at = utc_now() + AUTHORITY_LIFE
    return Authority(key, make_certificate(above or key, key.public_key(), named, constraints, not_after=ends_at))


@dataclass(frozen=True)
class Request:
    """A request that the server received. `generation` is that of the client certificate, or 0 without one."""

    service: str
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    generation: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Answer = Callable[[Request], Awaitable[Reply | bytes]]
"""The answer of a path: a reply, or raw bytes. After raw bytes the server closes the connection."""


def always(status: int, body: bytes = b"", *headers: tuple[str, str]) -> Answer:
    async def answer(_: Request) -> Reply:
        return Reply(status, body, headers)

    return answer


def raw(data: bytes) -> Answer:
    async def answer(_: Request) -> bytes:
        return data

    return answer


async def hang(_: Request) -> Reply:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


def problem(code: str, statement: str = "", freshness: str = "") -> Reply:
    document = problems.document(problems.KINDS[code], statement=statement, freshness=freshness)
    return Reply(document.status, json_encode(document), (("content-type", problems.CONTENT_TYPE),))


def refused(code: str) -> Answer:
    async def answer(_: Request) -> Reply:
        return problem(code)

    return answer


@dataclass
class _Exchange:
    """An activation or a renewal that has begun."""

    secret: bytes
    answers: dict[bytes, bytes] = field(default_factory=dict)
    generation: int = 0
    recovers: bool = False


class Fabric:
    """The simulator. `requests` has every request, `received` counts bytes of plaintext, `handshakes` has results."""

    def __init__(self) -> None:
        self.root = authority("root")
        self.nodes = authority("nodes", self.root)
        self.services = authority("services", self.root)
        names = ("lease", "revocation", "freshness")
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        self.leaves = {name: self.service_leaf(name) for name in ("fabric", "breakwater")}
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.received = 0
        self.handshakes: list[str] = []
        self.urls = ServiceUrls(format=1, fabric="https://127.0.0.1:1", breakwater="https://127.0.0.1:1")
        self.epoch, self.seq, self.cursor = 1, 0, 1
        self.confirmed = 0
        self.last_generation = 0
        self.closed: dict[int, str] = {}
        self.statement = ""
        self.numbers_above = True
        """Whether an activation's generation is above the one that the machine holds."""
        self.knows_held_generation = True
        """Whether a proof may have the field `held_generation`. A cloud of an earlier release refuses the field."""
        self.knows_later_claims = True
        """Whether a session proof may have later claims. A cloud of an earlier release refuses them."""
        self.proofs: list[sessions.ProofClaims] = []
        """The claims of the session proofs, also of refused ones."""
        self.held_generations: list[int | msgspec.UnsetType] = []
        """The generations that the proofs of activations have reported as held."""
        self.claims: list[tuple[str, RecoveryClaim]] = []
        """The code and the claim of each start of a recovery."""
        self.knows_recovery = True
        """Whether a start may have the field `recovery`. A cloud of an earlier release refuses the field."""
        self.awaited: AwaitedRecovery | None = None
        self.decides: Callable[[str], Reply | None] | None = None
        """Gets the id of an activation whose proof has come. Returns an answer, or None for the usual one."""
        """What a recovery waits for. None lets it go on."""
        self.trust_versions: list[int | msgspec.UnsetType] = []
        """The versions of the trust that session proofs and requests for the statement have reported."""
        self.lease_fields: dict[str, object] = {}
        """Fields of every later lease, in the place of the usual ones."""
        self.session_life = timedelta(hours=12)
        self.taken: set[bytes] | None = None
        """The device certificates that may open a session; None means all. Renewal with evidence leaves the new one."""
        self.chain_above: tuple[bytes, ...] = ()
        """The certificates after the issuer in a session's chain."""
        self.renewals: dict[str, list[bytes]] = {}
        self._nonces: set[str] = set()
        self._exchanges: dict[str, _Exchange] = {}
        self._changed = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    # The published trust

    @property
    def bundle(self) -> X509Bundle:
        return X509Bundle(
            format=1,
            trust_domain=DOMAIN,
            roots=(self.root.der,),
            node_issuers=(self.nodes.der,),
            service_issuers=(self.services.der,),
        )

    def verification_keys(self) -> tuple[VerificationKey, ...]:
        typs = {
            "lease": (statements.TYP_LEASE,),
            "revocation": (statements.TYP_SUSPENSION, statements.TYP_REVOCATION),
            "freshness": (TYP_FRESHNESS,),
        }
        return tuple(
            VerificationKey(
                kid=key_id(key.public_key()),
                typs=typs[name],
                public_key_der=key.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                ),
                not_before=utc_now() - 365 * DAY,
                not_after=utc_now() + 365 * DAY,
            )
            for name, key in self.keys.items()
        )

    @property
    def ring(self) -> KeyRing:
        return KeyRing(self.verification_keys())

    # Certificates

    def service_leaf(
        self,
        service: str,
        *,
        issuer: Authority | None = None,
        uris: tuple[str, ...] | None = None,
        ip: str = "127.0.0.1",
        usages: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Leaf:
        """A service's certificate. Each argument makes one part of it wrong."""
        key = ec.generate_private_key(ec.SECP256R1())
        above = issuer or self.services
        named = (f"spiffe://{DOMAIN}/service/{service}",) if uris is None else uris
        certificate = make_certificate(
            above,
            key.public_key(),
            subject((NameOID.COMMON_NAME, service)),
            x509.SubjectAlternativeName(
                [*(x509.UniformResourceIdentifier(uri) for uri in named), x509.IPAddress(ip_address(ip))]
            ),
            x509.ExtendedKeyUsage(usages),
            not_before=not_before,
            not_after=not_after,
        )
        return Leaf(key, (certificate.public_bytes(serialization.Encoding.DER), above.der))

    def node_chain(
        self,
        public_key: ec.EllipticCurvePublicKey,
        generation: int,
        usage: str = EKU_DEVICE,
        life: timedelta = 90 * DAY,
        not_before: datetime | None = None,
    ) -> tuple[bytes, ...]:
        """A device certificate and its issuer's. With another `usage` it is a session certificate."""
        certificate = make_certificate(
            self.nodes,
            public_key,
            subject((NameOID.COMMON_NAME, NODE), (NameOID.SERIAL_NUMBER, str(generation))),
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE_URI)]),
            x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)]),
            not_before=not_before,
            not_after=utc_now() + life,
        )
        return certificate.public_bytes(serialization.Encoding.DER), self.nodes.der

    # Statements

    def _common(self, generation: int, issued_at: datetime | None) -> dict[str, object]:
        self.seq += 1
        return {
            "trust_domain": DOMAIN,
            "tenant": TENANT,
            "node": NODE,
            "generation": generation or self.confirmed,
            "epoch": self.epoch,
            "seq": self.seq,
            "issued_at": issued_at or utc_now(),
        }

    def _sealed(self, statement: statements.Statement) -> str:
        key = self.keys["lease" if isinstance(statement, statements.Lease) else "revocation"]
        typ = statements.typ_of(statement)
        return seal(typ, key_id(key.public_key()), statements.payload_of(statement), key)

    def lease(self, generation: int = 0, issued_at: datetime | None = None, **changes: object) -> str:
        """The token of a new lease. `say` makes it the current statement."""
        at = issued_at or utc_now()
        fields = self._common(generation, at) | {
            "tier": "attested",
            "profile": "standard",
            "entitlements": ("render",),
            "not_before": at - timedelta(minutes=5),
            "refresh_after": at + REFRESH_AFTER,
            "expires_at": at + 30 * DAY,
            "grace_until": at + 45 * DAY,
            "terminate_at": at + 60 * DAY,
        }
        return self._sealed(msgspec.convert(fields | self.lease_fields | changes, statements.Lease))

    def suspension(self) -> str:
        return self._sealed(msgspec.convert(self._common(0, None) | {"reason": "unpaid"}, statements.Suspension))

    def revocation(self, generation: int = 0, reason: str = "revoked") -> str:
        fields = self._common(generation, None) | {"reason": reason}
        return self._sealed(msgspec.convert(fields, statements.Revocation))

    def freshness(self, nonce: str, statement: str, generation: int) -> str:
        claims = Freshness(
            trust_domain=DOMAIN,
            node=NODE,
            generation=generation,
            nonce=nonce,
            statement_sha256=sha256_hex(statement.encode()),
            at=utc_now(),
        )
        key = self.keys["freshness"]
        return seal(TYP_FRESHNESS, key_id(key.public_key()), payload_of(claims), key)

    def say(self, token: str) -> None:
        """Make the token the current statement, and wake all polls on the wake channel."""
        self.statement = token
        self.cursor += 1
        event, self._changed = self._changed, trio.Event()
        event.set()

    def revoke(self, reason: str = "revoked") -> None:
        """Close every generation so far permanently."""
        for generation in range(1, max(self.last_generation, self.confirmed) + 1):
            self.closed.setdefault(generation, self.revocation(generation, reason))
        self.say(self.closed[self.confirmed])

    # Serving

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled. `urls` has the real ports once the task has started."""
        ports = {}
        async with trio.open_nursery() as nursery:
            for name in ("fabric", "breakwater"):
                listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
                ports[name] = listener.socket.getsockname()[1]
                nursery.start_soon(trio.serve_listeners, self._handler(name), [listener])
            self.urls = ServiceUrls(
                format=1,
                fabric=f"https://127.0.0.1:{ports['fabric']}",
                breakwater=f"https://127.0.0.1:{ports['breakwater']}",
            )
            task_status.started()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator["Fabric"]:
        """Serve from a thread that has its own loop."""
        started = threading.Event()
        scope = trio.CancelScope()

        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.serve)
                    started.set()

        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        if not started.wait(10):
            raise RuntimeError("the simulator did not start")
        try:
            yield self
        finally:
            if self._token is not None:
                self._token.run_sync_soon(scope.cancel)
            thread.join()

    def _context(self, leaf: Leaf) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.root.der + self.nodes.der)
        pem = leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "chain.pem"
            file.write_bytes(pem + b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in leaf.chain))
            context.load_cert_chain(file)
        return context

    def _handler(self, service: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
        async def handle(stream: trio.SocketStream) -> None:
            tls = trio.SSLStream(stream, self._context(self.leaves[service]), server_side=True)
            try:
                await tls.do_handshake()
                self.handshakes.append("done")
                await self._connection(service, tls)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                # A client that gave up in the middle of a request ends here as well.
                self.handshakes.append("broken")
            finally:
                await trio.aclose_forcefully(stream)

        return handle

    async def _connection(self, service: str, tls: trio.SSLStream[trio.SocketStream]) -> None:
        der = tls.getpeercert(binary_form=True)
        generation = 0
        if der is not None:
            serial = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0]
            generation = int(str(serial.value))
        connection = h11.Connection(h11.SERVER)
        while (request := await self._read(service, generation, connection, tls)) is not None:
            self.requests.append(request)
            answer = await self.answer(request)
            if isinstance(answer, bytes):
                await tls.send_all(answer)
                return
            headers = [*answer.headers, ("content-length", str(len(answer.body)))]
            data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
            # The answer to a HEAD has the length of a body and no body.
            data += connection.send(h11.Data(data=b"" if request.method == "HEAD" else answer.body)) or b""
            data += connection.send(h11.EndOfMessage()) or b""
            await tls.send_all(data)
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _read(
        self, service: str, generation: int, connection: h11.Connection, tls: trio.SSLStream[trio.SocketStream]
    ) -> Request | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await tls.receive_some(65536)
                self.received += len(data)
                connection.receive_data(bytes(data))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                parts = urlsplit(head.target.decode())
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Request(
                    service, head.method.decode(), parts.path, parse_qs(parts.query), body, generation, headers
                )
            else:
                return None

    # Routes

    async def answer(self, request: Request) -> Reply | bytes:
        """The answer to a request: the test's own, or that of the route."""
        return await self.answers.get(request.path, self._route)(request)

    async def _route(self, request: Request) -> Reply:
        parts = request.path.split("/")[2:]
        answer = self._without_session(request, parts)
        if answer is not None:
            return answer
        if not request.generation:
            return problem("peer_required")
        if request.generation in self.closed:
            return problem("generation_closed", self.closed[request.generation])
        match request.method, parts:
            case "POST", ["node", "confirm"]:
                return self._confirm(request)
            case "POST", ["node", "statement"]:
                return self._state(request)
            case "POST", ["node", "release"]:
                self.revoke("released")
                asked = json_decode(request.body, sessions.Ask)
                closed = self.closed[request.generation]
                return _ok(sessions.StatementAnswer(closed, self.freshness(asked.nonce, closed, request.generation)))
            case "GET", ["node", "events"]:
                return await self._events(request)
            case "POST", ["est", "simplereenroll"]:
                return self._renew(request)
            case _:
                return problem("not_found")

    def _without_session(self, request: Request, parts: list[str]) -> Reply | None:
        match request.method, parts:
            case "POST", ["activations"]:
                return self._start(request)
            case "POST", ["activations", activation, "proof"]:
                return self._prove(activation, request)
            case "POST", ["node", "renewals"]:
                return self._start_renewal(request)
            case "POST", ["node", "renewals", renewal, "proof"]:
                return self._prove_renewal(renewal, request)
            case "POST", ["node", "nonces"]:
                nonce = secrets.token_urlsafe(24)
                self._nonces.add(nonce)
                return _ok(sessions.Nonce(nonce=nonce, expires_at=utc_now() + timedelta(minutes=5)))
            case "POST", ["node", "sessions"]:
                return self._open_session(request)
            case _:
                return None

    def _start(self, request: Request) -> Reply:
        asked = json_decode(request.body, StartActivation)
        recovers = asked.recovery is not msgspec.UNSET
        if asked.recovery is not msgspec.UNSET:
            if not self.knows_recovery:
                return problem("invalid")
            self.claims.append((asked.code, asked.recovery))
        activation = ActivationId(make_id("act", 1, secrets.token_bytes(10)))
        secret = secrets.token_bytes(32)
        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(asked.evidence.ek_public)[0])
        name = TPM2B_NAME(name=b"\x00\x0b" + sha256(asked.evidence.ak_public))
        blob, encrypted = make_credential(public, secret, name)
        self._exchanges[activation] = _Exchange(secret, recovers=recovers)
        return _ok(
            Challenge(
                activation=activation,
                credential_blob=bytes(blob.marshal()),
                encrypted_secret=bytes(encrypted.marshal()),
                fingerprint_salt=bytes(32),
                expires_at=utc_now() + timedelta(minutes=10),
                tries_left=3,
            ),
            201,
        )

    def _prove(self, activation: str, request: Request) -> Reply:
        exchange = self._exchanges.get(activation)
        if exchange is None:
            return problem("activation_closed")
        if request.body not in exchange.answers:
            proof = json_decode(request.body, ProveActivation)
            if proof.held_generation is not msgspec.UNSET and not self.knows_held_generation:
                return problem("invalid")
            if proof.secret != exchange.secret:
                return problem("challenge_failed")
            if self.decides is not None and (decided := self.decides(activation)) is not None:
                return decided
            if exchange.recovers and self.awaited is not None:
                ends = self.awaited.decide_by
                wait = AwaitedApproval(ActivationId(activation), utc_now(), ends, 10, recovery=self.awaited)
                return _ok(wait, 202)
            self.held_generations.append(proof.held_generation)
            held = (proof.held_generation or 0) if self.numbers_above else 0
            self.last_generation = max(self.last_generation, held) + 1
            activated = Activated(
                tenant=TENANT,
                node=NODE,
                generation=self.last_generation,
                certificate_chain=self.node_chain(_csr_key(proof.csr), self.last_generation),
                confirm_by=utc_now() + DAY,
            )
            exchange.answers[request.body] = json_encode(activated)
        return Reply(200, exchange.answers[request.body])

    def _open_session(self, request: Request) -> Reply:
        asked = json_decode(request.body, sessions.OpenSession)
        if self.taken is not None and asked.device_certificate not in self.taken:
            return problem("certificate_refused")
        device = x509.load_der_x509_certificate(asked.device_certificate)
        self.trust_versions.append(_trust_version(asked.proof))
        claims = sessions.open_proof(asked.proof, device.public_key())
        self.proofs.append(claims)
        if not self.knows_later_claims and claims != sessions.without_later_claims(claims):
            return problem("proof_refused")
        if claims.nonce not in self._nonces:
            return problem("proof_refused")
        self._nonces.discard(claims.nonce)
        expected = ("POST", self.urls.fabric + request.path, sha256_hex(asked.csr))
        if (claims.method, claims.url, claims.csr_sha256) != expected:
            return problem("proof_refused")
        generation = claims.generation
        if generation in self.closed:
            closed = self.closed[generation]
            return problem("generation_closed", closed, self.freshness(claims.answer_nonce, closed, generation))
        statement = self.statement if generation == self.confirmed else ""
        fresh = self.freshness(claims.answer_nonce, statement, generation) if statement else ""
        chain = self.node_chain(_csr_key(asked.csr), generation, CLIENT.dotted_string, self.session_life)
        chain += self.chain_above
        return _ok(sessions.Session(chain, sessions.StatementAnswer(statement, fresh), self.cursor))

    def _confirm(self, request: Request) -> Reply:
        if request.generation != self.confirmed:
            for lower in range(1, request.generation):
                self.closed.setdefault(lower, self.revocation(lower, "superseded"))
            self.confirmed = self.last_generation = request.generation
            self.say(self.lease())
        return self._state(request)

    def _state(self, request: Request) -> Reply:
        asked = json_decode(request.body, sessions.Ask)
        self.trust_versions.append(asked.trust_version)
        fresh = self.freshness(asked.nonce, self.statement, request.generation)
        return _ok(sessions.StatementAnswer(self.statement, fresh))

    async def _events(self, request: Request) -> Reply:
        if int(request.query["cursor"][0]) == self.cursor:
            with trio.move_on_after(int(request.query["wait"][0])):
                await self._changed.wait()
        if request.generation in self.closed:
            return problem("generation_closed")
        return _ok(sessions.Events(cursor=self.cursor))

    def _renew(self, request: Request) -> Reply:
        if request.headers["content-type"] != est.TYPE_PKCS10:
            return problem("unsupported_media_type")
        key = _csr_key(est.decode_base64(request.body))
        # A repeated request gets the same certificate.
        known = self.renewals.setdefault(request.headers[est.HEADER_REQUEST.lower()], [])
        known += [] if known else [self.node_chain(key, request.generation)[0]]
        return Reply(200, est.encode_certs_only(tuple(known)), (("content-type", est.TYPE_PKCS7),))

    def _start_renewal(self, request: Request) -> Reply:
        asked = json_decode(request.body, StartRenewal)
        renewal = RenewalId(make_id("ren", 1, secrets.token_bytes(10)))
        secret = secrets.token_bytes(32)
        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(asked.evidence.ek_public)[0])
        blob, encrypted = make_credential(
            public, secret, TPM2B_NAME(name=b"\x00\x0b" + sha256(asked.evidence.ak_public))
        )
        device = x509.load_der_x509_certificate(asked.device_certificate)
        generation = int(str(device.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value))
        self._exchanges[renewal] = _Exchange(secret, generation=generation)
        expires_at = utc_now() + timedelta(minutes=10)
        return _ok(RenewalChallenge(renewal, bytes(blob.marshal()), bytes(encrypted.marshal()), expires_at, 3), 201)

    def _prove_renewal(self, renewal: str, request: Request) -> Reply:
        exchange = self._exchanges.get(renewal)
        if exchange is None:
            return problem("not_found")
        proof = json_decode(request.body, ProveRenewal)
        if proof.secret != exchange.secret:
            return problem("challenge_failed")
        generation = exchange.generation
        if generation in self.closed:
            closed = self.closed[generation]
            return problem("generation_closed", closed, self.freshness(proof.answer_nonce, closed, generation))
        if request.body not in exchange.answers:
            chain = self.node_chain(_csr_key(proof.csr), generation)
            exchange.answers[request.body] = json_encode(Renewed(chain))
            self.taken = {chain[0]}
        return Reply(200, exchange.answers[request.body])


def _ok(body: msgspec.Struct, status: int = 200) -> Reply:
    return Reply(status, json_encode(body), (("content-type", "application/json"),))


def _trust_version(proof: str) -> int | msgspec.UnsetType:
    payload = proof.split(".")[1]
    return json_decode(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), sessions.ProofClaims
    ).trust_version


def _csr_key(der: bytes) -> ec.EllipticCurvePublicKey:
    key = x509.load_der_x509_csr(der).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("not an EC key")
    return key
