"""Background task: renews a service's own certificate while connections stay open.

At half of the certificate's life (`Identity.renew_at`), when the certificate begins in the future, or after
`renew_now`, it requests the next certificate from the issuer, checks it, replaces the files and reloads the TLS
contexts. New connections use the new certificate; open connections keep theirs. The issuer decides which names the
certificate has.

No peer accepts a certificate outside of its dates, so a service cannot renew such a certificate over mutual TLS. The
issuer's host then writes a new one into the files (`cascade up`, `cascade pki renew`), and this task loads the files.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.crypto.issued import issuer_among
from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase, sync_directory, write_key, write_secret
from cloud.crypto.spki import spki_of
from cloud.mtls.chain import build_chain, is_trusted_cross
from cloud.mtls.identity import CHAIN_FILE, KEY_FILE, NEXT_KEY_FILE, Identity, IdentityError, make_csr
from cloud.mtls.peer import PeerRefused, PeerTrust, spiffe_of
from cloud.mtls.server import ServerTls
from cloud.tasks.stopping import Stopping
from protocol.faults import fault_point

log = logging.getLogger("cascade.identity")

RETRY_SECONDS = 600
"""Pause after a failed renewal. When half of a certificate's life is left, which is three and a half days, this allows
500 tries."""
RENEWED_SECONDS_MIN = 60
"""Pause after a renewal. The end of its CA can shorten a certificate so much that half of its life has passed
already."""
CLOCK_SECONDS_MAX = 60
"""Longest wait before the clock is read again. In the meantime the machine may have slept, or its clock may have been
set. A certificate outside of its dates is also retried after this time."""

OnRenewed = Callable[[Identity], Awaitable[None]]


class IssuerClient(Protocol):
    """Port: the issuer of services' certificates.

    Adapters: `cloud.mtls.est_client.EstClient`, and Breakwater's own adapter in its process. Methods raise CallError,
    or in Breakwater's process the errors of the issuer.
    """

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """Return the next certificate (DER) for a CSR (DER).

        A repeat with the same `request` gets the same certificate.
        """

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """Return the CAs that the issuer trusts, in DER and in no order."""


def new_p256_key() -> ec.EllipticCurvePrivateKey:
    """Make a key for the next certificate."""
    return ec.generate_private_key(ec.SECP256R1())


class Rekey(msgspec.Struct, frozen=True):
    """Makes a new key at each renewal. The key is encrypted at rest with the passphrase in this file."""

    passphrase_file: Path
    new_key: Callable[[], ec.EllipticCurvePrivateKey] = new_p256_key


class IdentityRenewal:
    """Renews one service's identity. `on_renewed` is called once the listeners use the new certificate."""

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        *,
        trust: Callable[[], PeerTrust],
        issuer: IssuerClient,
        now: Callable[[], datetime],
        server_tls: tuple[ServerTls, ...] = (),
        on_renewed: tuple[OnRenewed, ...] = (),
        rekey: Rekey | None = None,
    ) -> None:
        self.identity = identity
        self._directory = directory
        self._trust = trust
        self._issuer = issuer
        self._now = now
        self._server_tls = server_tls
        self._on_renewed = on_renewed
        self._rekey = rekey
        self._stored: Callable[[], Identity] | None = None
        self._wanted = asyncio.Event()
        self._renewing = asyncio.Lock()

    def load_again_with(self, stored: Callable[[], Identity]) -> None:
        """Load the identity with `stored` when ours is not valid: another process may have replaced the files."""
        self._stored = stored

    def renew_now(self) -> None:
        """Let the background task renew at once, at any age of the certificate. For a rotation or an incident."""
        self._wanted.set()

    def trust_changed(self, active: tuple[x509.Certificate, ...] | None = None) -> None:
        """Renew at once if our issuing CA is not in `active`. If `active` is None, it must be in the current trust.

        Renew as well if our chain leads to a root that is no longer trusted.
        """
        issuers = self._trust().service_issuers if active is None else active
        if issuer_among(self.identity.leaf, issuers) is None or self._has_untrusted_cross():
            self.renew_now()

    def _has_untrusted_cross(self) -> bool:
        crosses = x509.load_pem_x509_certificates(self.identity.chain_pem)[2:]
        return any(not is_trusted_cross(cross, self._trust()) for cross in crosses)

    async def run(self, stopping: Stopping) -> None:
        """Renew in time until the process stops. A failure is logged and retried. This is the background task."""
        due, wait = False, self._seconds_until_due()
        while not await stopping.first(self._wanted, wait if due else min(wait, CLOCK_SECONDS_MAX)):
            due = due or self._wanted.is_set()
            self._wanted.clear()
            if not due and not self.identity.is_due(self._now()):
                wait = self._seconds_until_due()
                continue
            try:
                if not await self._loaded_again():
                    await self.renew()
                due, wait = False, max(self._seconds_until_due(), RENEWED_SECONDS_MIN)
            except Exception as error:  # noqa: BLE001  after any failure the next try must come
                fault = self.identity.outside(self._now())
                due, wait = True, CLOCK_SECONDS_MAX if fault else RETRY_SECONDS
                cause = {"certificate": f"the certificate {fault}"} if fault else {}
                log.error(
                    "cannot renew the service's certificate",
                    extra={"error": str(error), **cause, **self._not_after()},
                )

    async def renew(self) -> None:
        """Renew now. A retry after a lost answer gets the same certificate.

        Raises:
            IdentityError: the answer is not for this service and key; nothing was changed.
            KeyFileError: the files cannot be written; either the old or the new identity can be loaded.
            CallError: no answer, or a refusal.
        """
        async with self._renewing:
            old = self.identity
            key = old.key if self._rekey is None else await asyncio.to_thread(self._next_key, self._rekey)
            digest = hashlib.sha256(spki_of(key.public_key())).hexdigest()[:16]
            with fault_point("breakwater.identity.request"):
                answer = await self._issuer.reenroll(make_csr(key), f"renew-{old.leaf.serial_number:x}-{digest}")
                cas = await self._issuer.ca_certificates()
            fresh = self._checked(old, key, answer, cas)
            await asyncio.to_thread(self._write, old, fresh)
            await self._use(fresh)
        log.info(
            "renewed the service's certificate", extra={"serial": f"{fresh.leaf.serial_number:x}", **self._not_after()}
        )

    async def _loaded_again(self) -> bool:
        """Use the identity in the files if ours is outside of its dates and theirs is not. Return whether it is used.

        Raises IdentityError.
        """
        if self._stored is None or not self.identity.outside(self._now()):
            return False
        async with self._renewing:
            found = await asyncio.to_thread(self._stored)
            if found.outside(self._now()) or spiffe_of(found.leaf) != spiffe_of(self.identity.leaf):
                return False
            await self._use(found)
        log.info("loaded the service's certificate again", extra=self._not_after())
        return True

    async def _use(self, fresh: Identity) -> None:
        self.identity = fresh
        for tls in self._server_tls:
            tls.reload(fresh.chain_pem, fresh.key)
        for call in self._on_renewed:
            await call(fresh)

    def _next_key(self, rekey: Rekey) -> ec.EllipticCurvePrivateKey:
        """Return the key of an unfinished renewal, or a new one.

        The key is on disk before a certificate is requested for it.
        """
        passphrase = read_passphrase(rekey.passphrase_file)
        path = self._directory / NEXT_KEY_FILE
        kept = _kept_key(path, passphrase)
        if kept is not None and kept.public_key() != self.identity.key.public_key():
            return kept
        if kept is not None:
            self._swap()  # a crash between the two renames: the chain on disk is for this key already
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
        if leaf.serial_number == old.leaf.serial_number:
            raise IdentityError("the new certificate is the old one")
        fresh = Identity(key, chain_pem, leaf)
        fault = fresh.outside(self._now())
        if fault:
            raise IdentityError(f"the new certificate {fault}")
        return fresh

    def _seconds_until_due(self) -> float:
        if self.identity.is_due(self._now()):
            return 1.0
        return max((self.identity.renew_at - self._now()) / timedelta(seconds=1), 1.0)

    def _not_after(self) -> dict[str, str]:
        return {"not_after": self.identity.leaf.not_valid_after_utc.isoformat()}


def _kept_key(path: Path, passphrase: bytes) -> ec.EllipticCurvePrivateKey | None:
    """Return the key of an unfinished renewal. Returns None if it is missing or unusable: a new key can be made."""
    try:
        key = read_key(path, passphrase)
    except KeyFileError:
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
