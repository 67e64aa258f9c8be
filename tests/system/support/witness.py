"""Witness in a process that is to be killed: records what its CA keys sign, and takes orders from a test while it runs.

A control folder holds files. The process reads `armed` ("POINT STAGE": kill yourself there, by SIGKILL), `fail` (the
next signature fails) and `hold` (a signed certificate waits until the file is gone). It writes `signatures`: what is
given to a key before it signs, and what the key returned; each is durable before the work goes on.
"""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import msgspec

from cloud.breakwater.errors import SignerUnavailable
from cloud.breakwater.issuance import executor
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix.linted import Linted
from cloud.breakwater.store import issuance
from protocol import faults

FLIGHT_SECONDS = 2
"""Instead of a minute: how long a record may be another process's work, twice what an issuance may take."""
HOLD_POLL_SECONDS = 0.01

_SIGNATURES = "signatures"
_VERSION_OF_A_CERTIFICATE = 0xA0


class Signature(msgspec.Struct, frozen=True):
    """A line of `signatures`. `der` is empty before the key was used."""

    authority: str
    tbs: str
    der: str = ""


def arm(control: Path, point: str, stage: faults.Stage) -> None:
    """Have the process of this folder die the next time that it comes there."""
    _write(control / "armed", f"{point} {stage}")


def disarm(control: Path) -> None:
    (control / "armed").unlink(missing_ok=True)


def signatures(control: Path) -> list[Signature]:
    """Every use of a CA key in this folder's processes, in order."""
    path = control / _SIGNATURES
    lines = path.read_text().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Signature) for line in lines]


def is_certificate(tbs: bytes) -> bool:
    """Whether these are a certificate's bytes to be signed, and not a CRL's: RFC 5280 gives both a version, but only
    the certificate's is tagged."""
    head = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    return tbs[head] == _VERSION_OF_A_CERTIFICATE


def install(control: Path, *, patient: bool) -> None:
    """In the process, before it starts: `patient` ones wait for others as long as real ones do."""
    faults.install(lambda name, stage: _die(control, f"{name} {stage}"))
    if not patient:
        flight = timedelta(seconds=FLIGHT_SECONDS)
        issuance.IN_FLIGHT = flight
        executor.IN_FLIGHT = flight  # type: ignore[attr-defined]  # its own name for it
        executor.SIGN_SECONDS_MAX = FLIGHT_SECONDS / 2
    _watch(control)


def _write(path: Path, text: str) -> None:
    """At once for whoever looks."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def _die(control: Path, here: str) -> None:
    try:
        armed = (control / "armed").read_text()
    except FileNotFoundError:
        return
    if armed == here:
        (control / "died").write_text(here)
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(control: Path) -> None:
    original = Signer.sign
    log = os.open(control / _SIGNATURES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(line: Signature) -> None:
        os.write(log, msgspec.json.encode(line) + b"\n")
        os.fsync(log)

    async def sign(self: Signer, linted: Linted) -> bytes:
        tbs, authority = linted.tbs, linted.issuer.authority
        note(Signature(authority, tbs.hex()))
        if is_certificate(tbs) and (control / "fail").exists():
            (control / "fail").unlink()
            raise SignerUnavailable("the test has taken the key away")
        der = await original(self, linted)
        note(Signature(authority, tbs.hex(), der.hex()))
        while is_certificate(tbs) and (control / "hold").exists():
            (control / "held").touch()
            await asyncio.sleep(HOLD_POLL_SECONDS)
        return der

    Signer.sign = sign  # type: ignore[method-assign]  # the whole point of a witness
