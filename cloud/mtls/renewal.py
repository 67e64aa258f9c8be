"""Background task: renewal of a service's own certificate over EST."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.issued import issuer_among
from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase, sync_directory, write_key, write_secret
from cloud.mtls.client import Answer, AnswerUnusable, CloudClient
from cloud.mtls.identity import (
    CHAIN_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    Identity,
    IdentityError,
    _spki,
    build_chain,
    is_trusted_cross,
    log,
    make_csr,
)
from cloud.mtls.peer import PeerRefused, PeerTrust, spiffe_of
from cloud.mtls.server import ServerTls
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point
from protocol.messages.est import (
    HEADER_REQUEST,
    PATH_CACERTS,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    EstError,
    decode_certs_only,
    encode_base64,
    leaf_first,
    media_type,
)

RETRY_SECONDS = 600
"""A failed renewal is tried again this often; half of a week remains, so 500 times."""


RENEWED_SECONDS_MIN = 60
"""Rest after a renewal: a certificate that the end of its CA cut short is past its half already."""


LOOK_SECONDS_MAX = 3600
"""Longest sleep before the clock is read again: a machine may have slept, or its clock been set."""


Renewed = Callable[["Identity"], Awaitable[None]]


class Ask(Protocol):
    """What is asked of the issuer. Raises CallError, or what the issuer raises in its own process."""

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """The next certificate (DER) for a CSR; a repeat of `request` gets the same one."""

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """All CAs that are believed, in DER and in no order."""


class EstClient:
    """Breakwater over mTLS and EST (RFC 7030)."""

    def __init__(self, client: CloudClient) -> None:
        self._client = client

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """The next certificate of the service that the connection is of. Raises CallError."""
        headers = {"Content-Type": TYPE_PKCS10, HEADER_REQUEST: request}
        answer = await self._client.call("POST", PATH_SIMPLEREENROLL, encode_base64(csr), headers=headers)
        key = x509.load_der_x509_csr(csr).public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        try:
            return leaf_first(_certificates(answer), spki)[0]
        except EstError as error:
            raise AnswerUnusable(f"the issuer's answer cannot be used: {error}") from error

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """All CAs that Breakwater believes. Raises CallError."""
        try:
            return _certificates(await self._client.call("GET", PATH_CACERTS))
        except EstError as error:
            raise AnswerUnusable(f"the issuer's answer cannot be used: {error}") from error


def _certificates(answer: Answer) -> tuple[bytes, ...]:
    """Raises ProblemAnswer, AnswerUnusable, EstError."""
    if answer.status >= 400:
        answer.into(msgspec.Raw)
    if answer.status != 200 or media_type(answer.headers.get("content-type", "")) != "application/pkcs7-mime":
        raise EstError(f"status {answer.status} with another content")
    return decode_certs_only(answer.body)


def _kept_key(path: Path, passphrase: bytes) -> ec.EllipticCurvePrivateKey | None:
    """A key that an earlier renewal left; None if there is none that can be used, which loses nothing."""
    try:
        key = read_key(path, passphrase)
    except KeyFileError:
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def through(client: CloudClient) -> Ask:
    """Ask Breakwater over mTLS."""
    return EstClient(client)


def new_p256_key() -> ec.EllipticCurvePrivateKey:
    """A key for the next certificate."""
    return ec.generate_private_key(ec.SECP256R1())


class Rekey(msgspec.Struct, frozen=True):
    """Take a new key at each renewal; kept encrypted with the passphrase in this file."""

    passphrase_file: Path
    new_key: Callable[[], ec.EllipticCurvePrivateKey] = new_p256_key


class IdentityKeeper:
    """Keeps one service's identity fresh. `renewed` hooks run after the listener serves the new certificate."""

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        *,
        trust: Callable[[], PeerTrust],
        ask: Ask,
        now: Callable[[], datetime],
        server_tls: tuple[ServerTls, ...] = (),
        renewed: tuple[Renewed, ...] = (),
        rekey: Rekey | None = None,
    ) -> None:
        self.identity = identity
        self._directory = directory
        self._trust = trust
        self._ask = ask
        self._now = now
        self._server_tls = server_tls
        self._renewed = renewed
        self._rekey = rekey
        self._told = asyncio.Event()
        self._turn = asyncio.Lock()

    def renew_now(self) -> None:
        """Have the background task renew at once, whatever the certificate's age (a rotation, an incident)."""
        self._told.set()

    def trust_changed(self, active: tuple[x509.Certificate, ...] | None = None) -> None:
        """Renew at once if our issuing CA is none of those that issue now (None: of those that are believed).

        And if our chain leads to a root that is believed no more.
        """
        issuers = self._trust().service_issuers if active is None else active
        if issuer_among(self.identity.leaf, issuers) is None or self._leads_astray():
            self.renew_now()

    def _leads_astray(self) -> bool:
        crosses = x509.load_pem_x509_certificates(self.identity.chain_pem)[2:]
        return not all(is_trusted_cross(cross, self._trust()) for cross in crosses)

    async def keep(self, stopping: Stopping) -> None:
        """The background task: renews in time until the process goes down; a failure is logged and tried again."""
        due, wait = False, self._seconds_left()
        while not await stopping.first(self._told, min(wait, LOOK_SECONDS_MAX)):
            due = due or self._told.is_set()
            self._told.clear()
            if not due and self._now() < self.identity.renew_at:
                wait = self._seconds_left()
                continue
            try:
                await self.renew()
                due, wait = False, max(self._seconds_left(), RENEWED_SECONDS_MIN)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one renewal, the next try must come
                due, wait = True, RETRY_SECONDS
                log.error("renewal failed", extra={"error": str(error), "not_after": self._not_after()})

    async def renew(self) -> None:
        """Renew now. A repeat after a lost answer gets the same certificate.

        Raises:
            IdentityError: the answer is not for this service and key; nothing was changed.
            KeyFileError: the files cannot be written; what they were or what they were to be can be loaded.
            CallError: no answer, or a refusal.
        """
        async with self._turn:
            old = self.identity
            key = old.key if self._rekey is None else await asyncio.to_thread(self._next_key, self._rekey)
            digest = hashlib.sha256(_spki(key)).hexdigest()[:16]
            with fault_point("breakwater.identity.request"):
                answer = await self._ask.reenroll(make_csr(key), f"renew-{old.leaf.serial_number:x}-{digest}")
                cas = await self._ask.ca_certificates()
            fresh = self._checked(old, key, answer, cas)
            await asyncio.to_thread(self._write, old, fresh)
            self.identity = fresh
            for tls in self._server_tls:
                tls.reload(fresh.chain_pem, fresh.key)
            for hook in self._renewed:
                await hook(fresh)
        log.info("renewed", extra={"serial": f"{fresh.leaf.serial_number:x}", "not_after": self._not_after()})

    def _next_key(self, rekey: Rekey) -> ec.EllipticCurvePrivateKey:
        """The key of a renewal that did not come to its end, or a new one, durable before anything is asked for it."""
        passphrase = read_passphrase(rekey.passphrase_file)
        path = self._directory / NEXT_KEY_FILE
        kept = _kept_key(path, passphrase)
        if kept is not None and kept.public_key() != self.identity.key.public_key():
            return kept
        if kept is not None:
            self._swap()  # a crash came between the two renames: the chain on disk is of this key already
        key = rekey.new_key()
        with fault_point("breakwater.identity.key"):
            write_key(path, key, passphrase)
        return key

    def _write(self, old: Identity, fresh: Identity) -> None:
        with fault_point("breakwater.identity.chain"):
            write_secret(self._directory / CHAIN_FILE, fresh.chain_pem)
        if fresh.key is not old.key:
            self._swap()

    def _swap(self) -> None:
        with fault_point("breakwater.identity.swap"):
            (self._directory / NEXT_KEY_FILE).replace(self._directory / KEY_FILE)
            sync_directory(self._directory)

    def _checked(
        self, old: Identity, key: ec.EllipticCurvePrivateKey, answer: bytes, cas: tuple[bytes, ...]
    ) -> Identity:
        try:
            leaf = x509.load_der_x509_certificate(answer)
            same_name = spiffe_of(leaf) == spiffe_of(old.leaf)
        except ValueError as error:
            raise IdentityError("the issuer's answer is not a certificate") from error
        except PeerRefused as error:
            raise IdentityError(f"the new certificate is refused: {error.detail}") from error
        chain_pem = build_chain(leaf, cas, self._trust(), self._now())
        if not same_name or leaf.public_key() != key.public_key():
            raise IdentityError("the new certificate is for another name or key")
        if leaf.serial_number == old.leaf.serial_number or leaf.not_valid_after_utc <= self._now():
            raise IdentityError("the new certificate is the old one, or over")
        return Identity(key, chain_pem, leaf)

    def _seconds_left(self) -> float:
        return max((self.identity.renew_at - self._now()) / timedelta(seconds=1), 1.0)

    def _not_after(self) -> str:
        return self.identity.leaf.not_valid_after_utc.isoformat()
