"""Use case and background task: answer OCSP requests from the database, and renew the responder certificates.

For each authority this process has a delegate: a key that is never stored, and a responder certificate for two days,
issued by that authority (RFC 6960 section 4.2.2.2). Rule: Every answer has the status that the database has now. A
cached answer is returned only after the database has confirmed its status. A refusal is an OCSP error response, not an
HTTP error.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import IssuerError, SignerUnavailable, Transient
from cloud.breakwater.pkix.ocsp import CertId, OcspRefused, Question, Status, answer, cert_ids, parse_request, refusal
from cloud.breakwater.pkix.profiles import Issuer
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.breakwater.store.issuance import serial_text
from cloud.breakwater.store.revocation_status import RevocationStatusStore
from cloud.storage import StorageError
from cloud.tasks.back_off import BackOff
from cloud.tasks.stopping import Stopping
from protocol.messages.sessions import Certificate

log = logging.getLogger("cascade.breakwater.responder")

Now = Callable[[], datetime]

ANSWER_LIFE = timedelta(hours=1)
"""How long an answer is valid. A client that stores an answer trusts the certificate for this long after a revocation.
HTTP caches do not: they ask before each use (`routes/public.py`)."""
REUSE = timedelta(minutes=5)
"""How long an answer without a nonce is returned again, while the status in the database is the same."""
ANSWERS_MAX = 4096
"""Cached answers. Each has about 600 bytes."""
CHECK_SECONDS = 30.0
"""Interval at which the background task checks the age of the delegates. A change of the authorities ends the pause."""
RETRY_SECONDS = 10.0
"""The same interval after a failed renewal."""
PAUSE_SECONDS = 1.0
"""Pause after a delegate could not be made, because each try leaves a record in the database for a month."""
PAUSE_SECONDS_MAX = 30.0
"""The pause doubles with each failure, up to this."""
ANSWERING = ("active", "old", "tainted")
"""States of an authority in which its delegate is made in advance and renewed."""
_SERIAL_MAX = 2**160


class KnownAuthorities(Protocol):
    """Port: the known authorities. `cloud.breakwater.authorities.Authorities` is the adapter."""

    def find(self, authority: str) -> Issuer | None: ...

    def rows(self) -> Sequence[AuthorityRow]: ...


class IssuesResponders(Protocol):
    """Port: issues responder certificates. `cloud.breakwater.issuance.issuing.Issuing` is the adapter."""

    async def issue_responder(self, authority: str, public_key: ec.EllipticCurvePublicKey) -> Certificate: ...


class Delegate(msgspec.Struct, frozen=True):
    """A delegated responder: this process's key for one authority, and its responder certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def renew_at(self) -> datetime:
        """The middle of the certificate's life."""
        start, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return start + (end - start) / 2

    def may_sign(self, now: datetime) -> bool:
        """Whether the certificate is valid during the whole life of an answer from now.

        It is not valid yet if it was made while this process's clock was ahead.
        """
        return self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc - ANSWER_LIFE


class Answered(msgspec.Struct, frozen=True):
    """An OCSP response in DER. `this_update` is None if no cache may store it."""

    der: bytes
    this_update: datetime | None = None


class _Paused(SignerUnavailable):
    """The last try to make a delegate failed, was logged, and its pause is not over."""


class _Failed(msgspec.Struct, frozen=True):
    """Why a delegate could not be made, and the pause before the next try, in seconds of the event loop."""

    why: str
    back_off: BackOff


class _Reusable(msgspec.Struct, frozen=True):
    status: Status
    delegate: x509.Certificate
    answered: Answered
    since: datetime
    until: datetime


