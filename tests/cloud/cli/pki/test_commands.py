"""`cascade pki` on an installation's own files, on both engines: every command, its refusals, and a whole rotation."""

import asyncio
import json
import shutil
import stat
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin, opened
from cloud.breakwater.tables import ENGINE
from cloud.cli.errors import EXIT_INTERNAL, EXIT_REFUSED, EXIT_TRY_AGAIN, EXIT_USAGE, EXIT_VERIFICATION
from cloud.cli.main import main
from cloud.cli.pki import commands, rotate
from cloud.clock import utc_now
from cloud.fabric import schemas
from cloud.storage import PostgresLocation, Row, Statement
from lab.postgres import postgres_copy
from protocol.encoding import sha256_hex
from protocol.signed.trust import X509Bundle
from tests.cloud.breakwater.support import FABRIC, ask, new_key, opening
from tests.cloud.engines import ENGINES

pytestmark = pytest.mark.slow

T = TypeVar("T")
_AUDIT = Statement("SELECT caller, action, object, detail FROM audit WHERE action = {} ORDER BY id LIMIT 100")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation as `cascade init` leaves it."""
    directory = tmp_path_factory.mktemp("installation") / "cloud"
    assert main(["init", "--dir", str(directory)]) == 0
    return directory


class Host:
    """The issuer's host, and whoever sits at it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.scratch = directory.parent
        self._capsys = capsys

    def pki(self, *command: str, expect: int = 0) -> Any:
        """One command with `--json`; its document."""
        self._capsys.readouterr()
        assert main(["pki", *command, "--dir", str(self.directory), "--json"]) == expect, self._capsys.readouterr()
        return json.loads(self._capsys.readouterr().out)

    def refused(self, code: int, name: str, *command: str) -> str:
        """One command that must fail; what it says to do next."""
        error = self.pki(*command, expect=code)["error"]
        assert (error["code"], error["exit_code"]) == (name, code), error
        return str(error["next"])

    def told(self, *command: str) -> str:
        """One command for people."""
        self._capsys.readouterr()
        assert main(["pki", *command, "--dir", str(self.directory)]) == 0
        return self._capsys.readouterr().out

    def ceremony(self, text: str) -> None:
        self._capsys.readouterr()
        file = self.scratch / "ceremony.toml"
        file.write_text(text)
        assert main(["pki", "ceremony", str(file)]) == 0, self._capsys.readouterr()

    def open(self, work: Callable[[Admin], Awaitable[T]]) -> T:
        """Something on the issuer itself."""

        async def run() -> T:
            async with opened(self.directory / "breakwater" / "settings.toml", utc_now) as admin:
                return await work(admin)

        return asyncio.run(run())

    def audit(self, action: str) -> list[Row]:
        async def read(_: Admin) -> list[Row]:
            return await ENGINE.fetch(_AUDIT, action)

        return self.open(read)

    def states(self) -> dict[str, str]:
        return {row["id"]: row["state"] for row in self.pki("status")["authorities"]}


