"""Use case: open a session. For a proof by the node key the cloud returns a session certificate and the current statement.

The TPM signs one proof for each session, and signs in no TLS handshake. A software key does the same. The session key
exists in the returned object only. This module checks the certificate. The statement is returned unverified;
`node.licensing.licence` verifies it.
"""

import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

import msgspec

from node.config import AGENT_VERSION
from node.disk.identity import Identity
from node.hwbind import evidence, keys
from node.hwbind.tpm import Esys, Handle, Tpm
from node.link import api
from node.link.certificates import EKU_SESSION, CertificateRejected, Window, check_chain, usable_chain
from node.link.transport import SessionKey
from node.trust.published import TrustSet
from protocol.encoding import b64url_encode, sha256_hex
from protocol.evidence import ClockInfo, NvCounter
from protocol.faults import fault_point
from protocol.ids import NodeSpiffeId
from protocol.messages.sessions import (
    TYP_SESSION_PROOF,
    OpenSession,
    ProofClaims,
    Session,
    StatementAnswer,
    proof_payload,
    without_later_claims,
)
from protocol.signed import envelope
from protocol.signed.statements import LEASE_VERSION


class Credentials(msgspec.Struct, frozen=True):
    """A session key, its certificate chain (DER, leaf first) and its validity dates. In memory only; never stored."""

    key: SessionKey
    chain: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime

    def connect(self, trust: TrustSet, name: str, window: Callable[[], Window]) -> api.Service:
        """A client of the service `name`, with this session for TLS client authentication. Raises CertificateRejected."""
        return api.connect(trust.bundle, trust.urls, name, window, (self.key, self.chain))


class OpenedSession(msgspec.Struct, frozen=True):
    """An opened session. `current` has the statement and its freshness over `answer_nonce`, both unverified.

    `cursor` is the position of the wake channel that the statement reflects. `renewal` is the renewal token for the next
    session, empty if the node keeps its present token.
    """

    credentials: Credentials
    current: StatementAnswer
    answer_nonce: str
    cursor: int
    renewal: str


class Held(msgspec.Struct, frozen=True):
    """What the node has of earlier contacts: its floor counter, and the renewal token of the last answer."""

    floor: NvCounter | None = None
    renewal: str = ""


NOTHING_HELD = Held()


class SessionRefused(Exception):
    """The cloud refused the exchange. `answer` has the signed statement of the refusal, which may be empty.

    Its freshness is over `answer_nonce`.
    """

    def __init__(self, refusal: api.CloudRefused, answer_nonce: str) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.answer_nonce = answer_nonce
        self.answer = StatementAnswer(statement=refusal.problem.statement, freshness=refusal.problem.freshness)


def fresh_nonce() -> str:
    """A new nonce, for a freshness that the cloud signs. 24 random bytes in base64url."""
    return b64url_encode(secrets.token_bytes(24))


async def _proof(
    tpm: Tpm,
    identity: Identity,
    *,
    nonces: tuple[str, str],
    request: tuple[str, bytes],
    trust_version: int,
    held: Held,
    observe: Callable[[ClockInfo], None],
    plain: bool = False,
) -> str:
    """The signed proof. With `plain` it has only the claims that clouds of earlier releases know.

    `nonces` are the cloud's and ours. `request` is the URL and the CSR in DER. `observe` gets the TPM's clock in the proof.
    """
    (nonce, answer_nonce), (url, csr_der) = nonces, request
    # Imported here: with a TPM, a start without the cloud does not read the fingerprint.
    from node.hwbind.fingerprint import fingerprint
    from node.hwbind.reading import components_in_time

    components = await components_in_time()
    in_software = identity.node_key.in_software

    def clock_and_sign(esys: Esys) -> tuple[bytes, bytes, ClockInfo | msgspec.UnsetType]:
        with evidence.loaded_together(esys, identity.ak, identity.node_key) as handles:
            return signed_claims(esys, *handles)

    def signed_claims(
        esys: Esys, ak: Handle | None, key: Handle | None
    ) -> tuple[bytes, bytes, ClockInfo | msgspec.UnsetType]:
        clock = msgspec.UNSET if in_software else keys.read_clock(esys)
        quoted = not plain and not in_software
        claims = ProofClaims(
            tenant=identity.tenant,
            node=identity.node,
            generation=identity.generation,
            nonce=nonce,
            method="POST",
            url=url,
            csr_sha256=sha256_hex(csr_der),
            answer_nonce=answer_nonce,
            fingerprint=fingerprint(identity.fingerprint_salt, components),
            clock=clock,
            agent_version=AGENT_VERSION,
            trust_version=trust_version,
            development=True if tpm.mode == "development" else msgspec.UNSET,
            pcr_quote=evidence.pcr_quote(esys, identity.ak, nonce.encode(), ak) if quoted else msgspec.UNSET,
            lease_version=LEASE_VERSION,
            floor=msgspec.UNSET if held.floor is None else held.floor,
            renewal=held.renewal or msgspec.UNSET,
        )
        if plain:
            claims = without_later_claims(claims)
        kid = envelope.key_id(identity.node_key.public_key())
        signed = envelope.signing_input(TYP_SESSION_PROOF, kid, proof_payload(claims))
        return signed, keys.sign(esys, identity.node_key, signed, key), clock

    signed, signature, clock = await keys.holder_of(tpm, identity.node_key).run(clock_and_sign)
    if clock is not msgspec.UNSET:
        observe(clock)
    return envelope.assemble(signed, signature)


