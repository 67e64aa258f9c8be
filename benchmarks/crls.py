"""Benchmark: the CRLs of 100,000 revoked certificates in 20 full shards.

`python -m benchmarks.crls DIRECTORY` is the measured process. It opens an installation, and the real publisher reads,
builds, lints, signs and stores all CRLs that are due. The rows are written before; they are as large as real rows.
"""

import asyncio
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.figures import Figure, progress
from benchmarks.floor import new_id
from benchmarks.host import install, others_elsewhere, pinned
from benchmarks.world import World
from cloud.breakwater.app import opened
from cloud.breakwater.revocation.crl_shards import PLACES_MAX
from cloud.breakwater.settings import BreakwaterSettings
from cloud.process.settings import load_settings
from cloud.storage.sqlite import connect
from lab.processes import StepFailed
from node.clock import utc_now

SHARDS = 20
TBS_BYTES = 560
CERTIFICATE_BYTES = 650
SERIAL_BYTES = 20
REASON = 4
FLOOR_NAME = "the library's CRL builder in a bare loop, the rows in memory, each CRL signed with a key like the CA's"
_CERTIFICATE = (
    "INSERT INTO certificate (serial, profile, state, tenant, node, generation, service, spki_sha256, tbs, certificate, "
    "not_before, not_after, caller, recorded_at, revoked_at, authority, shard, reason, profile_version) "
    "VALUES (?, 'device', 'revoked', ?, ?, 1, '', ?, ?, ?, ?, ?, 'service/fabric', ?, ?, 'nodes-1', ?, ?, 2)"
)
_SHARD = (
    "INSERT INTO shard (id, authority, number, reserved, revision, published_revision, crl_number, published_number) "
    "VALUES (?, 'nodes-1', ?, ?, 1, -1, 0, 0)"
)


class Published(msgspec.Struct, frozen=True):
    """The figures that the measured process prints. Memory is in KiB: before the work, and at its highest."""

    crls: int
    content: int
    seconds: float
    cpu_seconds: float
    memory_before: int
    memory_peak: int


def _serial() -> str:
    return f"{int.from_bytes(os.urandom(SERIAL_BYTES)) & (2**158 - 1) | 2**158:040x}"


def _fill(database: Path) -> None:
    """Write full shards of revoked device certificates."""
    now = utc_now()
    tenant, end = new_id("ten"), now + timedelta(days=90)
    connection = connect(database, writes=True)
    try:
        connection.execute("BEGIN")
        for number in range(1, SHARDS + 1):
            shard = f"nodes-1.{number}"
            connection.execute(_SHARD, (shard, number, PLACES_MAX))
            fixed = (bytes(TBS_BYTES), bytes(CERTIFICATE_BYTES), now, end, now, now, shard, REASON)
            rows = ((_serial(), tenant, new_id("node"), os.urandom(32).hex(), *fixed) for _ in range(PLACES_MAX))
            connection.executemany(_CERTIFICATE, rows)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def _forget_peak() -> None:
    """Reset the peak of the memory (proc(5)). Opening the CA keys (scrypt) takes more than the measured work."""
    Path("/proc/self/clear_refs").write_text("5")


async def _publish(settings_file: Path) -> Published:
    async with opened(load_settings(settings_file, BreakwaterSettings)) as breakwater:
        publisher = breakwater.parts.crl_publisher
        _forget_peak()
        before, cpu, began = _memory("VmRSS"), time.process_time(), time.perf_counter()
        await publisher.run_once()
        taken, spent = time.perf_counter() - began, time.process_time() - cpu
        peak = _memory("VmHWM")
        published = [await publisher.ensure_fresh(shard.id) for shard in await publisher.shards()]
    made = [crl for crl in published if crl is not None and crl.entries == PLACES_MAX]
    return Published(len(made), sum(len(crl.data) for crl in made), taken, spent, before, peak)


def _bare(key: ec.EllipticCurvePrivateKey, issuer: x509.Name, rows: list[tuple[int, datetime]]) -> bytes:
    """Build one CRL of these rows with the library's builder."""
    reason = x509.CRLReason(x509.ReasonFlags.superseded)
    entries = [
        x509.RevokedCertificateBuilder(serial, at.replace(tzinfo=None), [_extension(reason)]).build()
        for serial, at in rows
    ]
    now = utc_now().replace(tzinfo=None)
    builder = x509.CertificateRevocationListBuilder(issuer, now, now + timedelta(days=7), [], entries)
    numbered = builder.add_extension(x509.CRLNumber(1), critical=False)
    return numbered.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _extension(value: x509.ExtensionType) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, False, value)


def _floor() -> float:
    """Seconds of CPU time for the CRLs of all shards."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")])
    now = utc_now()
    rows = [(int(_serial(), 16), now) for _ in range(PLACES_MAX)]
    began = time.process_time()
    for _ in range(SHARDS):
        _bare(key, issuer, rows)
    return time.process_time() - began


def crls(world: World) -> list[Figure]:
    """Measure time, bytes and memory for the CRLs of all shards."""
    progress(f"CRLs: {SHARDS} shards of {PLACES_MAX} revoked certificates")
    with others_elsewhere():
        directory, _ = install(world, "crls", None)
        _fill(directory / "breakwater" / "database.sqlite")
        command = pinned([sys.executable, "-m", "benchmarks.crls", str(directory)])
        done = subprocess.run(command, capture_output=True, check=False, timeout=300)
        if done.returncode != 0:
            raise StepFailed(f"the publisher ended: {done.stderr.decode()[-1500:]}")
        said = msgspec.json.decode(done.stdout, type=Published)
        floor = _floor()
    if said.crls != SHARDS:
        raise StepFailed(f"{said.crls} CRLs were published, not {SHARDS}")
    note = f"{said.content / 2**20:.1f} MiB in {SHARDS} CRLs; {said.seconds:.2f} s on the wall"
    memory = f"{said.memory_before / 1024:.0f} MiB before, four CRLs are made at a time"
    count = SHARDS * PLACES_MAX
    return [
        Figure(
            name=f"CRLs of {count:,} revoked, CPU time", value=said.cpu_seconds, unit="s", floor=floor,
            floor_name=FLOOR_NAME, note=note,
        ),
        Figure(name="the same, peak RSS", value=said.memory_peak / 1024, unit="MiB", note=memory),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(asyncio.run(_publish(Path(sys.argv[1]) / "breakwater" / "settings.toml")))
    )
