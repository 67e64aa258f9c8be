"""Witness in a process of Breakwater: records every use of its CA keys, and follows a test's orders while it runs.

Orders are files in a control folder. `armed` has "POINT STAGE", where the process kills itself with SIGKILL. `fail`
makes the next signature fail. `hold` delays the return of each signed certificate until the file is gone. The process
writes the file `signatures`: the bytes to sign before a key signs, and the signed bytes after. Each line is durable
before the process continues.
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
"""How long a record may be in the work of another process: twice the time limit of a signature. Shipped: a minute."""
HOLD_POLL_SECONDS = 0.01

_SIGNATURES = "signatures"
_VERSION_OF_A_CERTIFICATE = 0xA0


class Signature(msgspec.Struct, frozen=True):
    """A line of `signatures`. `tbs` and `der` are in hex. `der` is empty in the line before the signature."""

    authority: str
    tbs: str
    der: str = ""


def arm(control: Path, point: str, stage: faults.Stage) -> None:
    """Make the process of this folder kill itself the next time that it reaches the fault point and stage."""
    _write(control / "armed", f"{point} {stage}")


def disarm(control: Path) -> None:
    (control / "armed").unlink(missing_ok=True)


def signatures(control: Path) -> list[Signature]:
    """Every use of a CA key in this folder's processes, in order."""
    path = control / _SIGNATURES
    lines = path.read_text().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Signature) for line in lines]


def is_certificate(tbs: bytes) -> bool:
    """Whether these bytes to be signed are a certificate's, and not a CRL's.

    Both begin with a version (RFC 5280). Only the version of a certificate has a context tag.
    """
    head = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    return tbs[head] == _VERSION_OF_A_CERTIFICATE


def install(control: Path, *, patient: bool) -> None:
    """Install the witness in this process. With `patient`, the shipped time limits stay."""
    faults.install(lambda name, stage: _die(control, f"{name} {stage}"))
    if not patient:
        flight = timedelta(seconds=FLIGHT_SECONDS)
        issuance.IN_FLIGHT = flight
        executor.IN_FLIGHT = flight  # type: ignore[attr-defined]  # the module imports the name
        executor.SIGN_SECONDS_MAX = FLIGHT_SECONDS / 2
    _watch(control)


def _write(path: Path, text: str) -> None:
    """Write the file atomically, so that a reader gets the whole text."""
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

    Signer.sign = sign  # type: ignore[method-assign]  # a witness replaces the method
