"""`cloud.breakwater.ceremony.run`: each kind of ceremony, as a dry run and for real, and each reason to refuse one."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.breakwater.ceremony.run import CeremonyRecord, hold
from cloud.breakwater.errors import CeremonyError, IssuerError
from cloud.breakwater.keys.signer import certificate_request, issuer_of
from cloud.breakwater.pkix.lint import relint
from cloud.crypto.keyfile import KeyFileError, read_key, write_secret
from protocol.encoding import sha256_hex
from tests.cloud.breakwater.chains import NOW, TRUST_DOMAIN, local

pytestmark = pytest.mark.slow

PASSPHRASE = b"a passphrase for tests only"
LATER = NOW + timedelta(days=30)


class Room:
    """A folder with the inputs and outputs of ceremonies, and the texts of ceremony files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_secret(folder / "passphrase", PASSPHRASE)

    def input(self, name: str) -> str:
        return f'{{ path = "{name}", sha256 = "{sha256_hex((self.folder / name).read_bytes())}" }}'

    def root(self, authority: str) -> str:
        return (
            f'[root]\nauthority = "{authority}"\ncertificate = {self.input(f"{authority}.pem")}\n'
            f'key = "{authority}.key.pem"\npassphrase_file = "passphrase"\n'
        )

    def new_root(self, number: int) -> str:
        return (
            f'type = "root"\nauthority = "root-{number}"\ntrust_domain = "{TRUST_DOMAIN}"\n'
            f'passphrase_file = "passphrase"\nkey = "root-{number}.key.pem"\ncertificate = "root-{number}.pem"\n'
        )

    def intermediate(self, authority: str, root: str = "root-1") -> str:
        return (
            f'type = "intermediate"\nauthority = "{authority}"\ntrust_domain = "{TRUST_DOMAIN}"\n'
            f'certificate = "{authority}.pem"\nrequest = {self.input(f"{authority}.csr.pem")}\n{self.root(root)}'
        )

    def cross(self) -> str:
        return (
            f'type = "cross-certificate"\ncertificate = "cross.pem"\n{self.root("root-1")}'
            f'[subject]\nauthority = "root-2"\ncertificate = {self.input("root-2.pem")}\n'
        )

    def crl(self, number: int, more: str = "first = true", revoked: tuple[str, ...] = ()) -> str:
        entries = "".join(
            f'[[revoked]]\ncertificate = {self.input(name)}\nat = 2026-11-22T12:00:00Z\nreason = "cACompromise"\n'
            for name in revoked
        )
        head = f'type = "crl"\nnumber = {number}\ndays = 180\ncrl = "root-{number}.crl"\n{more}\n'
        return f"{head}{self.root('root-1')}{entries}"

    async def request(self, authority: str, name: str, scalar: int = 31) -> None:
        der = await certificate_request(local(scalar), name)
        request = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)
        (self.folder / f"{authority}.csr.pem").write_bytes(request)

    async def hold(self, text: str, *, dry: bool = False, after: timedelta = timedelta()) -> CeremonyRecord:
        file = self.folder / "ceremony.toml"
        file.write_text(text)
        return await hold(file, NOW + after, os.urandom, dry)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"ceremony.toml"}

    def load(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / name).read_bytes())


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    """A folder with a root, made by a ceremony, and a request for each class of issuing CA."""
    found = Room(tmp_path)
    await found.hold(found.new_root(1))
    await found.request("nodes-2", f"{TRUST_DOMAIN} nodes CA 2")
    await found.request("services-2", f"{TRUST_DOMAIN} services CA 2", scalar=32)
    return found


async def test_a_root(tmp_path: Path) -> None:
    room = Room(tmp_path)
    record = await room.hold(room.new_root(1))
    assert room.names() == {"passphrase", "root-1.pem", "root-1.key.pem", "root-1.pem.ceremony.json"}
    root, key = room.load("root-1.pem"), read_key(tmp_path / "root-1.key.pem", PASSPHRASE)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert (root.public_key(), key.curve.name) == (key.public_key(), "secp384r1")
    relint(root, issuer_of("root", "root-1", root), "root", 2, NOW)
    assert (tmp_path / "root-1.key.pem").stat().st_mode & 0o777 == 0o600
    written = json.loads((tmp_path / record.record).read_bytes())
    for file in [*written["inputs"], *written["outputs"]]:
        assert sha256_hex((tmp_path / file["path"]).read_bytes()) == file["sha256"]
    assert [file["path"] for file in written["outputs"]] == ["root-1.key.pem", "root-1.pem"]
    assert written["at"] == "2026-11-22T12:00:00Z"
    assert ("root certificate, self-signed", f"{TRUST_DOMAIN} root CA 1") in record.signs
    assert PASSPHRASE.decode() not in str(written)


