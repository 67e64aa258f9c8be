"""`cascade trust`: from what is published, through the offline keys, back to Fabric."""

import json
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from cloud.cli import trust
from cloud.cli.connection import Server
from cloud.cli.main import main
from cloud.crypto.keyfile import write_key, write_secret
from cloud.fabric import schemas
from cloud.fabric.tuf.checking import check_signed
from cloud.fabric.tuf.folder import read_folder, write_folder
from cloud.fabric.tuf.repository import MetadataFile, publish_signed, sign_targets, signer_of
from cloud.fabric.tuf.targets import build_targets
from protocol.signed.trust import TARGETS
from tests.cloud.fabric.authorities import Generation
from tests.simulators.repository import START, Repository, p256, verification_key

pytestmark = pytest.mark.slow

PASSPHRASE = b"sixteen bytes or more"
DAY = timedelta(days=1)
FIRST, SECOND = Generation(1), Generation(2)


class Holders:
    """An installation's repository over HTTP, its offline keys as files, and a Fabric that publishes by the rules."""

    def __init__(self, directory: Path, content: dict[str, bytes]) -> None:
        self.directory = directory
        self.calls: list[tuple[str, str, Any]] = []
        self.now = START
        keys = p256(), p256()
        self.repository = Repository(content, keys=keys)
        write_secret(directory / "passphrase", PASSPHRASE)
        for name, key in zip(("root", "targets"), keys, strict=True):
            write_key(directory / f"{name}.pem", key, PASSPHRASE)
        (directory / "second-root.pem").write_bytes(SECOND.root.pem)
        (directory / "second-nodes.pem").write_bytes(SECOND.nodes.pem)
        (directory / "second-services.pem").write_bytes(SECOND.services.pem)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def sign(self, *options: str, source: str = "now", out: str = "next", as_json: bool = False) -> int:
        fixed = ("--from", self.path(source), "--out", self.path(out), "--passphrase-file", self.path("passphrase"))
        return main(["trust", "sign", *fixed, *options, *(["--json"] if as_json else [])])

    def call(self, method: str, path: str, kind: Any, body: Any) -> Any:
        """What Fabric's route does, without a fleet."""
        self.calls.append((method, path, body))
        assert isinstance(body, schemas.PublishTrust)
        newest = self.repository.store.newest
        roots = [root for root in body.roots if root != newest("root").data]
        targets = b"" if body.targets == newest("targets").data else body.targets
        signed = check_signed(newest("root"), newest("targets"), roots, targets, body.contents, self.now)
        self.repository.store.add(publish_signed(self.now, self.repository.latest, signed, self.repository.online))
        return schemas.Trust(newest("targets").version, self.now, newest("root").version, self.now)


