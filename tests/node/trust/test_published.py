"""The trust as values: `stage` verifies it, `Staged.keep` stores it, `load` reads it, `refresh` replaces it."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from tuf.api.metadata import Metadata, Root

from cloud.fabric.tuf.repository import MetadataFile
from node.disk import calls
from node.errors import DiskFull, StateError
from node.trust import files, published
from node.trust.errors import TrustOlder
from node.trust.published import TrustError, TrustUnreachable, load, refresh, repair, stage
from protocol.encoding import sha256_hex
from protocol.messages.activation import TrustPin
from protocol.signed.envelope import EnvelopeError, open_envelope, seal
from protocol.signed.trust import TARGET_SERVICES, TARGET_SIGNING_KEYS
from tests.node.trust.states import DAY, at, bootstrap, refused
from tests.simulators.repository import START, Repository, content, p256, verification_key

pytestmark = pytest.mark.slow


async def test_staged_trust_changes_nothing_until_it_is_kept(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    mirror = f"{repository.url}/"
    staged = await stage(mirror, repository.pin, tmp_path, clock=at(START))
    assert staged.value.repository_url == mirror
    assert (load(tmp_path).repository_url, load(tmp_path).generation) == (repository.url, 1)
    await staged.keep()
    assert load(tmp_path).repository_url == mirror


async def test_the_signed_url_of_the_repository_prevails(repository: Repository, tmp_path: Path) -> None:
    """An edited activation file can name an attacker's copy of the repository. The next publication ends that."""
    with Repository().served() as attacker:
        attacker.store = repository.store
        await (await stage(attacker.url, repository.pin, tmp_path, clock=at(START))).keep()
        assert load(tmp_path).repository_url == attacker.url
        repository.replace(content(repository_url=repository.url), now=START + DAY)
        assert (await refresh(tmp_path, clock=at(START + DAY))).repository_url == repository.url
        asked = len(attacker.requests)
        repository.replace(content(port=9000, repository_url=repository.url), now=START + 2 * DAY)
        assert (await refresh(tmp_path, clock=at(START + 2 * DAY))).urls.fabric == "https://127.0.0.1:9000"
        assert len(attacker.requests) == asked
        assert load(tmp_path).repository_url == repository.url