@pytest.mark.parametrize("class_", ["nodes", "services"])
async def test_an_issuing_ca(room: Room, class_: str) -> None:
    record = await room.hold(room.intermediate(f"{class_}-2"))
    root = issuer_of("root", "root-1", room.load("root-1.pem"))
    made = room.load(f"{class_}-2.pem")
    relint(made, root, "issuing", 2, NOW)
    made.verify_directly_issued_by(room.load("root-1.pem"))
    assert made.public_key() == local(31 if class_ == "nodes" else 32).public_key
    signs = dict(record.signs)
    assert signs[f"issuing CA {class_}-2, by root-1"] == f"{TRUST_DOMAIN} {class_} CA 2"
    assert signs["  names permitted"] == f"UniformResourceIdentifier {TRUST_DOMAIN}"
    assert ("IPAddress ::/0" in signs["  names excluded"]) == (class_ == "nodes")
    assert {file.path for file in record.inputs} == {"ceremony.toml", "root-1.pem", f"{class_}-2.csr.pem"}


async def test_a_cross_certificate(room: Room) -> None:
    await room.hold(room.new_root(2))
    await room.hold(room.cross())
    made, root = room.load("cross.pem"), room.load("root-2.pem")
    made.verify_directly_issued_by(room.load("root-1.pem"))
    assert (made.subject, made.public_key()) == (root.subject, root.public_key())


async def test_two_lists_of_one_second_follow_each_other_and_none_precedes_its_predecessor(room: Room) -> None:
    await room.hold(room.crl(1))
    await room.hold(room.crl(2, f"previous = {room.input('root-1.crl')}"))
    with pytest.raises(CeremonyError, match=r"root-2\.crl begins after now"):
        await room.hold(room.crl(3, f"previous = {room.input('root-2.crl')}"), after=-timedelta(seconds=1))


async def test_the_roots_lists_grow(room: Room) -> None:
    await room.hold(room.intermediate("nodes-2"))
    await room.hold(room.crl(1))
    before = f"previous = {room.input('root-1.crl')}"
    record = await room.hold(room.crl(7, before, ("nodes-2.pem",)), after=timedelta(days=1))
    crl = x509.load_pem_x509_crl((room.folder / "root-7.crl").read_bytes())
    (entry,) = crl
    assert entry.serial_number == room.load("nodes-2.pem").serial_number
    assert crl.next_update_utc == NOW + timedelta(days=181)
    assert not any(isinstance(e.value, x509.IssuingDistributionPoint) for e in crl.extensions)
    assert (f"revokes {TRUST_DOMAIN} nodes CA 2", f"{entry.serial_number:x} cACompromise") in record.signs
    assert "verify OK" in openssl(room, "crl", "-in", "root-7.crl", "-CAfile", "root-1.pem", "-noout")
    at = str(int((NOW + timedelta(days=2)).timestamp()))
    verify = ["verify", "-crl_check", "-CAfile", "root-1.pem", "-CRLfile", "root-7.crl", "-attime", at]
    assert "certificate revoked" in openssl(room, *verify, "nodes-2.pem")


def listed(room: Room, name: str) -> list[tuple[object, ...]]:
    """Serial, reason and date of each entry."""
    crl = x509.load_pem_x509_crl((room.folder / name).read_bytes())
    reasons = [[each.value.reason.value for each in entry.extensions] for entry in crl]
    return [
        (entry.serial_number, *reason, entry.revocation_date_utc) for entry, reason in zip(crl, reasons, strict=True)
    ]


async def test_a_list_keeps_every_entry_of_the_list_before_it(room: Room) -> None:
    await room.hold(room.intermediate("nodes-2"))
    await room.hold(room.intermediate("services-2"))
    await room.hold(room.crl(1, revoked=("nodes-2.pem",)))
    renewed = await room.hold(room.crl(2, f"previous = {room.input('root-1.crl')}"), after=timedelta(days=1))
    serial = room.load("nodes-2.pem").serial_number
    assert ("keeps from root-1.crl", f"{serial:x} cACompromise") in renewed.signs
    assert [entry[:2] for entry in listed(room, "root-1.crl")] == [(serial, "cACompromise")]
    assert listed(room, "root-2.crl") == listed(room, "root-1.crl")
    more = room.crl(3, f"previous = {room.input('root-2.crl')}", ("services-2.pem",))
    await room.hold(more.replace("cACompromise", "unspecified"), after=timedelta(days=2))
    await room.hold(room.crl(4, f"previous = {room.input('root-3.crl')}"), after=timedelta(days=3))
    assert len(listed(room, "root-3.crl")) == 2
    assert listed(room, "root-4.crl") == listed(room, "root-3.crl")


