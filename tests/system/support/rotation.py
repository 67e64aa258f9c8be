"""The steps of docs/rotation.md as functions, and a run of a full rotation under load."""

import re
import shutil
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.cli.errors import EXIT_REFUSED
from cloud.contracts.events import PATH_CHANGES
from cloud.mtls.peer import key_id_of
from lab.cloud import Cloud
from lab.machine import Machine
from lab.processes import wait_until
from node.disk.identity import IdentityStore
from protocol.encoding import sha256_hex
from protocol.messages.sessions import Ask
from tests.simulators.forged_evidence import request
from tests.system.support.fleet import Fleet
from tests.system.support.paper_node import PaperNode, paper_tenant, secret_of
from tests.system.support.wire import PORTS, Answer, Closed, Identity, Service, Wire, once, renew_device
from tests.system.support.wire import service_identity as identity_of

CLASSES = ("root", "nodes", "services")
SERVICES: tuple[Service, ...] = ("fabric", "breakwater")
SESSIONS_REMAIN = "every node with a session from nodes-1 has shown one from nodes-2"
OVERRIDE = ("--override", "--reason", SESSIONS_REMAIN)


class Rotation:
    """The operators of docs/rotation.md: one on the issuer's host, and the holders of the offline keys.

    `hall` is the folder of the ceremonies, with the offline keys and all CA certificates.
    """

    def __init__(self, cloud: Cloud, hall: Path) -> None:
        self.cloud = cloud
        self.hall = hall
        hall.mkdir()
        shutil.copy(cloud.directory / "offline" / "root-ca.key.pem", hall / "root-1.key.pem")
        shutil.copy(cloud.directory / "breakwater" / "certs" / "root.pem", hall / "root-1.pem")
        shutil.copy(cloud.directory / "secrets" / "passphrase", hall / "passphrase")
        # The operator who drops the first issuing CAs needs their certificates.
        for name in ("nodes", "services"):
            shutil.copy(cloud.directory / "breakwater" / "certs" / f"{name}-ca.pem", hall / f"{name}-1.pem")

    # Commands

    def rotate(self, *step: str, expect: int = 0) -> Any:
        return self.cloud.run("pki", "rotate", "--dir", str(self.cloud.directory), *step, expect=expect)

    def trust(self, *action: str, expect: int = 0) -> Any:
        return self.cloud.run("trust", *action, expect=expect)

    def adoption(self) -> Any:
        return self.trust("adoption")

    def refused(self, work: Callable[..., Any], *command: str) -> tuple[str, str]:
        """Run a command that has to be refused. Returns the code and the text of the error."""
        error = work(*command, expect=EXIT_REFUSED)["error"]
        return error["code"], error["text"]

    # Ceremonies

    def ceremony(self, name: str, text: str) -> None:
        file = self.hall / f"{name}.toml"
        file.write_text(text)
        self.cloud.run("pki", "ceremony", str(file))

    def _input(self, name: str) -> str:
        return f'{{ path = "{name}", sha256 = "{sha256_hex((self.hall / name).read_bytes())}" }}'

    def _root(self, section: str, root: str, *, key: bool) -> str:
        text = f'[{section}]\nauthority = "{root}"\ncertificate = {self._input(f"{root}.pem")}\n'
        return text + (f'key = "{root}.key.pem"\npassphrase_file = "passphrase"\n' if key else "")

    def make_root(self, old: str, new: str) -> None:
        head = f'trust_domain = "{self.domain}"\npassphrase_file = "passphrase"\n'
        text = f'type = "root"\nauthority = "{new}"\n{head}key = "{new}.key.pem"\ncertificate = "{new}.pem"\n'
        self.ceremony(new, text)
        cross = f'type = "cross-certificate"\ncertificate = "{new}-by-{old}.pem"\ncrl_url = "{self.crl_url(old)}"\n'
        cross += self._root("subject", new, key=False) + self._root("root", old, key=True)
        self.ceremony(f"{new}-by-{old}", cross)

    def make_issuing(self, root: str, authority: str) -> None:
        text = f'type = "intermediate"\nauthority = "{authority}"\ntrust_domain = "{self.domain}"\n'
        text += f'crl_url = "{self.crl_url(root)}"\n'
        text += f'certificate = "{authority}.pem"\nrequest = {self._input(f"{authority}.csr.pem")}\n'
        self.ceremony(authority, text + self._root("root", root, key=True))

    def crl_url(self, root: str) -> str:
        """The address of a root's CRL at this cloud."""
        return f"http://127.0.0.1:{self.cloud.port + PORTS['pki']}/crl/{root}/1.crl"

    def publish_crl(self, root: str) -> None:
        """Sign the next CRL of a root and publish it."""
        home, folder = str(self.cloud.directory), self.hall / f"crl-of-{root}"
        made = self.cloud.run("pki", "crl", "--dir", home, "--ceremony", str(folder), "--root", root)
        for name in (f"{root}.key.pem", "passphrase"):
            shutil.copy(self.hall / name, folder / name)
        self.cloud.run("pki", "ceremony", made["file"])
        self.cloud.run("pki", "crl", "--dir", home, "--import", str(folder / f"{root}.{made['number']}.crl.pem"))

    @property
    def domain(self) -> str:
        name = x509.load_pem_x509_certificate((self.hall / "root-1.pem").read_bytes()).subject.rfc4514_string()
        return name.removeprefix("CN=").split(" ")[0]

    # Steps of docs/rotation.md

    def make(self) -> None:
        """Steps 1 to 3: make and import keys and certificates. No process uses them yet."""
        self.make_root("root-1", "root-2")
        for name in ("nodes", "services"):
            self.rotate("request", name, "--out", str(self.hall / f"{name}-2.csr.pem"))
            self.make_issuing("root-2", f"{name}-2")
        for name in ("root-2", "root-2-by-root-1", "nodes-2", "services-2"):
            self.rotate("import", str(self.hall / f"{name}.pem"))
        self.publish_crl("root-2")

    def sign(self, name: str, *changes: str) -> str:
        """Sign the published trust with `changes`, as the holder of the offline targets key. Returns the new folder."""
        published, out = self.hall / f"{name}-published", self.hall / name
        self.trust("show", "--export", str(published))
        key = self.cloud.directory / "offline" / "tuf-targets.key.pem"
        options = ["--key", str(key), "--passphrase-file", str(self.hall / "passphrase"), "--out", str(out)]
        self.trust("sign", "--from", str(published), *options, *changes)
        return str(out)

    def publish_both(self) -> None:
        """Step 4: publish the new CAs beside the old ones."""
        added = [f"--add-issuer={name}:{self.hall / f'{name}-2.pem'}" for name in ("nodes", "services")]
        self.trust("publish", self.sign("both", f"--add-root={self.hall / 'root-2.pem'}", *added))

    def drop(self) -> str:
        """Step 8: sign trust without the old CAs. Returns its folder."""
        drops = [f"--drop-issuer={self.key_id(name)}" for name in ("nodes-1", "services-1")]
        return self.sign("new", f"--drop-root={self.key_id('root-1')}", *drops)

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.hall / f"{name}.pem").read_bytes())

    def key_id(self, name: str) -> str:
        return key_id_of(self.certificate(name))

    def subject(self, name: str) -> str:
        return self.certificate(name).subject.rfc4514_string()

    @property
    def root(self) -> Path:
        return self.hall / "root-2.pem"

    # Observations

    def adopted(self) -> tuple[int, int]:
        """The number of nodes that have reported the published trust, and the number of all nodes."""
        shown = self.adoption()
        return shown["adopted"], shown["nodes"]

    def devices_of(self, name: str) -> int:
        """The number of nodes that have shown a device certificate from this CA."""
        return sum(it["nodes"] for it in self.adoption()["issuers"] if it["key_id"] == self.key_id(name))

    def states(self) -> dict[str, str]:
        """The state of every CA by its id."""
        status = self.cloud.run("pki", "status", "--dir", str(self.cloud.directory))
        return {authority["id"]: authority["state"] for authority in status["authorities"]}

    def is_gone(self, root: str, service: Service) -> bool:
        """Whether a client that trusts only this root cannot connect."""
        try:
            Wire(self.cloud, service, root=self.hall / f"{root}.pem").__exit__()
        except ssl.SSLCertVerificationError:
            return True
        return False

    def served_by(self, name: str) -> bool:
        """Whether Fabric has seen certificates from this CA at both services."""
        issuers = {service["name"]: service["issuer"] for service in self.adoption()["services"]}
        return issuers == dict.fromkeys(("fabric", "breakwater"), self.key_id(name))


