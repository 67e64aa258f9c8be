"""A service's own TLS identity: key and chain on disk, and their renewal while connections live on.

At two thirds of a certificate's life the service asks Breakwater (Breakwater asks itself) for the next one, checks
it, replaces the chain file in one rename and reloads its TLS contexts: new connections get the new certificate, open
ones keep theirs. The key stays the same over renewals, so that key and chain on disk always belong together; a new
key is a new `cascade init` of the service. It decides nothing about names: those are recorded at the issuer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.client import CallError, CloudClient
from cloud.issuing import PATH_SERVICE, IssueServiceCertificate
from cloud.keyfile import KeyFileError, read_key, read_passphrase, write_secret
from cloud.peer import PeerRefused, PeerTrust, ServerTls, require_issuer, spiffe_of
from protocol.sessions import Certificate

log = logging.getLogger("cascade.identity")

KEY_FILE = "key.pem"
CHAIN_FILE = "chain.pem"
RETRY_SECONDS = 600
"""A failed renewal is tried again this often; ten days remain, so 1,440 times."""
LOOK_SECONDS_MAX = 3600
"""Longest sleep before the clock is read again: a machine may have slept, or its clock been set."""

Ask = Callable[[IssueServiceCertificate], Awaitable[Certificate]]
Renewed = Callable[["Identity"], Awaitable[None]]


class IdentityError(Exception):
    """Key or chain cannot be used, or the issuer's answer is not for this service."""


class Sleeper(Protocol):
    """`cloud.server.Stopping`, as far as it is needed here."""

    async def sleep(self, seconds: float) -> bool: ...


class Identity(msgspec.Struct, frozen=True):
    """Key, chain (leaf first) and the leaf itself."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes
    leaf: x509.Certificate

    @property
    def renew_at(self) -> datetime:
        """Two thirds of the leaf's life."""
        start, end = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        return start + (end - start) * 2 / 3


def load_identity(directory: Path, passphrase_file: Path) -> Identity:
    """Key and chain of a `tls/` folder. Raises IdentityError."""
    try:
        key = read_key(directory / KEY_FILE, read_passphrase(passphrase_file))
        chain_pem = (directory / CHAIN_FILE).read_bytes()
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except (KeyFileError, OSError, ValueError) as error:
        raise IdentityError(f"cannot use the identity in {directory}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or leaf.public_key() != key.public_key():
        raise IdentityError(f"cannot use the identity in {directory}: key and certificate do not belong together")
    return Identity(key, chain_pem, leaf)


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request that proves possession and asks for nothing, DER."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def chain_to_pem(certificate: Certificate) -> bytes:
    """The chain as PEM, leaf first. Raises IdentityError."""
    try:
        return b"".join(
            x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
            for der in certificate.certificate_chain
        )
    except ValueError as error:
        raise IdentityError("the issuer's answer is not a chain of certificates") from error


def through(client: CloudClient) -> Ask:
    """Ask Breakwater over mTLS."""

    async def ask(body: IssueServiceCertificate) -> Certificate:
        return (await client.call("POST", PATH_SERVICE, body)).into(Certificate)

    return ask


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
    ) -> None:
        self.identity = identity
        self._directory = directory
        self._trust = trust
        self._ask = ask
        self._now = now
        self._server_tls = server_tls
        self._renewed = renewed

    async def keep(self, stopping: Sleeper) -> None:
        """The background task: renews in time until the process goes down; a failure is logged and tried again."""
        wait = self._seconds_left()
        while not await stopping.sleep(min(wait, LOOK_SECONDS_MAX)):
            if self._now() < self.identity.renew_at:
                wait = self._seconds_left()
                continue
            try:
                await self.renew()
                wait = self._seconds_left()
            except Exception as error:  # noqa: BLE001  whatever is wrong with one renewal, the next try must come
                wait = RETRY_SECONDS
                log.error("renewal failed", extra={"error": str(error), "not_after": self._not_after()})

    async def renew(self) -> None:
        """Renew now. A repeat after a lost answer gets the same certificate.

        Raises:
            IdentityError: the answer is not for this service and key; nothing was changed.
            CallError: no answer, or a refusal.
        """
        old = self.identity
        answer = await self._ask(IssueServiceCertificate(f"renew-{old.leaf.serial_number:x}", make_csr(old.key)))
        chain_pem = chain_to_pem(answer)
        fresh = Identity(old.key, chain_pem, x509.load_pem_x509_certificate(chain_pem))
        self._check(old, fresh)
        await asyncio.to_thread(write_secret, self._directory / CHAIN_FILE, chain_pem)
        self.identity = fresh
        for tls in self._server_tls:
            tls.reload(chain_pem, fresh.key)
        for hook in self._renewed:
            await hook(fresh)
        log.info("renewed", extra={"serial": f"{fresh.leaf.serial_number:x}", "not_after": self._not_after()})

    def _check(self, old: Identity, fresh: Identity) -> None:
        try:
            spiffe_same = spiffe_of(fresh.leaf) == spiffe_of(old.leaf)
            require_issuer(fresh.leaf, self._trust().service_issuers)
        except PeerRefused as error:
            raise IdentityError(f"the new certificate is refused: {error.detail}") from error
        if not spiffe_same or fresh.leaf.public_key() != old.key.public_key():
            raise IdentityError("the new certificate is for another name or key")
        if fresh.leaf.not_valid_after_utc <= old.leaf.not_valid_after_utc:
            raise IdentityError("the new certificate does not outlive the old one")

    def _seconds_left(self) -> float:
        return max((self.identity.renew_at - self._now()) / timedelta(seconds=1), 1.0)

    def _not_after(self) -> str:
        return self.identity.leaf.not_valid_after_utc.isoformat()


__all__ = [
    "Ask",
    "CallError",
    "Identity",
    "IdentityError",
    "IdentityKeeper",
    "chain_to_pem",
    "load_identity",
    "make_csr",
    "through",
]