class OcspResponder:
    """The OCSP responder of one process."""

    def __init__(
        self, store: RevocationStatusStore, authorities: KnownAuthorities, issuing: IssuesResponders, now: Now
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._issuing = issuing
        self._now = now
        self._delegates: dict[str, Delegate] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, _Failed] = {}
        self._answers: OrderedDict[tuple[str, CertId, int], _Reusable] = OrderedDict()
        self._ids: dict[str, tuple[bytes, tuple[CertId, ...]]] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let the background task check the delegates now, because the authorities changed."""
        self._woken.set()

    async def answer(self, der: bytes) -> Answered:
        """Answer a request in DER. Errors become OCSP error responses (RFC 6960 section 2.3)."""
        try:
            question = parse_request(der)
            return await self._answer(question)
        except OcspRefused as refused:
            return Answered(refusal(refused.trouble))
        except _Paused:
            return Answered(refusal("try_later"))
        except (SignerUnavailable, Transient, StorageError) as error:
            log.error("cannot answer an OCSP request now", extra={"reason": f"{type(error).__name__}: {error}"})
            return Answered(refusal("try_later"))
        except IssuerError as error:
            log.error("cannot answer an OCSP request", extra={"reason": f"{type(error).__name__}: {error}"})
            return Answered(refusal("internal"))

    async def _answer(self, question: Question) -> Answered:
        authority = self._authority_of(question.issuer)
        if authority is None:
            raise OcspRefused("unauthorized", "no CA with this name and key")
        status = await self._status(authority, question.serial)
        delegate = await self._delegate(authority)
        now = self._now()
        place = (authority, question.issuer, question.serial)
        known = self._answers.get(place) if question.nonce is None else None
        same = known is not None and (known.status, known.delegate) == (status, delegate.certificate)
        if known is not None and same and known.since <= now < known.until:
            return known.answered
        this_update = now.replace(microsecond=0)
        next_update = min(this_update + ANSWER_LIFE, delegate.certificate.not_valid_after_utc)
        made = answer(question, status, delegate.certificate, delegate.key, this_update, next_update)
        if question.nonce is not None:
            return Answered(made)
        answered = Answered(made, this_update)
        self._answers[place] = _Reusable(status, delegate.certificate, answered, this_update, now + REUSE)
        self._answers.move_to_end(place)
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        return answered

    def _authority_of(self, wanted: CertId) -> str | None:
        """Return the id of the authority that a request names.

        None for a root, whose key is offline, and for a revoked authority, which signs nothing.
        """
        for row in self._authorities.rows():
            if row.ca == "root" or row.state == "revoked":
                continue
            known, ids = self._ids.get(row.id, (b"", ()))
            if known != row.certificate:
                issuer = self._authorities.find(row.id)
                if issuer is None:
                    continue
                ids = cert_ids(issuer)
                self._ids[row.id] = row.certificate, ids
            if wanted in ids:
                return row.id
        return None

    async def _status(self, authority: str, serial: int) -> Status:
        if not 0 < serial < _SERIAL_MAX:
            return Status("unknown")
        found = await self._store.status(serial_text(serial))
        if found is None or found.authority != authority or not found.shard or found.state == "recorded":
            return Status("unknown")
        if found.state == "issued":
            return Status("good")
        return Status("revoked", found.revoked_at, found.reason)

    async def _delegate(self, authority: str) -> Delegate:
        """Return the delegate of an authority, or make one if none is valid. Raises IssuerError, StorageError."""
        known = self._delegates.get(authority)
        if known is not None and known.may_sign(self._now()):
            return known
        return await self._renew(authority)

    def _require_no_pause(self, authority: str) -> None:
        """Raises _Paused during the pause after a failure, because anonymous callers trigger these tries."""
        failed = self._failed.get(authority)
        if failed is None:
            return
        if asyncio.get_running_loop().time() < failed.back_off.ready_at:
            raise _Paused(f"cannot make a responder of {authority}: the last try failed: {failed.why}")

    async def _renew(self, authority: str) -> Delegate:
        before = self._delegates.get(authority)
        async with self._locks.setdefault(authority, asyncio.Lock()):
            known = self._delegates.get(authority)
            if known is not None and known is not before:
                return known
            self._require_no_pause(authority)
            try:
                made = await self._make(authority)
            except IssuerError as error:
                earlier = self._failed.get(authority)
                back_off = earlier.back_off if earlier is not None else BackOff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)
                back_off.failed(asyncio.get_running_loop().time())
                self._failed[authority] = _Failed(str(error), back_off)
                raise
            self._failed.pop(authority, None)
            self._delegates[authority] = made
            return made

    async def _make(self, authority: str) -> Delegate:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = await self._issuing.issue_responder(authority, key.public_key())
        certificate = x509.load_der_x509_certificate(issued.certificate_chain[0])
        log.info(
            "responder certificate issued",
            extra={"authority": authority, "not_after": certificate.not_valid_after_utc.isoformat()},
        )
        return Delegate(key, certificate)

    def overdue(self) -> dict[str, str]:
        """Return why no delegate of an authority could be made, by authority. Empty while all can sign."""
        return {
            authority: failed.why
            for authority, failed in self._failed.items()
            if (known := self._delegates.get(authority)) is None or not known.may_sign(self._now())
        }

    async def run_once(self) -> bool:
        """Make or renew the delegate of each authority in `ANSWERING`. Return False if one failed."""
        answering = [row.id for row in self._authorities.rows() if row.ca != "root" and row.state in ANSWERING]
        for gone in self._delegates.keys() - {row.id for row in self._authorities.rows() if row.state != "revoked"}:
            del self._delegates[gone]
        worked = True
        for authority in answering:
            known = self._delegates.get(authority)
            now = self._now()
            if known is not None and known.may_sign(now) and now < known.renew_at:
                continue
            try:
                await self._renew(authority)
            except (IssuerError, StorageError) as error:
                worked = False
                log.error("cannot renew a responder certificate", extra={"authority": authority, "reason": str(error)})
        return worked

    async def run(self, stopping: Stopping) -> None:
        """Renew delegates until the process stops."""
        while True:
            self._woken.clear()
            worked = await self.run_once()
            if await stopping.first(self._woken, CHECK_SECONDS if worked else RETRY_SECONDS):
                return