@pytest.fixture(params=ENGINES)
def host(request: pytest.FixtureRequest, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    directory = tmp_path / "cloud"
    shutil.copytree(made, directory)
    if request.param == "postgresql":
        location = postgres_copy("breakwater", made / "breakwater" / "database.sqlite")
        (directory / "breakwater" / "database.sqlite").unlink()
        _use(directory / "breakwater" / "settings.toml", location)
    return Host(directory, capsys)


def _use(settings: Path, location: PostgresLocation) -> None:
    text, _, _ = settings.read_text().partition("[database]")
    lines = (f'engine = "postgresql"\nhost = "{location.host}"\nname = "{location.name}"\nuser = "{location.user}"\n',)
    settings.write_text(f"{text}[database]\n{lines[0]}")


# What there is


def test_a_new_installation_is_shown_and_clean(host: Host) -> None:
    status = host.pki("status")
    assert [(row["id"], row["state"], row["has_key"]) for row in status["authorities"]] == [
        ("nodes-1", "active", True),
        ("root-1", "active", False),
        ("services-1", "active", True),
    ]
    assert (status["crls"], status["crls_due"], status["secrets_open"]) == (1, 1, 0)
    assert "CN=cascade.internal nodes CA 1" in host.told("status")
    report = host.pki("check", "--pkilint", "5")
    assert (report["certificates"], report["second_opinions"], report["counts"]) == (2, 2, {})
    text = host.told("check", "--pkilint", "5")
    assert "Clean" in text
    assert "Waived 2 times: pkix.invalid_uri_syntax" in text


def test_crls_are_made_shown_and_written(host: Host) -> None:
    (first,) = host.pki("crl")
    assert (first["shard"], first["entries"], first["behind"], first["file"]) == ("services-1.1", 0, False, "")
    (same,) = host.pki("crl", "--out", str(host.scratch / "crls"))
    assert same["number"] == first["number"]
    assert x509.load_der_x509_crl(Path(same["file"]).read_bytes()).issuer.rfc4514_string().endswith("services CA 1")
    (newer,) = host.pki("crl", "--publish")
    assert newer["number"] > first["number"]
    assert "services-1.1" in host.told("crl")


def test_a_secret_is_made_once_and_kept_private(host: Host) -> None:
    out = host.scratch / "secret"
    answer = host.pki("issue", "headwaters", "--out", str(out), "--host", "pads.internal", "--hours", "2")
    assert (answer["service"], answer["file"]) == ("headwaters", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().startswith("ces_")
    assert out.read_text().strip() not in json.dumps(answer)
    assert host.pki("status")["secrets_open"] == 1
    host.refused(EXIT_USAGE, "file_in_use", "issue", "headwaters", "--out", str(out))
    other = str(host.scratch / "other")
    assert "fabric" in host.refused(EXIT_USAGE, "service_unknown", "issue", "nobody", "--out", other)
    host.refused(EXIT_REFUSED, "refused", "issue", "fabric", "--out", other, "--hours", "9999")
    assert not Path(other).exists()


def test_a_service_is_renewed_and_revoked(host: Host) -> None:
    chain = host.directory / "fabric" / "tls" / "chain.pem"
    before = x509.load_pem_x509_certificate(chain.read_bytes())
    renewed = host.pki("renew", "fabric")
    assert renewed["serial"] == f"{x509.load_pem_x509_certificate(chain.read_bytes()).serial_number:040x}"
    host.refused(EXIT_USAGE, "service_unknown", "renew", "headwaters")
    serial = f"{before.serial_number:040x}"
    colons = ":".join(serial[place : place + 2] for place in range(0, 40, 2))
    assert host.pki("revoke", "--serial", colons, "--reason", "keyCompromise")["serials"] == [serial]
    assert host.pki("revoke", "--serial", serial)["serials"] == []
    (shard,) = host.pki("crl")
    assert shard["entries"] == 1
    (line,) = host.audit("certificate.revoke")
    assert (line["object"], line["detail"]) == (serial, "keyCompromise")
    assert line["caller"].startswith("operator/")
    assert host.pki("revoke", "--certificate", str(chain), "--reason", "superseded")["serials"] == [renewed["serial"]]
    (other,) = host.pki("revoke", "--service", "breakwater", "--reason", "superseded")["serials"]
    assert host.pki("check")["counts"] == {}
    assert (
        other
        in host.told("export", "--out", str(host.scratch / "out"))
        + (host.scratch / "out" / "inventory.jsonl").read_text()
    )


def test_what_cannot_be_revoked_is_refused(host: Host) -> None:
    assert "hexadecimal" in host.refused(EXIT_USAGE, "serial_invalid", "revoke", "--serial", "zz")
    host.refused(EXIT_USAGE, "serial_invalid", "revoke", "--certificate", str(host.scratch / "none.pem"))
    host.refused(EXIT_REFUSED, "refused", "revoke", "--serial", "0abc")
    host.refused(EXIT_REFUSED, "refused", "revoke", "--service", "nobody")
    assert host.pki("revoke", "--service", "weir")["serials"] == []


def test_an_export_has_everything(host: Host) -> None:
    out = host.scratch / "export"
    answer = host.pki("export", "--out", str(out), "--certificates")
    assert (answer["authorities"], answer["crls"], answer["certificates"]) == (3, 1, 2)
    files = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    assert {"ca/root-1.pem", "ca/nodes-1.pem", "ca/services-1.pem", "crl/services-1.1.crl"} < files
    lines = [json.loads(line) for line in (out / "inventory.jsonl").read_text().splitlines()]
    assert {line["service"] for line in lines} == {"fabric", "breakwater"}
    for line in lines:
        assert "tbs" not in line
        assert f"certificates/{line['serial']}.pem" in files
    host.refused(EXIT_USAGE, "directory_in_use", "export", "--out", str(out))


def test_damage_ends_with_65(host: Host) -> None:
    async def spoil(admin: Admin) -> None:
        await ENGINE.fetch(Statement("UPDATE certificate SET spki_sha256 = '' WHERE service = 'fabric'"))

    host.open(spoil)
    report = host.pki("check", expect=EXIT_VERIFICATION)
    assert report["counts"] == {"record.key": 1}
    stranger = host.scratch / "stranger.pem"
    shutil.copy(host.directory / "breakwater" / "certs" / "root.pem", stranger)
    report = host.pki("check", "--certificates", str(stranger), expect=EXIT_VERIFICATION)
    assert report["counts"] == {"record.key": 1, "certificate.unrecorded": 1}
    host.refused(EXIT_USAGE, "certificate_unusable", "check", "--certificates", str(host.scratch / "none.pem"))


def test_the_check_needs_no_key(host: Host) -> None:
    for key in (host.directory / "breakwater" / "keys").iterdir():
        key.unlink()
    assert host.pki("check")["counts"] == {}
    assert [row["has_key"] for row in host.pki("status")["authorities"]] == [False] * 3
    host.refused(EXIT_TRY_AGAIN, "unavailable", "renew", "fabric")


def test_what_is_missing_is_told(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pki", "status", "--dir", str(tmp_path / "nowhere"), "--json"]) == EXIT_USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "settings_refused"
    assert main(["pki", "rotate", "taint", "nodes-1", "--json"]) == EXIT_USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "directory_missing"
    (host.directory / "secrets" / "passphrase").write_text("another passphrase, as long")
    assert [row["has_key"] for row in host.pki("status")["authorities"]] == [False] * 3
    host.refused(EXIT_INTERNAL, "issuer_unusable", "renew", "fabric")


def test_every_command_has_its_options() -> None:
    assert set(commands._ACTIONS) == {"status", "issue", "revoke", "renew", "rotate", "crl", "check", "export"}


# Rotation


class Fleet:
    """What Fabric would say: the published bundle, and how many have adopted it."""

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
    """Where the root's keys are used, by files alone."""

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
    await admin.issuing.open_generation(FABRIC, opening())
    await admin.issuing.issue_device(FABRIC, ask(new_key(), not_after=utc_now() + timedelta(days=90)))


async def _renewed_node(admin: Admin) -> None:
    again = ask(new_key(), request="r2", not_after=utc_now() + timedelta(days=90))
    await admin.issuing.issue_device(FABRIC, again)


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
    """Tainted and revoked when nobody needs them any more, and not before."""
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
