"""`cascade pki rotate`: a whole rotation on both engines, and the steps that its gates refuse."""

from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin
from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE
from cloud.cli.pki import rotate
from cloud.clock import utc_now
from cloud.fabric import schemas
from protocol.encoding import sha256_hex
from protocol.signed.trust import X509Bundle
from tests.cloud.breakwater.support import FABRIC, ask, new_key, opening
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


class Fleet:
    """Plays Fabric: the published bundle, and the number of nodes that have adopted it."""

    def __init__(self) -> None:
        self.published: dict[str, list[bytes]] = {"root": [], "nodes": [], "services": []}
        self.nodes, self.adopted, self.fabric_version = 3, 1, 1

    def __call__(self, _: Namespace) -> "Fleet":
        return self

    def trust(self) -> tuple[X509Bundle, None]:
        roots, nodes, services = (tuple(self.published[name]) for name in ("root", "nodes", "services"))
        return X509Bundle(1, "cascade.internal", roots, nodes, services), None

    def call(self, method: str, path: str, kind: Any) -> schemas.Adoption:
        assert (method, path, kind) == ("GET", "/v1/trust/adoption", schemas.Adoption)
        services = (
            schemas.ServiceAdoption("fabric", "", True, self.fabric_version),
            schemas.ServiceAdoption("breakwater", "", True),
        )
        return schemas.Adoption(2, self.nodes, self.adopted, (), services, None)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    found = Fleet()
    monkeypatch.setattr(rotate, "Server", found)
    return found


class Room:
    """The machine with the root's keys. It exchanges files with the host and nothing else."""

    def __init__(self, host: Host) -> None:
        self.host = host
        home = host.directory
        self.passphrase = home / "secrets" / "passphrase"
        self.roots = {"root-1": (home / "breakwater" / "certs" / "root.pem", home / "offline" / "root-ca.key.pem")}

    def _input(self, path: Path) -> str:
        return f'{{ path = "{path}", sha256 = "{sha256_hex(path.read_bytes())}" }}'

    def _by(self, authority: str) -> str:
        certificate, key = self.roots[authority]
        return (
            f'[root]\nauthority = "{authority}"\ncertificate = {self._input(certificate)}\n'
            f'key = "{key}"\npassphrase_file = "{self.passphrase}"\n'
        )

    def root(self, authority: str) -> Path:
        certificate, key = self.host.scratch / f"{authority}.pem", self.host.scratch / f"{authority}.key.pem"
        self.host.ceremony(
            f'type = "root"\nauthority = "{authority}"\ntrust_domain = "cascade.internal"\n'
            f'passphrase_file = "{self.passphrase}"\nkey = "{key}"\ncertificate = "{certificate}"\n'
        )
        self.roots[authority] = (certificate, key)
        return certificate

    def cross(self, subject: str, issuer: str) -> Path:
        out = self.host.scratch / f"{subject}-by-{issuer}.pem"
        certificate, _ = self.roots[subject]
        self.host.ceremony(
            f'type = "cross-certificate"\ncertificate = "{out}"\n{self._by(issuer)}'
            f'[subject]\nauthority = "{subject}"\ncertificate = {self._input(certificate)}\n'
        )
        return out

    def issuing(self, authority: str, request: Path, root: str) -> Path:
        out = self.host.scratch / f"{authority}.pem"
        self.host.ceremony(
            f'type = "intermediate"\nauthority = "{authority}"\ntrust_domain = "cascade.internal"\n'
            f'certificate = "{out}"\nrequest = {self._input(request)}\n{self._by(root)}'
        )
        return out


