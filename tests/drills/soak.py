"""10,000 node certificates through the API, then the verdict of the checker, pkilint and openssl on them.

A real installation runs as a process. The drill asks Breakwater for node certificates over mTLS on several connections,
as Fabric does, and closes the generations of a part. Then `cascade pki check` checks all records, with pkilint on some
hundred random certificates. openssl must agree with the database on another random part: `openssl verify` with the
served CRLs, and `openssl ocsp` with the responder.
"""

import argparse
import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.checks.pkilint import WAIVED
from cloud.clock import utc_now
from cloud.fabric.issuer import HttpIssuer
from cloud.mtls.client import CloudClient, ServerCheck, client_context, expected_service
from cloud.mtls.identity import load_identity, make_csr
from cloud.mtls.peer import PeerTrust
from lab.cloud import Cloud
from lab.processes import ended
from protocol.ids import NodeId, TenantId, make_id
from tests.drills.frame import Figure, Outcome, Say
from tests.system.support.harness import forked, new_cloud

USUAL_TIME = "10 min"
MINUTES_MAX = 45.0

TRUST_DOMAIN = "cascade.internal"
CONNECTIONS = 8
REVOKED_OF = 4
"""The drill closes every fourth generation."""
LIFE = timedelta(days=90)
CHECK_SECONDS = 1800.0

Work = Callable[[HttpIssuer, NodeId], Awaitable[None]]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a run. `disagreements` has a line for each answer that differs from the database."""

    certificates: int
    revoked: int
    issue_seconds: float
    close_seconds: float
    check_seconds: float
    checked: int
    findings: tuple[str, ...]
    pkilint_certificates: int
    waived: dict[str, int]
    crls: dict[str, tuple[int, int]]
    verified: int
    verified_revoked: int
    asked_ocsp: int
    disagreements: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the checker found no error and every answer agreed."""
        return not self.findings and not self.disagreements


