"""The commands in `docs/est.md` run unchanged and need only curl and openssl."""

import asyncio
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cloud.breakwater.bootstrap import initialise
from cloud.clock import utc_now
from cloud.crypto.keyfile import write_secret
from cloud.mtls.peer import spiffe_of
from tests.cloud.breakwater.live import Live, live_at
from tests.cloud.breakwater.support import PASSPHRASE, TRUST_DOMAIN, plan_for

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[4] / "docs" / "est.md"
PROGRAMS = frozenset({"cat", "curl", "openssl", "printf", "umask"})
HOUR = timedelta(hours=1)


def commands() -> str:
    """The commands of the page, without the block of example values."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", RECIPE.read_text(), re.DOTALL | re.MULTILINE))


async def run(script: str, live: Live, place: Path) -> str:
    """Run a script in bash as a reader of the page would, and return its output."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "URL": live.url, "SERVICE": "fabric"}
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=place,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await shell.communicate()
    assert shell.returncode == 0, output.decode()
    return output.decode()


def names_of(path: Path) -> tuple[str, list[str]]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(spiffe_of(certificate)), names.get_values_for_type(x509.DNSName)


def key_of(path: Path) -> bytes:
    loaded = serialization.load_pem_private_key(path.read_bytes(), None).public_key()
    return loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_of(path: Path) -> bytes:
    loaded = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    return loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_recipe_needs_curl_and_openssl_alone() -> None:
    starts = re.findall(r"(?:^|\| |\$\()([a-z]\w*)", commands().replace("\\\n", ""), re.MULTILINE)
    assert set(starts) == PROGRAMS


async def test_the_recipe_enrols_and_renews(tmp_path: Path) -> None:
    home, place = tmp_path / "cloud", tmp_path / "stranger"
    home.mkdir()
    place.mkdir()
    write_secret(home / "passphrase", PASSPHRASE)
    await initialise(plan_for(home), utc_now)
    async with live_at(home) as live:
        shutil.copy(home / "breakwater" / "certs" / "root.pem", place / "root.pem")
        secret = await live.running.parts.enrolments.create("fabric", "operator/test", HOUR)
        write_secret(place / "secret", secret.encode() + b"\n")
        output = await run(commands(), live, place)
    assert [output.count(f"{name}.pem: OK") for name in ("cert", "renewed", "rekeyed")] == [1, 1, 1]
    assert "id-ecPublicKey" in output
    assert secret not in output
    for name, key in (("cert", "key"), ("renewed", "key"), ("rekeyed", "next-key")):
        spiffe, dns = names_of(place / f"{name}.pem")
        assert (spiffe, dns) == (f"spiffe://{TRUST_DOMAIN}/service/fabric", ["localhost"])
        assert spki_of(place / f"{name}.pem") == key_of(place / f"{key}.pem")
    serials = {
        x509.load_pem_x509_certificate((place / f"{name}.pem").read_bytes()).serial_number
        for name in ("cert", "renewed", "rekeyed")
    }
    assert len(serials) == 3