Old = tuple[Service, Identity, Callable[[Wire], Answer]]
"""A service, an identity from the first CAs, and a request that the service accepts from the identity."""


def activated(cloud: Cloud, directory: Path, count: int) -> list[PaperNode]:
    """`count` simulated nodes, each activated through the API."""
    code = secret_of(cloud.code(paper_tenant(cloud, directory), "--seats", str(count)))
    with ThreadPoolExecutor(4) as workers:
        return list(workers.map(lambda number: PaperNode(cloud, f"fleet {number}").join(code), range(count)))


def of_the_first_generation(cloud: Cloud, paper: PaperNode) -> list[Old]:
    """A node's and a service's identity from the first CAs. The services have to refuse them after the rotation."""
    session, fabric = paper.session(), identity_of(cloud, "fabric")
    return [
        ("fabric", session, lambda wire: wire.ask("POST", "/v1/node/statement", Ask("n" * 32))),
        ("breakwater", session, lambda wire: renew_device(wire, request(paper.node_key))),
        ("breakwater", fabric, lambda wire: wire.ask("GET", PATH_CHANGES)),
    ]


def refuses(wire: Wire, ask: Callable[[Wire], Answer]) -> bool:
    return ask(wire).status == 403


def is_turned_away(rotation: Rotation, service: Service, identity: Identity, ask: Callable[[Wire], Answer]) -> bool:
    """Whether the service closes a new connection of this identity."""
    try:
        with Wire(rotation.cloud, service, identity, rotation.root) as wire:
            ask(wire)
    except (Closed, ssl.SSLError):
        return True
    return False