async def test_a_signed_url_that_does_not_answer_cuts_no_node_off(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    repository.replace(content(repository_url="http://127.0.0.1:1"), now=START + DAY)
    await refresh(tmp_path, clock=at(START + DAY))
    assert load(tmp_path).repository_url == "http://127.0.0.1:1"
    repository.replace(content(repository_url=repository.url), now=START + 2 * DAY)
    assert (await refresh(tmp_path, clock=at(START + 2 * DAY))).repository_url == repository.url
    # Targets without a URL: the last one that answered is used.
    repository.replace(content(port=9000), now=START + 3 * DAY)
    assert (await refresh(tmp_path, clock=at(START + 3 * DAY))).repository_url == repository.url


async def test_bootstrap_publishes_what_load_reads_back(repository: Repository, tmp_path: Path) -> None:
    fetched = await bootstrap(repository, tmp_path)
    loaded = load(tmp_path)
    assert (loaded.bundle, loaded.urls, loaded.pin) == (fetched.bundle, fetched.urls, repository.pin)
    assert loaded.repository_url == repository.url
    assert loaded.generation == fetched.generation == 1
    assert loaded.urls.fabric == "https://127.0.0.1:8440"
    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == ["current.json", "gen-1"]
    for path in (tmp_path / "trust").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.slow
def test_load_does_not_import_the_library(repository: Repository, tmp_path: Path) -> None:
    trio.run(bootstrap, repository, tmp_path)
    script = (
        "import sys, pathlib; from node.trust import published; published.load(pathlib.Path(sys.argv[1]));"
        "sys.exit(any(name.split('.')[0] in ('tuf', 'securesystemslib', 'urllib3') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


async def test_refresh_publishes_new_targets_and_keeps_two_generations(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    for number, port in enumerate((9000, 9100, 9200), start=2):
        when = START + number * DAY
        repository.replace(content(port=port), now=when)
        refreshed = await refresh(tmp_path, clock=at(when))
        assert refreshed.generation == number
        assert refreshed.version == load(tmp_path).version == number
        assert load(tmp_path).urls.fabric == f"https://127.0.0.1:{port}"
    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == ["current.json", "gen-3", "gen-4"]


@pytest.mark.parametrize("damage", ["torn", "missing", "open", "forged"])
async def test_a_refresh_starts_from_the_pin_in_memory_if_the_stored_trust_cannot_be_used(
    repository: Repository, tmp_path: Path, damage: str
) -> None:
    held = await bootstrap(repository, tmp_path)
    path = tmp_path / "trust/current.json"
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.chmod(0o666)
    if damage == "forged":
        path.write_bytes(path.read_bytes().replace(held.pin.sha256.encode(), b"0" * 64))
        (tmp_path / "trust/gen-1" / TARGET_SIGNING_KEYS).write_bytes(b"{}")
    with pytest.raises(StateError):
        await refresh(tmp_path, clock=at(START))
    repository.replace(content(port=9000), now=START + DAY)
    refreshed = await refresh(tmp_path, held=held, clock=at(START + DAY))
    assert (refreshed.urls.fabric, refreshed.pin) == ("https://127.0.0.1:9000", held.pin)
    stored = load(tmp_path)
    assert (stored.urls, stored.version, stored.generation) == (refreshed.urls, refreshed.version, 2)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_trust_that_cannot_be_stored_is_returned_with_the_fault(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bootstrap(repository, tmp_path)
    when = START + DAY
    repository.replace(content(port=9000), now=when)

    def full(home: Path, _: object) -> int:
        raise DiskFull(home)

    with monkeypatch.context() as patch:
        patch.setattr("node.trust.published.publish", full)
        with pytest.raises(published.TrustNotStored) as caught:
            await refresh(tmp_path, clock=at(when))
        with pytest.raises(DiskFull):
            await bootstrap(repository, tmp_path, when)
    assert caught.value.value.urls.fabric == "https://127.0.0.1:9000"
    assert load(tmp_path).version == 1


@pytest.mark.parametrize("name", ["timestamp.json", TARGET_SIGNING_KEYS])
async def test_a_damaged_file_is_fetched_again_from_the_stored_pin(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    await bootstrap(repository, tmp_path)
    (tmp_path / "trust/gen-1" / name).write_bytes(b"torn")
    with pytest.raises(StateError):
        load(tmp_path)
    await repair(tmp_path, clock=at(START))
    assert load(tmp_path).pin == repository.pin
    (tmp_path / "trust/current.json").write_bytes(b"torn")
    with pytest.raises(StateError):
        await repair(tmp_path, clock=at(START))


@pytest.mark.parametrize("call", ["mkdir", "write"])
async def test_a_disk_that_refuses_every_write_keeps_no_new_trust_away(
    repository: Repository, tmp_path: Path, call: str
) -> None:
    def hook(made: str, path: str) -> None:
        if made == call and path.startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await bootstrap(repository, tmp_path)
    repository.replace(content(port=9000), now=START + DAY)
    with calls.hooked(hook), pytest.raises(published.TrustNotStored) as caught:
        await refresh(tmp_path, clock=at(START + DAY))
    assert caught.value.value.urls.fabric == "https://127.0.0.1:9000"
    assert load(tmp_path).version == 1
    assert not list(files.MEMORY.glob("cascadia-scratch-*"))


async def test_a_statement_counts_only_under_a_published_key(tmp_path: Path) -> None:
    known, stranger = p256(), p256()
    key = verification_key(known, "lease")
    with Repository(content(key)).served() as repository:
        ring = (await bootstrap(repository, tmp_path)).signing_keys
    unpublished = verification_key(stranger, "lease").kid
    assert open_envelope(seal("lease", key.kid, b"{}", known), "lease", ring)[1] == key
    for token, typ, reason in (
        (seal("lease", unpublished, b"{}", stranger), "lease", "not published"),
        (seal("revocation", key.kid, b"{}", known), "revocation", "may not sign"),
        (seal("lease", key.kid, b"{}", stranger), "lease", "does not verify"),
    ):
        with pytest.raises(EnvelopeError, match=reason):
            open_envelope(token, typ, ring)


async def test_activating_again_does_not_open_the_way_to_a_rollback(repository: Repository, tmp_path: Path) -> None:
    old = repository.latest.timestamp.data
    repository.replace(content(port=9000), now=START + DAY)
    await bootstrap(repository, tmp_path, START + DAY)
    repository.answers["/tuf/metadata/timestamp.json"] = old
    for damage in (False, True):
        if damage:
            (tmp_path / "trust/current.json").unlink()
        with pytest.raises(TrustError, match="must be >="):
            await bootstrap(repository, tmp_path, START + DAY)


async def test_offline_past_the_timestamps_expiry_the_verified_trust_stays(tmp_path: Path) -> None:
    with Repository().served() as repository:
        await bootstrap(repository, tmp_path)
    await refused(repository, tmp_path, TrustUnreachable, "the request for .* failed", START + 400 * DAY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        (TARGET_SERVICES, None, "has no services.json"),
        (TARGET_SERVICES, b"{}", "cannot be read"),
        (TARGET_SERVICES, b"{" + b" " * 300_000 + b"}", "larger than"),
        (TARGET_SERVICES, b'{"format":2,"fabric":"https://a:1","breakwater":"https://a:2"}', "does not know"),
        (TARGET_SERVICES, b'{"format":1,"fabric":"http://a:1","breakwater":"https://a:2"}', "URL"),
        (TARGET_SERVICES, b'{"format":1,"fabric":"https://a:1/x","breakwater":"https://a:2"}', "URL"),
        (TARGET_SIGNING_KEYS, b'{"format":1,"keys":{}}', "cannot be read"),
        (
            "x509-bundle.json",
            b'{"format":1,"trust_domain":"a","roots":["AAAA"],"node_issuers":[],"service_issuers":[]}',
            "certificates cannot be read",
        ),
    ],
)
async def test_verified_trust_that_this_agent_cannot_use_is_refused(
    repository: Repository, tmp_path: Path, name: str, body: bytes | None, match: str
) -> None:
    await bootstrap(repository, tmp_path)
    targets = content()
    if body is None:
        del targets[name]
    else:
        targets[name] = body
    repository.replace(targets, now=START + DAY)
    await refused(repository, tmp_path, TrustError, match, START + DAY)


async def test_a_later_pin_of_the_same_cloud_starts_from_its_own_root(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path)
    second = Metadata[Root].from_bytes(repository.store.files["root", 1].data)
    second.signed.version = 2
    second.sign(repository.root)
    data = second.to_bytes()
    repository.store.files["root", 2] = MetadataFile(role="root", version=2, data=data)
    pin = TrustPin(version=2, sha256=sha256_hex(data))
    await (await stage(repository.url, pin, tmp_path, clock=at(START))).keep()
    assert not (tmp_path / "trust/gen-2/1.root.json").exists()
    assert load(tmp_path).pin == pin


async def test_another_cloud_may_take_over_a_machine(repository: Repository, tmp_path: Path) -> None:
    await bootstrap(repository, tmp_path, START)
    with Repository(content(port=9000), now=START - DAY).served() as other:
        assert (await bootstrap(other, tmp_path, START)).urls.fabric == "https://127.0.0.1:9000"
        assert load(tmp_path).repository_url == other.url


def carried(repository: Repository, above: int = 0) -> dict[str, str]:
    """The files of a repository, as an answer has them."""
    snapshot, targets = repository.latest.snapshot, repository.latest.targets
    data = {
        "metadata/timestamp.json": repository.latest.timestamp.data,
        f"metadata/{snapshot.version}.snapshot.json": snapshot.data,
        f"metadata/{targets.version}.targets.json": targets.data,
    }
    roots = {number: file.data for (role, number), file in repository.store.files.items() if role == "root"}
    data |= {f"metadata/{number}.root.json": root for number, root in roots.items() if number > above}
    data |= {f"targets/{digest}.{name}": target for (name, digest), target in repository.store.contents.items()}
    return {path: content.decode() for path, content in data.items()}


async def test_carried_files_are_verified_from_the_pin_like_those_of_a_repository(
    repository: Repository, tmp_path: Path
) -> None:
    staged = await published.stage_files(
        carried(repository), "http://a.example", repository.pin, tmp_path, clock=at(START)
    )
    assert repository.requests == []
    assert not (tmp_path / "trust").exists()
    assert published.root_version(tmp_path) == 0
    assert published.origin(tmp_path) is None
    kept = await staged.keep()
    assert kept.generation == load(tmp_path).generation == 1
    assert kept.bundle == load(tmp_path).bundle
    assert (published.root_version(tmp_path), published.origin(tmp_path)) == (1, ("http://a.example", repository.pin))
    repository.replace(content(port=9000), now=START + DAY)
    later = carried(repository, above=1)
    assert "metadata/1.root.json" not in later
    staged = await published.stage_files(later, "http://a.example", repository.pin, tmp_path, clock=at(START + DAY))
    assert staged.value.urls.fabric == "https://127.0.0.1:9000"


@pytest.mark.parametrize("missing", ["metadata/timestamp.json", "metadata/1.root.json", "targets/"])
async def test_carried_files_that_are_not_complete_are_refused(
    repository: Repository, tmp_path: Path, missing: str
) -> None:
    files = {path: data for path, data in carried(repository).items() if not path.startswith(missing)}
    with pytest.raises(TrustError, match="published trust that was carried here"):
        await published.stage_files(files, "http://a.example", repository.pin, tmp_path, clock=at(START))


async def test_carried_files_that_are_older_or_altered_are_refused(repository: Repository, tmp_path: Path) -> None:
    old = carried(repository)
    pin, url = repository.pin, "http://a.example"
    repository.replace(content(port=9000), now=START + DAY)
    await (await published.stage_files(carried(repository), url, pin, tmp_path, clock=at(START + DAY))).keep()
    with pytest.raises(TrustOlder, match="older than the trust of this machine"):
        await published.stage_files(old, url, pin, tmp_path, clock=at(START + DAY))
    altered = {path: data.replace("9000", "9001") for path, data in carried(repository).items()}
    with pytest.raises(TrustError):
        await published.stage_files(altered, url, pin, tmp_path / "empty", clock=at(START + DAY))
    other = Repository()
    with pytest.raises(TrustError):
        await published.stage_files(carried(other), url, pin, tmp_path, clock=at(START + DAY))
    assert load(tmp_path).urls.fabric == "https://127.0.0.1:9000"