@pytest.fixture
def holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holders]:
    content = build_targets(
        keys=(verification_key(p256(), "lease"),),
        trust_domain="cascade.test",
        roots=[FIRST.root.der],
        node_issuers=[FIRST.nodes.der],
        service_issuers=[FIRST.services.der],
        fabric_url="https://fabric.test:8440",
        breakwater_url="https://breakwater.test:8441",
    )
    made = Holders(tmp_path, content)
    monkeypatch.setattr(trust, "utc_now", lambda: made.now)
    monkeypatch.setattr(Server, "call", lambda self, method, path, kind, body=None: made.call(method, path, kind, body))
    with made.repository.served():
        monkeypatch.setenv("CASCADE_URL", made.repository.url)
        monkeypatch.setenv("CASCADE_TRUST", str(made.repository.pin))
        monkeypatch.setenv("CASCADE_TOKEN_FILE", made.path("token"))
        monkeypatch.setenv("XDG_CACHE_HOME", made.path("cache"))
        yield made


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_what_is_published_is_shown_and_exported(holders: Holders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--json", "--export", holders.path("now")]) == 0
    document = shown(capsys)
    assert (document["targets_version"], document["root_version"], document["warnings"]) == (1, 1, [])
    assert [(ca["place"], ca["key_id"]) for ca in document["authorities"]] == [
        ("root", FIRST.root.key_id),
        ("nodes", FIRST.nodes.key_id),
        ("services", FIRST.services.key_id),
    ]
    assert {path.name for path in (holders.directory / "now").iterdir()} == {"1.root.json", "targets.json", *TARGETS}
    assert main(["trust", "show"]) == 0
    text = capsys.readouterr().out
    assert FIRST.root.key_id in text
    assert "Warning" not in text
    holders.now += 306 * DAY
    holders.repository.refresh(holders.now)
    assert main(["trust", "show"]) == 0
    assert "Warning: the targets ends" in capsys.readouterr().out
    assert main(["trust", "show", "--export", holders.path("now"), "--json"]) == 2


def test_a_root_is_added_and_dropped_by_files(holders: Holders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--export", holders.path("now")]) == 0
    added = (
        *("--key", holders.path("targets.pem"), "--add-root", holders.path("second-root.pem")),
        *("--add-issuer", f"nodes:{holders.path('second-nodes.pem')}"),
        *("--add-issuer", f"services:{holders.path('second-services.pem')}"),
    )
    capsys.readouterr()
    asked = len(holders.repository.requests)
    assert holders.sign(*added, "--dry-run", "--json") == 0
    assert len(shown(capsys)["changes"]) == 3
    assert not (holders.directory / "next").exists()
    assert holders.sign(*added) == 0
    text = capsys.readouterr().out
    assert f"+ root {SECOND.root.key_id}" in text
    assert f"cascade trust publish {holders.path('next')}" in text
    assert len(holders.repository.requests) == asked, "signing needs no network"
    assert stat.S_IMODE((holders.directory / "next" / "targets.json").stat().st_mode) == 0o600
    assert main(["trust", "publish", holders.path("next"), "--json"]) == 0
    assert shown(capsys)["targets_version"] == 2
    dropped = ("--key", holders.path("targets.pem"), "--drop-root", FIRST.root.key_id[:12])
    # An issuer would stay behind its root.
    assert holders.sign(*dropped, source="next", out="third") == 2
    issuers = ("--drop-issuer", FIRST.nodes.key_id, "--drop-issuer", FIRST.services.key_id)
    assert holders.sign(*dropped, *issuers, source="next", out="third") == 0
    assert f"- root {FIRST.root.key_id}" in capsys.readouterr().out
    assert main(["trust", "publish", holders.path("third"), "--override", "--reason", "stolen"]) == 0
    body = holders.calls[-1][2]
    assert (body.override, body.reason) == (True, "stolen")
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    assert [ca["key_id"] for ca in shown(capsys)["authorities"]] == [
        SECOND.root.key_id,
        SECOND.nodes.key_id,
        SECOND.services.key_id,
    ]


def test_trust_that_has_expired_is_signed_again(holders: Holders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show"]) == 0
    holders.now += 400 * DAY
    holders.repository.refresh(holders.now)
    assert main(["trust", "show", "--json"]) == 65
    assert "--accept-expired" in capsys.readouterr().out
    assert main(["trust", "show", "--accept-expired", "--export", holders.path("now")]) == 0
    assert "Warning: the targets ended" in capsys.readouterr().out
    assert holders.sign("--key", holders.path("targets.pem"), "--days", "100") == 0
    assert "(only signed again)" in capsys.readouterr().out
    assert main(["trust", "publish", holders.path("next"), "--accept-expired"]) == 0
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    document = shown(capsys)
    assert document["targets_version"] == 2
    assert document["targets_expire_at"] == (holders.now + 100 * DAY).isoformat().replace("+00:00", "Z")


def test_root_and_its_keys_are_replaced(holders: Holders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--export", holders.path("now")]) == 0
    both = ("--new-root-key", holders.path("root2.pem"), "--new-targets-key", holders.path("targets2.pem"))
    assert holders.sign(*both, "--json") == 2
    assert not (holders.directory / "root2.pem").exists()
    assert holders.sign("--root-key", holders.path("root.pem"), *both) == 0
    assert "+ a new key of targets" in capsys.readouterr().out
    folder = read_folder(holders.directory / "next")
    assert [root.version for root in folder.roots] == [1, 2]
    assert main(["trust", "publish", holders.path("next")]) == 0
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    document = shown(capsys)
    assert (document["root_version"], document["targets_version"]) == (2, 2)
    assert holders.sign("--key", holders.path("targets.pem"), source="next", out="no", as_json=True) == 65
    assert holders.sign("--root-key", holders.path("root.pem"), source="next", out="no", as_json=True) == 65
    assert not (holders.directory / "no").exists()
    assert holders.sign("--root-key", holders.path("root2.pem"), "--root-days", "20", source="next", out="third") == 0
    assert read_folder(holders.directory / "third").targets == folder.targets, "the targets stay as they are"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), "key_missing"),
        (("--drop-root", "0" * 40), "key_missing"),
        (("--key", "{}/targets.pem", "--drop-root", "0" * 40), "trust_unusable"),
        (("--key", "{}/targets.pem", "--add-root", "{}/nothing.pem"), "file_unreadable"),
        (("--key", "{}/targets.pem", "--add-root", "{}/passphrase"), "file_unreadable"),
        (("--key", "{}/targets.pem", "--add-issuer", "people:{}/second-root.pem"), "issuer_invalid"),
        (("--key", "{}/targets.pem", "--add-issuer", "nodes"), "issuer_invalid"),
        (("--key", "{}/targets.pem", "--days", "0"), "days_invalid"),
        (("--key", "{}/nothing.pem"), "trust_unusable"),
        (("--key", "{}/root.pem"), "trust_not_verified"),
        (("--key", "{}/targets.pem", "--fabric-url", "http://fabric"), "trust_unusable"),
    ],
)
def test_what_cannot_be_signed(
    holders: Holders, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: str
) -> None:
    assert main(["trust", "show", "--export", holders.path("now")]) == 0
    capsys.readouterr()
    assert holders.sign(*(text.replace("{}", str(holders.directory)) for text in options), "--json") in (2, 65)
    assert shown(capsys)["error"]["code"] == code
    assert not (holders.directory / "next").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("targets.json", lambda data: data.replace(b'"version":1', b'"version":2')),
        ("services.json", lambda data: data.replace(b"8440", b"8450")),
        ("services.json", lambda data: data + b" " * 300_000),
        ("1.root.json", lambda data: b"{}"),
        ("1.root.json", None),
        ("x509-bundle.json", None),
    ],
)
def test_a_folder_that_was_tampered_with(
    holders: Holders, capsys: pytest.CaptureFixture[str], name: str, change: Any
) -> None:
    assert main(["trust", "show", "--export", holders.path("now")]) == 0
    path = holders.directory / "now" / name
    if change is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before
    assert holders.sign("--key", holders.path("targets.pem"), "--json") in (2, 65)
    assert main(["trust", "publish", holders.path("now"), "--json"]) in (2, 65)
    assert holders.calls == []
    capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "reason"),
    [("--key", "targets 1 are not signed by the key"), ("--root-key", "root 1 is not signed by the keys that root 1")],
)
def test_a_folder_that_was_forged_as_a_whole(
    holders: Holders, capsys: pytest.CaptureFixture[str], option: str, reason: str
) -> None:
    """Who carries the folder makes a root that names a key of theirs beside the holders', and trusts a CA of theirs."""
    newest, ours = holders.repository.store.newest, p256()
    root: Metadata[Root] = Metadata.from_bytes(newest("root").data)
    root.signed.add_key(signer_of(ours).public_key, "targets")
    if option == "--key":
        root.signed.revoke_key(root.signed.roles["root"].keyids[0], "root")
        root.signed.add_key(signer_of(ours).public_key, "root")
    root.sign(signer_of(ours))
    bundle = build_targets(
        keys=(verification_key(p256(), "lease"),),
        trust_domain="cascade.test",
        roots=[SECOND.root.der],
        node_issuers=[SECOND.nodes.der],
        service_issuers=[SECOND.services.der],
        fabric_url="https://fabric.test:8440",
        breakwater_url="https://breakwater.test:8441",
    )
    targets = sign_targets(holders.now + DAY, 1, signer_of(ours), bundle)
    forged = MetadataFile(role="root", version=1, data=root.to_bytes())
    write_folder(holders.directory / "now", (forged,), targets.data, bundle)
    name = "targets.pem" if option == "--key" else "root.pem"
    assert holders.sign(option, holders.path(name), as_json=True) == 65
    error = shown(capsys)["error"]
    assert error["code"] == "trust_not_verified"
    assert reason in str(error)
    assert not (holders.directory / "next").exists()


def test_a_time_that_cannot_be_read(holders: Holders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "renew-devices", "--after", "tomorrow", "--json"]) == 2
    assert shown(capsys)["error"]["code"] == "time_invalid"
