"""A client generated from the API document makes a tenant and a code, and lists the node that activates with it.

openapi-python-client comes from the package index into an environment that the drill makes and removes. The cloud is
real; the node's TPM is simulated. The client verifies Fabric's certificate and sends an operator's token.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from lab.cloud import Cloud
from lab.processes import ended
from tests.drills.frame import CannotRun, Figure, Outcome, Say
from tests.simulators.forged_evidence import maker
from tests.system.support.harness import new_cloud
from tests.system.support.paper_node import PaperNode
from tests.system.support.wire import root_pem

USUAL_TIME = "1 min"
MINUTES_MAX = 15.0

GENERATOR = "openapi-python-client==0.29.1"
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "api" / "fabric.json"
TAIL_CHARS = 2000
"""How much of a failed command's output a finding quotes."""

SCRIPT = """
import json, sys, time
from datetime import datetime, timedelta, timezone

from fabric_client import AuthenticatedClient
from fabric_client.api.codes import create_code
from fabric_client.api.nodes import list_nodes, show_node
from fabric_client.api.tenants import add_ek_roots, create_tenant, show_tenant
from fabric_client.models import AddEkRoots, CreateCode, CreateTenant, Problem

given = json.load(sys.stdin)
client = AuthenticatedClient(given["url"], token=given["token"], verify_ssl=given["root"], raise_on_unexpected_status=True)
with client:
    if given["step"] == "make":
        tenant = create_tenant.sync(client=client, body=CreateTenant(name="made by a client"))
        trust = add_ek_roots.sync(tenant.id, client=client, body=AddEkRoots(pem=given["makers"]))
        ends = datetime.now(timezone.utc) + timedelta(days=1)
        body = CreateCode(profile="kiosk", expires_at=ends, entitlements=["vision"], seats=3)
        made = create_code.sync(tenant.id, client=client, body=body)
        print(json.dumps({"tenant": tenant.id, "roots": len(trust.ek_roots), "secret": made.secret, "code": made.code.id}))
    else:
        page = list_nodes.sync(client=client, tenant=given["tenant"])
        shown = show_node.sync(page.items[0].id, client=client)
        refused = show_tenant.sync("ten_" + "0" * 26, client=client)
        assert isinstance(refused, Problem), refused
        nodes = [{"id": node.id, "standing": node.standing.value, "code": node.code} for node in page.items]
        print(json.dumps({"nodes": nodes, "generations": len(shown.generations), "refused": refused.code}))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which generator."""
    parser.add_argument("--generator", default=GENERATOR, help="package and version (default: %(default)s)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Install the generator, generate the client, use it."""
    figures: dict[str, Figure] = {"generator": options.generator}
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cascade-client-") as folder:
        directory = Path(folder)
        python = _environment(directory / "venv", options.generator)
        say("generating the client")
        warnings = _generated(python, directory / "fabric_client")
        if warnings:
            findings.append(f"the generator warns:\n{warnings}")
        figures["modules of the client"] = len(list((directory / "fabric_client").rglob("*.py")))
        cloud = new_cloud(directory / "cloud").init()
        with ended(cloud):
            cloud.up()
            say("using the client")
            began = time.monotonic()
            findings += _use(cloud, python, directory, figures)
            figures["seconds of use"] = round(time.monotonic() - began, 1)
    return Outcome(figures, tuple(findings))


def _environment(folder: Path, generator: str) -> Path:
    """A new environment with the generator; the path of its Python. Raises CannotRun without a package index."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", generator]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRun(f"{generator} cannot be installed: {done.stderr[-TAIL_CHARS:]}")
    return python


def _generated(python: Path, package: Path) -> str:
    """Generate the client. Returns what the generator warns of."""
    command = [str(python.with_name("openapi-python-client")), "generate", "--path", str(DOCUMENT)]
    command += ["--output-path", str(package), "--meta", "none", "--fail-on-warning"]
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-TAIL_CHARS:]


def _use(cloud: Cloud, python: Path, directory: Path, figures: dict[str, Figure]) -> list[str]:
    """Make things with the client, activate a node with its code, and list it. Returns the findings."""
    given = {
        "url": f"https://127.0.0.1:{cloud.port}",
        "token": (cloud.directory / "operator" / "token").read_text().strip(),
        "root": str(root_pem(cloud)),
        "makers": (maker().root.pem + maker().intermediate.pem).decode(),
    }
    made = _script(python, directory, {**given, "step": "make"})
    node = PaperNode(cloud, "of the client").join(made["secret"])
    listed = _script(python, directory, {**given, "step": "list", "tenant": made["tenant"]})
    figures |= {"nodes listed": len(listed["nodes"]), "roots trusted": made["roots"]}
    expected = {
        "nodes": [{"id": node.node, "standing": "active", "code": made["code"]}],
        "generations": 1,
        "refused": "not_found",
    }
    return [] if listed == expected else [f"the client read {listed}, not {expected}"]


def _script(python: Path, directory: Path, given: dict[str, Any]) -> Any:
    done = subprocess.run(
        [str(python), "-c", SCRIPT],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={"PATH": os.defpath},
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"the client failed: {done.stderr[-TAIL_CHARS:]}")
    return json.loads(done.stdout)