async def _send(
    service: api.Service, prove: Callable[..., Awaitable[str]], certificate: bytes, csr_der: bytes, presented: str
) -> Session:
    """Send a proof, and send it without its later claims if the cloud refuses it. Raises the errors of the service.

    A cloud of an earlier release refuses claims that it does not know.
    """

    async def send(*, plain: bool) -> Session:
        proof = await prove(plain=plain)
        request = OpenSession(device_certificate=certificate, csr=csr_der, proof=proof, presented=presented)
        with fault_point("node.session.send"):
            return await service.open_session(request)

    try:
        return await send(plain=False)
    except api.CloudRefused as refusal:
        if refusal.code != "proof_refused":
            raise
    return await send(plain=True)


async def open_session(
    trust: TrustSet,
    identity: Identity,
    tpm: Tpm,
    window: Callable[[], Window],
    presented: str,
    hear: Callable[[StatementAnswer, str], None] = lambda _statement, _nonce: None,
    observe: Callable[[ClockInfo], None] = lambda _clock: None,
    *,
    held: Held = NOTHING_HELD,
) -> OpenedSession:
    """Make a proof, send it, and check the session certificate in the answer.

    `window` returns the times at which dates are judged. `presented` is the token of the node's last stored statement,
    or "". The proof carries the node's fingerprint, the version of its trust, floor counter and renewal token in `held`, and
    development mode if the agent runs in it. `hear` gets the statement of an answer whose certificate is rejected, and
    the nonce of its freshness. The statement has its own signature, so it still counts.
    `observe` gets the TPM's clock in the proof.

    Raises SessionRefused, CloudUnreachable, ServerUnproven, CertificateRejected, TpmError.
    """
    session_key = SessionKey()
    answer_nonce = fresh_nonce()
    try:
        async with api.connect(trust.bundle, trust.urls, "fabric", window) as service:
            with fault_point("node.nonce.send"):
                nonce = await service.nonce()
            prove = partial(
                _proof,
                tpm,
                identity,
                nonces=(nonce.nonce, answer_nonce),
                request=(service.base_url + api.SESSION_PATH, session_key.csr_der),
                trust_version=trust.version,
                held=held,
                observe=observe,
            )
            answer = await _send(service, prove, identity.chain[0], session_key.csr_der, presented)
    except api.CloudRefused as refusal:
        raise SessionRefused(refusal, answer_nonce) from refusal
    try:
        leaf = check_chain(
            answer.certificate_chain,
            trust.bundle,
            spiffe=NodeSpiffeId(trust.bundle.trust_domain, identity.tenant, identity.node),
            generation=identity.generation,
            usage=EKU_SESSION,
            public_key=session_key.public_key,
            window=window(),
        )
    except CertificateRejected:
        hear(answer.current, answer_nonce)
        raise
    credentials = Credentials(
        session_key, usable_chain(answer.certificate_chain), leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )
    return OpenedSession(
        credentials=credentials,
        current=answer.current,
        answer_nonce=answer_nonce,
        cursor=answer.cursor,
        renewal=answer.renewal,
    )
