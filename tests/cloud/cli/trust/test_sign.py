"""`cascade trust sign`: from the published trust, over the offline keys, back to Fabric."""

import stat
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from cloud.cli.main import main
from cloud.fabric.tuf.folder import read_folder, write_folder
from cloud.fabric.tuf.repository import MetadataFile, sign_targets, signer_of
from tests.cloud.cli.trust.support import DAY, FIRST, SECOND, Installation, content_of, shown
from tests.simulators.repository import p256

pytestmark = pytest.mark.slow


def test_a_root_is_added_and_dropped_by_files(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    added = (
        *("--key", installation.path("targets.pem"), "--add-root", installation.path("second-root.pem")),
        *("--add-issuer", f"nodes:{installation.path('second-nodes.pem')}"),
        *("--add-issuer", f"services:{installation.path('second-services.pem')}"),
    )
    capsys.readouterr()
    asked = len(installation.repository.requests)
    assert installation.sign(*added, "--dry-run", "--json") == 0
    assert len(shown(capsys)["changes"]) == 3
    assert not (installation.directory / "next").exists()
    assert installation.sign(*added) == 0
    text = capsys.readouterr().out
    assert f"+ root {SECOND.root.key_id}" in text
    assert f"cascade trust publish {installation.path('next')}" in text
    assert len(installation.repository.requests) == asked, "signing needs no network"
    assert stat.S_IMODE((installation.directory / "next" / "targets.json").stat().st_mode) == 0o600
    assert main(["trust", "publish", installation.path("next"), "--json"]) == 0
    assert shown(capsys)["targets_version"] == 2
    dropped = ("--key", installation.path("targets.pem"), "--drop-root", FIRST.root.key_id[:12])
    # The root goes, but an issuer that it signed would stay.
    assert installation.sign(*dropped, source="next", out="third") == 2
    issuers = ("--drop-issuer", FIRST.nodes.key_id, "--drop-issuer", FIRST.services.key_id)
    assert installation.sign(*dropped, *issuers, source="next", out="third") == 0
    assert f"- root {FIRST.root.key_id}" in capsys.readouterr().out
    assert main(["trust", "publish", installation.path("third"), "--override", "--reason", "stolen"]) == 0
    body = installation.calls[-1][2]
    assert (body.override, body.reason) == (True, "stolen")
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    assert [ca["key_id"] for ca in shown(capsys)["authorities"]] == [
        SECOND.root.key_id,
        SECOND.nodes.key_id,
        SECOND.services.key_id,
    ]


def test_trust_that_has_expired_is_signed_again(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show"]) == 0
    installation.now += 400 * DAY
    installation.repository.refresh(installation.now)
    assert main(["trust", "show", "--json"]) == 65
    assert "--accept-expired" in capsys.readouterr().out
    assert main(["trust", "show", "--accept-expired", "--export", installation.path("now")]) == 0
    assert "Warning: the targets ended" in capsys.readouterr().out
    assert installation.sign("--key", installation.path("targets.pem"), "--days", "100") == 0
    assert "(no change, only signed again)" in capsys.readouterr().out
    assert main(["trust", "publish", installation.path("next"), "--accept-expired"]) == 0
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    document = shown(capsys)
    assert document["targets_version"] == 2
    assert document["targets_expire_at"] == (installation.now + 100 * DAY).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("named", [True, False], ids=["named", "the url of --from"])
def test_the_url_of_the_repository_is_signed(
    installation: Installation, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    """An older installation has none. Its next publication signs the URL."""
    repository = installation.repository.url
    url = "http://cloud.test:8442" if named else repository
    key = ("--key", installation.path("targets.pem"))
    fixed = ("--out", installation.path("next"), "--passphrase-file", installation.path("passphrase"), "--json")
    explicit = ("--repository-url", url) if named else ()
    assert main(["trust", "sign", "--from", repository, *fixed, *key, *explicit]) == 0
    assert shown(capsys)["changes"] == [f"+ url of repository: {url}"]
    assert main(["trust", "publish", installation.path("next")]) == 0
    assert main(["trust", "show", "--accept-expired", "--export", installation.path("now")]) == 0
    capsys.readouterr()
    assert installation.sign(*key, "--repository-url", "https://x", out="third", as_json=True) == 2


def test_root_and_its_keys_are_replaced(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    both = ("--new-root-key", installation.path("root2.pem"), "--new-targets-key", installation.path("targets2.pem"))
    assert installation.sign(*both, "--json") == 2
    assert not (installation.directory / "root2.pem").exists()
    assert installation.sign("--root-key", installation.path("root.pem"), *both) == 0
    assert "+ a new key of targets" in capsys.readouterr().out
    folder = read_folder(installation.directory / "next")
    assert [root.version for root in folder.roots] == [1, 2]
    assert main(["trust", "publish", installation.path("next")]) == 0
    assert main(["trust", "show", "--json"]) == 0
    capsys.readouterr()
    assert main(["trust", "show", "--json"]) == 0
    document = shown(capsys)
    assert (document["root_version"], document["targets_version"]) == (2, 2)
    assert installation.sign("--key", installation.path("targets.pem"), source="next", out="no", as_json=True) == 65
    assert installation.sign("--root-key", installation.path("root.pem"), source="next", out="no", as_json=True) == 65
    assert not (installation.directory / "no").exists()
    assert (
        installation.sign("--root-key", installation.path("root2.pem"), "--root-days", "20", source="next", out="third")
        == 0
    )
    assert read_folder(installation.directory / "third").targets == folder.targets, "the targets stay as they are"


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
    installation: Installation, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: str
) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    capsys.readouterr()
    assert installation.sign(*(text.replace("{}", str(installation.directory)) for text in options), "--json") in (
        2,
        65,
    )
    assert shown(capsys)["error"]["code"] == code
    assert not (installation.directory / "next").exists()


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
    installation: Installation, capsys: pytest.CaptureFixture[str], name: str, change: Any
) -> None:
    assert main(["trust", "show", "--export", installation.path("now")]) == 0
    path = installation.directory / "now" / name
    if change is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before
    assert installation.sign("--key", installation.path("targets.pem"), "--json") in (2, 65)
    assert main(["trust", "publish", installation.path("now"), "--json"]) in (2, 65)
    assert installation.calls == []
    capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "reason"),
    [("--key", "has not signed targets 1"), ("--root-key", "root 1 is not signed by the keys that root 1")],
)
def test_a_folder_that_was_forged_as_a_whole(
    installation: Installation, capsys: pytest.CaptureFixture[str], option: str, reason: str
) -> None:
    """Somebody who carries the folder replaces the root: it names a key of theirs as well, and trusts their CA."""
    newest, ours = installation.repository.store.newest, p256()
    root: Metadata[Root] = Metadata.from_bytes(newest("root").data)
    root.signed.add_key(signer_of(ours).public_key, "targets")
    if option == "--key":
        root.signed.revoke_key(root.signed.roles["root"].keyids[0], "root")
        root.signed.add_key(signer_of(ours).public_key, "root")
    root.sign(signer_of(ours))
    bundle = content_of(SECOND)
    targets = sign_targets(installation.now + DAY, 1, signer_of(ours), bundle)
    forged = MetadataFile(role="root", version=1, data=root.to_bytes())
    write_folder(installation.directory / "now", (forged,), targets.data, bundle)
    name = "targets.pem" if option == "--key" else "root.pem"
    assert installation.sign(option, installation.path(name), as_json=True) == 65
    error = shown(capsys)["error"]
    assert error["code"] == "trust_not_verified"
    assert reason in str(error)
    assert not (installation.directory / "next").exists()