class Soak:
    """One run against a running cloud."""

    def __init__(self, cloud: Cloud, scratch: Path, seed: int, say: Say) -> None:
        self._cloud = cloud
        self._say = say
        self._scratch = scratch
        # The choice of certificates needs no secret randomness, and a run with the same seed is repeatable.
        self._choose = random.Random(seed)
        self._tenant = TenantId(make_id("ten", 1, os.urandom(10)))
        certs = cloud.directory / "breakwater" / "certs"
        self._bundle = scratch / "believed.pem"
        self._issuer = certs / "nodes-ca.pem"
        self._bundle.write_bytes((certs / "root.pem").read_bytes() + self._issuer.read_bytes())
        self._pki = f"http://127.0.0.1:{cloud.port + 3}"

    def run(self, certificates: int, pkilint_certificates: int, verified: int, asked: int) -> Figures:
        """Issue, close, run `cascade pki check`, compare with openssl. The arguments are numbers of certificates."""
        begun = time.monotonic()
        nodes = asyncio.run(self._issue(certificates))
        issued = time.monotonic()
        asyncio.run(self._close(nodes[::REVOKED_OF]))
        closed = time.monotonic()
        self._say(f"issued {certificates} in {issued - begun:.1f} s, closed every fourth in {closed - issued:.1f} s")
        report = self._check(pkilint_certificates)
        checked = time.monotonic()
        self._say(f"`cascade pki check` took {checked - closed:.1f} s")
        crls = self._fetch()
        chosen = self._sample(verified)
        return Figures(
            certificates=certificates,
            revoked=len(nodes[::REVOKED_OF]),
            issue_seconds=issued - begun,
            close_seconds=closed - issued,
            check_seconds=checked - closed,
            checked=report.certificates,
            findings=tuple(f"{each.severity} {each.check} {each.object}: {each.detail}" for each in report.findings),
            pkilint_certificates=report.pkilint_certificates,
            waived=report.waived,
            crls=crls,
            verified=len(chosen),
            verified_revoked=sum(revoked for _, revoked in chosen),
            asked_ocsp=min(asked, len(chosen)),
            disagreements=(
                *self._verify(chosen),
                *self._ask(self._choose.sample(chosen, min(asked, len(chosen)))),
            ),
        )

    def _client(self) -> CloudClient:
        """A client with Fabric's identity."""
        home = self._cloud.directory
        identity = load_identity(home / "fabric" / "tls", home / "secrets" / "passphrase")
        certs = home / "breakwater" / "certs"
        nodes, services = (
            x509.load_pem_x509_certificate((certs / f"{name}-ca.pem").read_bytes()) for name in ("nodes", "services")
        )
        trust = PeerTrust(TRUST_DOMAIN, (nodes,), (services,))
        check = ServerCheck(expected_service(TRUST_DOMAIN, "breakwater"), trust, utc_now, lambda _: False)
        context = client_context((certs / "root.pem").read_bytes(), check, identity.chain_pem, identity.key)
        return CloudClient(f"https://127.0.0.1:{self._cloud.port + 1}", context)

    async def _issue(self, count: int) -> list[NodeId]:
        nodes = [NodeId(make_id("node", number, os.urandom(10))) for number in range(1, count + 1)]
        end = utc_now() + LIFE

        async def issue(issuer: HttpIssuer, node: NodeId) -> None:
            await issuer.open_generation(self._tenant, node, 1)
            csr = make_csr(ec.generate_private_key(ec.SECP256R1()))
            await issuer.issue_device(f"soak-{node}", self._tenant, node, 1, csr, end)

        await self._spread(nodes, issue)
        return nodes

    async def _close(self, nodes: Sequence[NodeId]) -> None:
        async def close(issuer: HttpIssuer, node: NodeId) -> None:
            await issuer.close_generations(self._tenant, node, 1)

        await self._spread(nodes, close)

    async def _spread(self, nodes: Sequence[NodeId], work: Work) -> None:
        """Do `work` for each node, on `CONNECTIONS` connections."""
        left = iter(nodes)

        async def one_line(client: CloudClient) -> None:
            issuer = HttpIssuer(client)
            for node in left:
                await work(issuer, node)

        async with self._client() as client:
            await asyncio.gather(*(one_line(client) for _ in range(CONNECTIONS)))

    def _check(self, pkilint_certificates: int) -> "Walked":
        """Run `cascade pki check` beside the running issuer."""
        options = ("--dir", str(self._cloud.directory), "--pkilint", str(pkilint_certificates), "--json")
        process = forked(self._scratch, "cascade", "pki", "check", *options)
        code = process.wait(CHECK_SECONDS)
        report = msgspec.convert(process.out(), Walked)
        if code != 0 and not report.findings:
            raise RuntimeError(f"`cascade pki check` exited {code}: {process.tail()}")
        return report

    def _fetch(self) -> dict[str, tuple[int, int]]:
        """Fetch every shard's CRL by HTTP into files. Returns the number of entries and of bytes of each."""
        found = {}
        for (shard,) in self._cloud.rows("breakwater", "SELECT id FROM shard ORDER BY id"):
            authority, number = shard.rsplit(".", 1)
            der = httpx.get(f"{self._pki}/crl/{authority}/{number}.crl", trust_env=False).raise_for_status().content
            crl = x509.load_der_x509_crl(der)
            self._crl_file(shard).write_bytes(crl.public_bytes(Encoding.PEM))
            found[shard] = (len(crl), len(der))
        return found

    def _crl_file(self, shard: str) -> Path:
        return self._scratch / f"{shard}.crl.pem"

    def _sample(self, count: int) -> list[tuple[Path, bool]]:
        """Write random certificates to files, half of them revoked. Returns each file, and whether it is revoked."""
        chosen: list[tuple[Path, bool]] = []
        for state in ("revoked", "issued"):
            asked = "SELECT serial, certificate, shard FROM certificate WHERE profile = 'device' AND state = ?"
            rows = self._cloud.rows("breakwater", asked, state)
            for serial, der, shard in self._choose.sample(rows, min(count // 2, len(rows))):
                file = self._scratch / f"{shard}-{serial}.pem"
                file.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
                chosen.append((file, state == "revoked"))
        return chosen

    def _verify(self, chosen: Sequence[tuple[Path, bool]]) -> list[str]:
        """Compare with `openssl verify` and the CRL of the certificate's shard. Returns the disagreements."""
        wrong = []
        for file, revoked in chosen:
            crl = self._crl_file(file.name.rpartition("-")[0])
            done = openssl("verify", "-crl_check", "-CAfile", self._bundle, "-CRLfile", crl, file)
            says_good = done.returncode == 0
            says_revoked = done.returncode != 0 and "certificate revoked" in done.stderr
            if (says_good, says_revoked) != (not revoked, revoked):
                wrong.append(f"openssl verify, revoked {revoked}: {file.name}: {done.stdout}{done.stderr}")
        return wrong

    def _ask(self, chosen: Sequence[tuple[Path, bool]]) -> list[str]:
        """Compare with `openssl ocsp`, which also checks responder certificate and nonce. Returns the disagreements."""
        wrong = []
        for file, revoked in chosen:
            where = ("-url", f"{self._pki}/ocsp", "-CAfile", self._bundle, "-issuer", self._issuer)
            done = openssl("ocsp", *where, "-cert", file)
            answer = f"{file}: {'revoked' if revoked else 'good'}"
            if done.returncode != 0 or answer not in done.stdout or "Response verify OK" not in done.stderr:
                wrong.append(f"openssl ocsp, revoked {revoked}: {file.name}: {done.stdout}{done.stderr}")
        return wrong


class Found(msgspec.Struct, frozen=True):
    """A finding in the report of `cascade pki check --json`."""

    check: str
    object: str
    detail: str
    severity: str


class Walked(msgspec.Struct, frozen=True):
    """The fields of the report of `cascade pki check --json` that the drill reads."""

    certificates: int
    pkilint_certificates: int
    waived: dict[str, int]
    findings: tuple[Found, ...]


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an openssl command."""
    return subprocess.run(
        ["openssl", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


def outcome(figures: Figures, seed: int) -> Outcome:
    """The figures and findings of a run as a drill's outcome."""
    named: dict[str, Figure] = {
        "certificates issued": figures.certificates,
        "issued per second": figures.certificates / figures.issue_seconds,
        "connections": CONNECTIONS,
        "generations closed": figures.revoked,
        "closed per second": figures.revoked / figures.close_seconds,
        "certificates checked": figures.checked,
        "check seconds": figures.check_seconds,
        "certificates through pkilint": figures.pkilint_certificates,
    }
    for each in WAIVED:
        named[f"waived {each.code} ({each.reason})"] = figures.waived.get(each.code, 0)
    for shard, (entries, size) in figures.crls.items():
        named[f"CRL {shard} entries"] = entries
        named[f"CRL {shard} bytes"] = size
    named["openssl verify"] = figures.verified
    named["openssl verify, revoked ones"] = figures.verified_revoked
    named["openssl ocsp"] = figures.asked_ocsp
    named["seed"] = seed
    return Outcome(
        named,
        (
            *(f"by `cascade pki check`: {line}" for line in figures.findings),
            *(f"disagreement: {line}" for line in figures.disagreements),
        ),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes, and the seed to repeat a run."""
    parser.add_argument("--certificates", type=int, default=10_000)
    parser.add_argument("--pkilint", type=int, default=500, help="certificates for pkilint (default: %(default)s)")
    parser.add_argument("--verify", type=int, default=200, help="for `openssl verify` (default: %(default)s)")
    parser.add_argument("--ocsp", type=int, default=20, help="for `openssl ocsp` (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices; a figure of each run")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """A new cloud, the certificates, the checks."""
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    with tempfile.TemporaryDirectory(prefix="cascade-soak-") as folder:
        cloud = new_cloud(Path(folder)).init()
        with ended(cloud):
            cloud.up()
            soak = Soak(cloud, Path(folder), seed, say)
            figures = soak.run(options.certificates, options.pkilint, options.verify, options.ocsp)
            cloud.down()
    return outcome(figures, seed)
