"""A process killed at each fault point of the issuer, before and after: what the next start finds and does."""

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.errors import GenerationClosed
from protocol.faults import install
from tests.cloud.breakwater.support import (
    FABRIC,
    NODE,
    SPIFFE,
    Clock,
    ask,
    closing,
    closing_one,
    issuer_at,
    load,
    new_key,
    opening,
)

pytestmark = pytest.mark.slow

KILLED = 77
POINTS = (
    "breakwater.certificate.orphan",
    "breakwater.generation.open",
    "breakwater.certificate.record",
    "breakwater.certificate.store",
    "breakwater.generation.close",
    "breakwater.generation.close_one",
)


async def story(home: Path, database: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Open, issue, close, close again alone."""
    async with issuer_at(home, database, Clock()) as issuer:
        await issuer.issuing.recover()
        await issuer.issuing.open_generation(FABRIC, opening())
        await issuer.issuing.issue_device(FABRIC, ask(key))
        await issuer.issuing.close_generations(FABRIC, closing())
        await issuer.issuing.close_generation(FABRIC, closing_one())


def child(home: str, database: str, key_file: str, point: str, stage: str) -> None:
    """What the killed process runs."""

    def hook(name: str, at: str) -> None:
        if (name, at) == (point, stage):
            os._exit(KILLED)

    install(hook)
    key = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        asyncio.run(story(Path(home), Path(database), key))


EXPECTED: dict[tuple[str, str], list[str]] = {
    ("breakwater.certificate.orphan", "before"): [],
    ("breakwater.certificate.orphan", "after"): [],
    ("breakwater.generation.open", "before"): [],
    ("breakwater.generation.open", "after"): [],
    ("breakwater.certificate.record", "before"): [],
    ("breakwater.certificate.record", "after"): ["recorded"],
    ("breakwater.certificate.store", "before"): ["recorded"],
    ("breakwater.certificate.store", "after"): ["issued"],
    ("breakwater.generation.close", "before"): ["issued"],
    ("breakwater.generation.close", "after"): ["revoked"],
    ("breakwater.generation.close_one", "before"): ["revoked"],
    ("breakwater.generation.close_one", "after"): ["revoked"],
}


def test_every_fault_point_of_the_code_is_walked() -> None:
    source = Path(__file__).parents[3] / "cloud" / "breakwater"
    found = {part.split('"')[1] for file in source.rglob("*.py") for part in file.read_text().split("fault_point(")[1:]}
    assert found == set(POINTS) == {point for point, _ in EXPECTED}


@pytest.mark.parametrize(("point", "stage"), EXPECTED)
async def test_killed(home: Path, database: Path, tmp_path: Path, point: str, stage: str) -> None:
    key = new_key()
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    call = f"from tests.cloud.breakwater.test_crash import child; child(*{(str(home), str(database), str(key_file), point, stage)!r})"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", call], cwd=Path(__file__).parents[3], check=False, timeout=60
    )
    assert done.returncode == KILLED
    async with issuer_at(home, database, Clock()) as issuer:
        assert [row["state"] for row in await issuer.node_rows()] == EXPECTED[point, stage]
        orphans = await issuer.issuing.recover()
        assert orphans == EXPECTED[point, stage].count("recorded")
        if EXPECTED[point, stage] == ["revoked"]:
            with pytest.raises(GenerationClosed):
                await issuer.issuing.issue_device(FABRIC, ask(key))
            return
        await issuer.issuing.open_generation(FABRIC, opening())
        issuer.clock.forward(timedelta(minutes=1))
        answer = await issuer.issuing.issue_device(FABRIC, ask(key))
        rows = await issuer.node_rows()
        assert [row["state"] for row in rows] == ["orphaned"] * orphans + ["issued"]
        assert all(row["certificate"] is None for row in rows[:orphans])
        assert int(rows[-1]["serial"], 16) == load(answer.certificate_chain[0]).serial_number
        assert await issuer.issuing.close_generations(FABRIC, closing()) == 1 + orphans
        assert not await issuer.issuing.generation_open(SPIFFE.tenant, NODE, 1)