def rotate_without_nodes(rotation: Rotation, reason: str) -> None:
    """Rotate the root and both issuing CAs to the end, with `reason` for the nodes that are off."""
    off = ("--override", "--reason", reason)
    rotation.make()
    rotation.publish_both()
    for name in ("root-2", "nodes-2", "services-2"):
        rotation.rotate("activate", name, *off)
    rotation.trust("renew-devices", "--after", "now", "--reason", "rotation")
    wait_until("the renewal of the services", lambda: rotation.served_by("services-2"))
    rotation.trust("publish", rotation.drop(), *off)
    for step in ("taint", "revoke"):
        for name in ("nodes-1", "services-1", "root-1"):
            rotation.rotate(step, name, *off)
    wait_until("the end of the old root", lambda: all(rotation.is_gone("root-1", it) for it in SERVICES))


def crl_of(cloud: Cloud, certificate: x509.Certificate) -> x509.CertificateRevocationList:
    """Fetch the CRL that a certificate names."""
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    url = next(str(name.value) for point in points for name in point.full_name or ())
    answer = once(cloud, "pki", "GET", urlsplit(url).path)
    assert answer.status == 200, answer.body
    return x509.load_der_x509_crl(answer.body)


def lives_on(cloud: Cloud, certificate: bytes, ca: x509.Certificate) -> None:
    """Assert that the cloud serves the CRL of this certificate, signed by this CA."""
    key = ca.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert crl_of(cloud, x509.load_der_x509_certificate(certificate)).is_signature_valid(key)


def device_issuer(machine: Machine) -> str:
    identity = IdentityStore(machine.state).current()
    assert identity is not None
    return x509.load_der_x509_certificate(identity.chain[0]).issuer.rfc4514_string()


