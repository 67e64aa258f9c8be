"""nginx and Varnish in front of CRLs and OCSP: a revocation is seen through the cache at the next request.

Each cache has its usual rules. A client asks for the status of a certificate by OCSP GET and for its CRL, twice, so that
the cache has both if it stores them. Then the certificate is revoked, and the next answers must say so. The certificate
of the CA, which caches may keep for a day, shows that the cache works.
"""

import argparse
import base64
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from requests.exceptions import ConnectionError as NotConnected

from cloud.contracts.breakwater import PATH_CLOSE
from lab.cloud import Cloud
from lab.processes import ended, free_ports, wait_until
from protocol.ids import make_id
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import made_by_the_issuer
from tests.system.support.wire import PORTS, nodes_ca_pem, once, service_identity

USUAL_TIME = "10 s"
MINUTES_MAX = 5.0
SECONDS_MAX = 10.0
"""The time limit for an answer."""

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=pki:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_cache pki;
            proxy_cache_revalidate on;
            proxy_cache_use_stale error timeout updating;
            proxy_cache_background_update on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""
VARNISH = """
vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_deliver {{ set resp.http.X-Cache = obj.hits; }}
"""


def _nginx(folder: Path, port: int, origin: int) -> list[str]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, origin=origin))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _varnish(folder: Path, port: int, origin: int) -> list[str]:
    (folder / "default.vcl").write_text(VARNISH.format(origin=origin))
    usual = ("-F", "-j", "none", "-n", str(folder / "work"), "-s", "malloc,16m")
    return ["varnishd", *usual, "-a", f"127.0.0.1:{port}", "-f", str(folder / "default.vcl")]


CACHES = {"nginx": _nginx, "varnishd": _varnish}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of revocations."""
    parser.add_argument("--count", type=int, default=20, help="revocations for each cache (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Start a cloud and each cache in front of it, and revoke certificates."""
    missing = [program for program in CACHES if shutil.which(program) is None]
    if missing:
        raise CannotRun(f"{' and '.join(missing)} are missing. Run `apt-get install nginx-light varnish`")
    figures: dict[str, Figure] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-caches-") as scratch:
        cloud = new_cloud(Path(scratch)).init()
        with ended(cloud):
            cloud.up()
            for program in CACHES:
                folder = Path(scratch) / program
                folder.mkdir()
                with _running(program, folder, cloud) as url:
                    found = _revoked_behind(cloud, url, options.count, program)
                    findings += found
                figures[program] = f"{options.count} revocations, {len(found)} findings"
                say(f"{program}: {figures[program]}")
    return Outcome(figures, tuple(findings))


@contextmanager
def _running(program: str, folder: Path, cloud: Cloud) -> Iterator[str]:
    """A cache in front of the listener for CRLs and OCSP. Yields its URL."""
    port = free_ports()
    command = CACHES[program](folder, port, cloud.port + PORTS["pki"])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(f"{program} to listen", lambda: _answers(f"http://127.0.0.1:{port}/healthz"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(SECONDS_MAX)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=SECONDS_MAX).status_code == 200
    except NotConnected:
        return False


def _revoked_behind(cloud: Cloud, url: str, count: int, program: str) -> list[str]:
    """Ask through the cache, revoke, and ask again. Returns the findings."""
    findings: list[str] = []
    kept = [_get(f"{url}/ca/nodes-1.cer") for _ in range(2)]
    if kept[1].headers["x-cache"] not in ("HIT", "1"):
        findings.append(f"{program} did not keep the certificate of the CA: {kept[1].headers}")
    issuer = x509.load_pem_x509_certificate(nodes_ca_pem(cloud).read_bytes())
    tenant = make_id("ten", 1, secrets.token_bytes(10))
    for number in range(count):
        node = make_id("node", 1, secrets.token_bytes(10))
        device = x509.load_der_x509_certificate(made_by_the_issuer(cloud, tenant, node, "device").chain[0])
        before = [_state(url, device, issuer) for _ in range(2)]
        if before != [("GOOD", False)] * 2:
            findings.append(f"{program}, certificate {number}: before its revocation {before}")
        body = {"tenant": tenant, "node": node, "up_to": 1, "reason": "keyCompromise"}
        once(cloud, "breakwater", "POST", PATH_CLOSE, body, service_identity(cloud, "fabric")).into(dict)
        after = _state(url, device, issuer)
        if after != ("REVOKED", True):
            findings.append(f"{program}, certificate {number}: after its revocation {after}")
    return findings


def _state(url: str, device: x509.Certificate, issuer: x509.Certificate) -> tuple[str, bool]:
    """The status by OCSP GET, and whether the CRL names the certificate, as a client behind the cache reads them."""
    asked = ocsp.OCSPRequestBuilder().add_certificate(device, issuer, hashes.SHA256()).build()
    encoded = quote(base64.b64encode(asked.public_bytes(Encoding.DER)).decode(), safe="")
    answer = ocsp.load_der_ocsp_response(_get(f"{url}/ocsp/{encoded}").content)
    points = device.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    names = [str(name.value) for name in points[0].full_name or ()]
    crl = x509.load_der_x509_crl(_get(f"{url}/crl/{names[0].partition('/crl/')[2]}").content)
    listed = crl.get_revoked_certificate_by_serial_number(device.serial_number) is not None
    return answer.certificate_status.name, listed


def _get(url: str) -> requests.Response:
    answer = requests.get(url, timeout=SECONDS_MAX)
    answer.raise_for_status()
    return answer