def der_of(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


async def _a_node(admin: Admin) -> None:
    await admin.parts.generations.open(FABRIC, opening())
    await admin.parts.issuing.issue_device(FABRIC, ask(new_key(), not_after=utc_now() + timedelta(days=90)))


async def _renewed_node(admin: Admin) -> None:
    again = ask(new_key(), request="r2", not_after=utc_now() + timedelta(days=90))
    await admin.parts.issuing.issue_device(FABRIC, again)


def test_everything_is_rotated_to_a_second_generation(host: Host, fleet: Fleet) -> None:
    host.open(_a_node)
    room = Room(host)
    made = {"root": room.root("root-2")}
    assert host.pki("rotate", "import", str(made["root"])) == {
        "authority": "root-2",
        "state": "prepared",
        "changed": True,
    }
    assert host.pki("rotate", "import", str(made["root"]))["changed"] is False
    cross = str(room.cross("root-2", "root-1"))
    assert host.pki("rotate", "import", cross)["state"] == "cross-certificate"
    assert host.pki("rotate", "import", cross)["changed"] is False
    for ca in ("nodes", "services"):
        request = host.scratch / f"{ca}-2.csr.pem"
        asked = host.pki("rotate", "request", ca, "--out", str(request))
        assert (asked["authority"], asked["common_name"]) == (f"{ca}-2", f"cascade.internal {ca} CA 2")
        made[ca] = room.issuing(f"{ca}-2", request, "root-2")
        assert host.pki("rotate", "import", str(made[ca]))["state"] == "prepared"
        assert host.pki("rotate", "import", str(made[ca]))["changed"] is False

    for ca in ("root", "nodes", "services"):
        step = "--add-root" if ca == "root" else f"--add-issuer {ca}:FILE"
        assert step in host.refused(EXIT_REFUSED, "not_published", "rotate", "activate", f"{ca}-2")
        fleet.published[ca].append(der_of(made[ca]))
        host.refused(EXIT_REFUSED, "adoption_incomplete", "rotate", "activate", f"{ca}-2")
    fleet.adopted = 3
    host.refused(EXIT_REFUSED, "adoption_incomplete", "rotate", "activate", "nodes-2")
    fleet.fabric_version = 2
    assert host.states() == _states("active", "prepared")
    assert host.pki("rotate", "activate", "root-2")["state"] == "active"
    assert host.pki("rotate", "activate", "nodes-2") == {"authority": "nodes-2", "state": "active", "changed": True}
    assert host.pki("rotate", "activate", "nodes-2")["changed"] is False
    fleet.adopted = 2
    host.refused(EXIT_USAGE, "reason_missing", "rotate", "activate", "services-2", "--override")
    host.pki("rotate", "activate", "services-2", "--override", "--reason", "services-1 was copied")
    assert host.audit("authority.activate")[-1]["detail"] == "override: services-1 was copied"
    assert host.states() == _states("old", "active")

    _old_ones_go(host)
    assert host.states() == _states("revoked", "active")
    assert host.pki("check", "--pkilint", "20")["counts"] == {}
    files = host.pki("export", "--out", str(host.scratch / "all"))
    assert files["authorities"] == 6
    assert (host.scratch / "all" / "ca" / "root-2-by-root-1.pem").exists()


def _states(first: str, second: str) -> dict[str, str]:
    return {
        f"{ca}-{number}": state for ca in ("nodes", "root", "services") for number, state in ((1, first), (2, second))
    }


def _old_ones_go(host: Host) -> None:
    """An old authority is tainted and revoked once no certificate needs it, and not before."""
    assert "renew-devices" in host.refused(EXIT_REFUSED, "still_needed", "rotate", "taint", "nodes-1")
    host.refused(EXIT_REFUSED, "still_needed", "rotate", "taint", "services-1")
    host.refused(EXIT_REFUSED, "still_needed", "rotate", "taint", "root-1")
    for service in ("fabric", "breakwater"):
        host.pki("renew", service)
    chain = x509.load_pem_x509_certificates((host.directory / "fabric" / "tls" / "chain.pem").read_bytes())
    assert [each.issuer.rfc4514_string().rpartition("internal ")[2] for each in chain] == [
        "services CA 2",
        "root CA 2",
        "root CA 1",
    ]
    host.pki("crl")
    assert host.pki("rotate", "taint", "services-1")["state"] == "tainted"
    host.pki("rotate", "taint", "nodes-1", "--override", "--reason", "the last node is lost")
    assert host.audit("authority.taint")[-1]["detail"] == "override: the last node is lost"
    host.open(_renewed_node)
    for authority in ("nodes-1", "services-1"):
        assert host.pki("rotate", "revoke", authority)["state"] == "revoked"
    for step in ("taint", "revoke"):
        host.pki("rotate", step, "root-1")


def test_a_lost_request_is_made_again_for_the_same_key(host: Host) -> None:
    keys = []
    for name in ("one", "two"):
        request = host.scratch / name
        host.pki("rotate", "request", "nodes", "--out", str(request))
        keys.append(x509.load_pem_x509_csr(request.read_bytes()).public_key())
    assert keys[0] == keys[1]
    host.refused(EXIT_USAGE, "file_in_use", "rotate", "request", "nodes", "--out", str(host.scratch / "one"))


def test_what_is_not_ours_is_not_imported(host: Host, made: Path) -> None:
    room = Room(host)
    request = host.scratch / "request"
    host.pki("rotate", "request", "nodes", "--out", str(request))
    answer = room.issuing("nodes-2", request, "root-1")
    (host.directory / "breakwater" / "keys" / "nodes-2.key.pem").unlink()
    assert "rotate request" in host.refused(EXIT_REFUSED, "key_unknown", "rotate", "import", str(answer))
    host.refused(EXIT_USAGE, "certificate_unusable", "rotate", "import", str(request))
    leaf = str(host.directory / "fabric" / "tls" / "chain.pem")
    host.refused(EXIT_REFUSED, "key_unknown", "rotate", "import", leaf)
    assert host.states() == {"nodes-1": "active", "root-1": "active", "services-1": "active"}


def test_steps_out_of_order_are_refused(host: Host, fleet: Fleet) -> None:
    assert "nodes-1" in host.refused(EXIT_USAGE, "authority_unknown", "rotate", "activate", "nodes-9")
    host.refused(EXIT_REFUSED, "refused", "rotate", "taint", "nodes-1", "--override", "--reason", "no reason")
    assert host.pki("rotate", "activate", "nodes-1")["changed"] is False
    assert host.states() == {"nodes-1": "active", "root-1": "active", "services-1": "active"}
