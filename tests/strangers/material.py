"""Real part: a cloud, and files with its certificates of each profile, their keys and lists, for other programs.

Breakwater issues device, session, service and responder certificates over its API, EST and OCSP, and publishes lists.
`beside.py` adds the files that an installation has only in a rotation or after a theft.
"""

import asyncio
import secrets
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cloud.contracts.breakwater import PATH_CLOSE
from cloud.mtls.identity import make_csr
from lab.cloud import Cloud
from protocol.ids import make_id
from protocol.messages.est import decode_certs_only
from tests.strangers.beside import add_beside
from tests.strangers.files import Files, load
from tests.strangers.tasks import Leaf
from tests.system.support.paper_node import made_by_the_issuer
from tests.system.support.wire import PORTS, Identity, Wire, new_key, once, renew_device, service_identity

_CAS = {"root-1": "root.pem", "nodes-1": "nodes-ca.pem", "services-1": "services-ca.pem"}


class Material:
    """The files of `folder`. `leaves` has what belongs to each certificate of an end entity, by its name.

    `port` is that of Breakwater's TLS listener.
    """

    def __init__(self, folder: Path, cloud: Cloud) -> None:
        self.files = Files(folder)
        self.cloud = cloud
        self.leaves: dict[str, Leaf] = {}
        self.port = cloud.port + PORTS["breakwater"]

    def make(self) -> None:
        """Write every file. The cloud must run."""
        certs = self.cloud.directory / "breakwater" / "certs"
        for name, file in _CAS.items():
            self.files.certificate(name, load(certs / file).public_bytes(Encoding.DER))
        self._nodes()
        self._services()
        for ca, leaf in (("nodes-1", "device"), ("services-1", "service")):
            self.files.certificate(f"responder-{ca}", self._responder(ca, leaf))
        self._pki("crl", "--out", str(self.files.folder / "published"))
        for authority in _CAS:
            self.files.list(authority, (self.files.folder / "published" / f"{authority}.1.crl").read_bytes())
        self.leaves |= asyncio.run(add_beside(self.files, self.cloud))

    def publish_theft(self) -> None:
        """Publish the list that names the issuing CAs."""
        self._pki("crl", "--import", str(self.files.folder / "root-1-revoked.crl"))

    def _nodes(self) -> None:
        tenant = make_id("ten", 1, secrets.token_bytes(10))
        kinds: dict[str, Literal["device", "session"]] = {
            "device": "device",
            "device-revoked": "device",
            "session": "session",
        }
        nodes = {name: make_id("node", 1, secrets.token_bytes(10)) for name in kinds}
        for name, kind in kinds.items():
            made = made_by_the_issuer(self.cloud, tenant, nodes[name], kind)
            self._keep(name, made, "nodes-1", listed=kind == "device")
        body = {"tenant": tenant, "node": nodes["device-revoked"], "up_to": 1, "reason": "keyCompromise"}
        once(self.cloud, "breakwater", "POST", PATH_CLOSE, body, service_identity(self.cloud, "fabric")).into(dict)

    def _services(self) -> None:
        fabric = service_identity(self.cloud, "fabric")
        self._keep("service", fabric, "services-1")
        key = new_key()
        with Wire(self.cloud, "breakwater", fabric) as wire:
            (leaf,) = decode_certs_only(renew_device(wire, make_csr(key)).body)
        self._keep("service-revoked", Identity(key, (leaf,)), "services-1")
        file = str(self.files.folder / "service-revoked.pem")
        self._pki("revoke", "--certificate", file, "--reason", "keyCompromise")

    def _keep(self, name: str, identity: Identity, ca: str, *, listed: bool = True) -> None:
        self.files.certificate(name, identity.chain[0])
        self.files.key(name, identity.key)
        self.leaves[name] = Leaf(
            f"{name}.pem", (f"{ca}.pem",), (f"{ca}.crl" if listed else "", "root-1.crl"), f"{name}.key"
        )

    def _responder(self, ca: str, leaf: str) -> bytes:
        """The certificate of the running OCSP responder, which is part of each of its answers."""
        certificate, issuer = (load(self.files.folder / f"{name}.pem") for name in (leaf, ca))
        asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256()).build()
        with Wire(self.cloud, "pki") as wire:
            answer = wire.ask("POST", "/ocsp", asked.public_bytes(Encoding.DER), media_type="application/ocsp-request")
        (found,) = ocsp.load_der_ocsp_response(answer.body).certificates
        return found.public_bytes(Encoding.DER)

    def _pki(self, *command: str) -> None:
        self.cloud.run("pki", *command, "--dir", str(self.cloud.directory))