def rotate_under_load(rotation: Rotation, machine: Machine, directory: Path, count: int) -> Fleet:
    """Run a whole rotation with `count` nodes under load, and activate a new machine at its end.

    `machine` has no state yet. Returns the stopped fleet with its figures. Raises AssertionError.
    """
    cloud = rotation.cloud
    papers = activated(cloud, directory, count)
    old, tenant = of_the_first_generation(cloud, papers[0]), cloud.tenant(machine.chip)
    nodes_1, nodes_2 = (rotation.subject("nodes-1"), "CN=cascade.internal nodes CA 2")
    with ExitStack() as kept, Fleet(cloud, papers, directory / "fleet") as fleet:
        assert fleet.issuers == {nodes_1: count}
        rotation.make()
        assert rotation.refused(rotation.rotate, "activate", "nodes-2")[0] == "not_published"
        rotation.publish_both()
        dropped = rotation.drop()
        fleet.wait("the new trust at every node", lambda: fleet.versions == {2})
        fleet.wait("adoption", lambda: rotation.adopted() == (count, count))

        assert rotation.refused(rotation.trust, "publish", dropped)[0] == "trust_refused"
        for name in ("root-2", "nodes-2", "services-2"):
            rotation.rotate("activate", name)
        fleet.wait("the renewal of the services", lambda: rotation.served_by("services-2"))
        code, text = rotation.refused(rotation.trust, "publish", dropped)
        assert (code, f" have a device certificate from {rotation.key_id('nodes-1')}" in text) == (
            "adoption_incomplete",
            True,
        )
        rotation.trust("renew-devices", "--after", "now", "--reason", "rotation")
        fleet.wait("a device certificate from nodes-2 for every node", lambda: fleet.issuers == {nodes_2: count})
        fleet.wait("a session of every node with a new certificate", lambda: rotation.devices_of("nodes-2") == count)

        wires = [kept.enter_context(Wire(cloud, service, identity)) for service, identity, _ in old]
        assert [ask(wire).status for wire, (_, _, ask) in zip(wires, old, strict=True)] == [200] * 3
        code, text = rotation.refused(rotation.trust, "publish", dropped)
        # The only obstacle left is that old session certificates stay valid for hours.
        key_id = rotation.key_id("nodes-1")
        assert re.fullmatch(rf".*\(session certificates from {key_id} may be valid until [^;]+\)", text)
        rotation.trust("publish", dropped, *OVERRIDE)
        assert rotation.refused(rotation.rotate, "taint", "nodes-1")[0] == "still_needed"
        assert rotation.refused(rotation.rotate, "taint", "root-1")[0] == "still_needed"
        rotation.rotate("taint", "nodes-1", *OVERRIDE)
        rotation.rotate("taint", "services-1")
        rotation.rotate("taint", "root-1")
        for wire, (service, _, ask) in zip(wires, old, strict=True):
            fleet.wait(f"a refusal by {service}", partial(refuses, wire, ask))
            ask(wire).refused("peer_refused")
        fleet.wait("the end of the old root", lambda: all(rotation.is_gone("root-1", it) for it in SERVICES))
        lives_on(cloud, papers[0].device, rotation.certificate("nodes-1"))
        lives_on(cloud, fleet.nodes[0].chain[0], rotation.certificate("nodes-2"))

        rotation.rotate("revoke", "nodes-1", *OVERRIDE)
        rotation.rotate("revoke", "services-1")
        rotation.rotate("revoke", "root-1")
        for service, identity, ask in old:
            assert is_turned_away(rotation, service, identity, ask), service
        machine.run("activate", str(cloud.code(tenant)))
        machine.up()
        wait_until("the contact of a new machine", lambda: machine.ask("/v1/status")["last_contact_at"])
        assert device_issuer(machine) == nodes_2
        fleet.wait("the last trust at every node", lambda: fleet.versions == {3})
        fleet.round()
        # Fabric stores the reports of nodes with a delay of a second.
        fleet.wait("the adoption of every node", lambda: rotation.adopted() == (count + 1, count + 1))
    assert fleet.failed == []
    assert rotation.states() == {f"{ca}-1": "revoked" for ca in CLASSES} | {f"{ca}-2": "active" for ca in CLASSES}
    assert cloud.run("pki", "check", "--dir", str(cloud.directory))["errors"] == 0
    return fleet