def openssl(room: Room, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=room.folder, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


async def test_a_dry_run_needs_no_key_and_writes_nothing(room: Room) -> None:
    await room.hold(room.intermediate("services-2"))
    await room.hold(room.new_root(2))
    (room.folder / "root-1.key.pem").rename(room.folder / "away")
    before = room.names()
    signs = {}
    for text in (
        room.intermediate("nodes-2"), room.cross(), room.crl(1, revoked=("services-2.pem",)), room.new_root(3)
    ):  # fmt: skip
        record = await room.hold(text, dry=True)
        signs[record.type] = record.key
        assert record.dry_run
        assert {file.sha256 for file in record.outputs} == {""}
    absent = "not available, not opened"
    assert signs == {"intermediate": absent, "cross-certificate": absent, "crl": absent, "root": "made here"}
    assert room.names() == before
    with pytest.raises(KeyFileError, match=r"root-1\.key\.pem"):
        await room.hold(room.intermediate("nodes-2"))


async def test_a_dry_run_tries_the_key_that_is_there(room: Room) -> None:
    record = await room.hold(room.intermediate("nodes-2"), dry=True)
    assert record.key == "opened, belongs to the root's certificate"
    await room.hold(room.new_root(2))
    (room.folder / "root-2.key.pem").replace(room.folder / "root-1.key.pem")
    for dry in (True, False):
        with pytest.raises(CeremonyError, match=r"not the key of root-1\.pem"):
            await room.hold(room.intermediate("nodes-2"), dry=dry)


Change = Callable[[Room], str]


def replaced(old: str, new: str) -> Change:
    def change(room: Room) -> str:
        text = room.intermediate("nodes-2")
        assert old in text
        return text.replace(old, new, 1)

    return change


def overwritten(name: str, content: bytes) -> Change:
    """Replace the content of a file, with the right hash in the ceremony file."""

    def change(room: Room) -> str:
        (room.folder / name).write_bytes(content)
        return room.intermediate("nodes-2")

    return change


def der_request(name: str = "", *names: str) -> bytes:
    """A request in PEM for a subject, with DNS names."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
    return builder.sign(local(31)._private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


REFUSED: dict[str, tuple[Change, str]] = {
    "an unknown key": (replaced("[root]", "surprise = 1\n[root]"), "unknown field `surprise`"),
    "an unknown key further in": (replaced("[root]", "[root]\nsurprise = 1"), "unknown field `surprise`"),
    "an unknown type": (replaced('"intermediate"', '"party"'), "Invalid value 'party'"),
    "no type": (replaced('type = "intermediate"\n', ""), "missing required field `type`"),
    "a missing key": (replaced(f'trust_domain = "{TRUST_DOMAIN}"\n', ""), "missing required field `trust_domain`"),
    "not TOML": (lambda room: "type = ", "cannot use"),
    "not UTF-8": (lambda room: "\udcff", "cannot use"),
    "a megabyte": (lambda room: "#" * 1_000_000, "larger than"),
    "an authority of no class": (replaced('"nodes-2"', '"people-2"'), "matching regex"),
    "another class than the request": (replaced('authority = "nodes-2"', 'authority = "services-2"'), "subject"),
    "another generation than the request": (replaced('authority = "nodes-2"', 'authority = "nodes-3"'), "subject"),
    "another trust domain": (replaced(TRUST_DOMAIN, "else.test"), "subject"),
    "too long a trust domain": (replaced(TRUST_DOMAIN, "x" * 60), "64"),
    "another hash": (replaced('sha256 = "', 'sha256 = "' + "0" * 64 + '" } #'), "its SHA-256 is"),
    "half a hash": (replaced('sha256 = "', 'sha256 = "00" } #'), "matching regex"),
    "no such request": (replaced("nodes-2.csr.pem", "gone.pem"), "cannot read"),
    "no such folder": (replaced('certificate = "nodes-2.pem"', 'certificate = "gone/nodes-2.pem"'), "no such folder"),
    "an output that exists": (replaced('"nodes-2.pem"', '"root-1.pem"'), "a ceremony replaces no file"),
    "a root that is none": (replaced('authority = "root-1"', 'authority = "nodes-1"'), "matching regex"),
    "a request that is none": (overwritten("nodes-2.csr.pem", b"hello"), "not exactly one certificate request"),
    "a request in bad base64": (
        overwritten("nodes-2.csr.pem", der_request("x").replace(b"MI", b"M", 1)),
        "nodes-2.csr.pem",
    ),
    "two requests": (overwritten("nodes-2.csr.pem", der_request("x") * 2), "not exactly one certificate request"),
    "a request for another name": (overwritten("nodes-2.csr.pem", der_request("root")), "subject"),
    "a request for DNS names": (overwritten("nodes-2.csr.pem", der_request("", "a.test")), "2.5.29.17"),
    "a large request": (overwritten("nodes-2.csr.pem", b"x" * 9000), "larger than"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dry", [True, False])
async def test_refused_and_nothing_written(room: Room, name: str, dry: bool) -> None:
    change, reason = REFUSED[name]
    file = room.folder / "ceremony.toml"
    file.write_bytes(change(room).encode(errors="surrogateescape"))
    before = room.names()
    with pytest.raises(IssuerError) as caught:
        await hold(file, NOW, os.urandom, dry)
    assert reason in str(caught.value)
    assert room.names() == before


async def test_a_root_that_is_over_or_did_not_sign_itself(room: Room) -> None:
    text = room.intermediate("nodes-2")
    with pytest.raises(CeremonyError, match="not valid at"):
        await room.hold(text, after=timedelta(days=21 * 365))
    await room.hold(text)
    (room.folder / "root-1.pem").write_bytes((room.folder / "nodes-2.pem").read_bytes())
    with pytest.raises(CeremonyError, match="not a self-signed root"):
        await room.hold(room.intermediate("services-2"))


async def test_a_wrong_passphrase(room: Room) -> None:
    write_secret(room.folder / "passphrase", b"another passphrase, a wrong one")
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        await room.hold(room.intermediate("nodes-2"))


async def test_two_outputs_in_one_file(tmp_path: Path) -> None:
    room = Room(tmp_path)
    with pytest.raises(CeremonyError, match="two outputs"):
        await room.hold(room.new_root(1).replace('key = "root-1.key.pem"', 'key = "root-1.pem"'))


async def test_a_fault_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path)
    before, real, count = room.names(), os.link, 0

    def link(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(CeremonyError, match=r"No space.*no output remains"):
        await room.hold(room.new_root(1))
    assert room.names() == before


LISTS: dict[str, tuple[Callable[[Room], str], str]] = {
    "a number that stays": (
        lambda r: r.crl(6, previous(r), ("nodes-2.pem",)).replace("number = 6", "number = 5"),
        "has the number 5",
    ),
    "neither first nor previous": (lambda r: r.crl(6, ""), "or `first = true`"),
    "both": (lambda r: r.crl(6, previous(r) + "\nfirst = true"), "or `first = true`"),
    "twice the same": (lambda r: r.crl(6, previous(r), ("nodes-2.pem", "nodes-2.pem")), "appears twice"),
    "the root itself": (lambda r: r.crl(6, previous(r), ("root-1.pem",)), "the root's own name"),
    "what another root signed": (lambda r: r.crl(6, previous(r), ("root-2.pem",)), "did not sign it"),
    "in the future": (
        lambda r: r.crl(6, previous(r), ("nodes-2.pem",)).replace("2026-11-22T12", "2026-12-24T12"),
        "in the future",
    ),
    "without a time zone": (
        lambda r: r.crl(6, previous(r), ("nodes-2.pem",)).replace("12:00:00Z", "12:00:00"),
        "time zone",
    ),
    "on hold": (
        lambda r: r.crl(6, previous(r), ("nodes-2.pem",)).replace("cACompromise", "certificateHold"),
        "Invalid enum value 'certificateHold'",
    ),
    "not a CRL": (lambda r: r.crl(6, f"previous = {r.input('root-1.pem')}"), "not a CRL in PEM"),
    "for two years": (lambda r: r.crl(6, previous(r)).replace("days = 180", "days = 800"), "<= 400"),
}


def previous(room: Room) -> str:
    return f"previous = {room.input('root-5.crl')}"


@pytest.mark.parametrize("name", LISTS)
async def test_lists_that_are_refused(room: Room, name: str) -> None:
    await room.hold(room.intermediate("nodes-2"))
    await room.hold(room.new_root(2))
    await room.hold(room.crl(5, revoked=("nodes-2.pem",)))
    change, reason = LISTS[name]
    with pytest.raises(CeremonyError) as caught:
        await room.hold(change(room), after=timedelta(days=1))
    assert reason in str(caught.value)
    assert "root-6.crl" not in room.names()


async def test_a_list_of_another_root_is_no_previous_one(room: Room) -> None:
    await room.hold(room.new_root(2))
    other = room.crl(5).replace("root-5.crl", "of-root-2.crl").replace(room.root("root-1"), room.root("root-2"))
    await room.hold(other)
    with pytest.raises(CeremonyError, match="not a CRL of this root"):
        await room.hold(room.crl(6, f"previous = {room.input('of-root-2.crl')}"), after=timedelta(days=1))


def test_a_dry_run_works_in_a_new_event_loop(tmp_path: Path) -> None:
    room = Room(tmp_path)
    assert asyncio.run(room.hold(room.new_root(4), dry=True)).type == "root"
