"""`cloud.fabric.service.published_trust.publishing`: files that are published, or refused with no row written."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root, Timestamp

from cloud.cli import published_trust
from cloud.fabric import schemas
from cloud.fabric.errors import Conflict, Invalid, TrustRefused
from cloud.fabric.service.published_trust.publishing import Publishing
from cloud.fabric.tuf.offline import Changes
from cloud.fabric.tuf.repository import ROOT_LIFE, pin_of, sign_root, sign_targets, signer_of
from cloud.fabric.tuf.targets import Content
from cloud.mtls.peer import key_id_of
from protocol.encoding import sha256_hex
from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.signed.envelope import VerificationKey
from protocol.signed.trust import TARGET_SERVICES, TARGET_X509_BUNDLE
from tests.cloud.breakwater.support import START
from tests.cloud.fabric.authorities import Authority, Generation
from tests.cloud.fabric.publishing import Holders, mirrored
from tests.cloud.fabric.support import ALICE, URL, World
from tests.simulators.repository import Repository

DAY = timedelta(days=1)


async def publish(world: World, body: schemas.PublishTrust) -> schemas.Trust:
    return await world.parts.trust.publishing.publish(ALICE, body)


async def rows(world: World) -> int:
    return len((await mirrored(world)).files)


async def test_targets_are_signed_again_and_a_repeat_changes_nothing(world: World, holders: Holders) -> None:
    world.clock.forward(300 * DAY)
    body = await holders.signed()
    published = await publish(world, body)
    assert (published.targets_version, published.targets_expire_at) == (2, START + 665 * DAY)
    assert (published.root_version, published.root_expires_at) == (1, START + ROOT_LIFE)
    before = await rows(world)
    assert await publish(world, body) == published == await world.parts.trust.publishing.published()
    assert await rows(world) == before
    assert await world.actions("targets.2") == ["trust.published"]


async def test_contents_that_are_stored_need_not_be_sent_and_the_request_is_small(
    world: World, holders: Holders
) -> None:
    second = Generation()
    changes = Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,), add_services=(second.services.der,))
    body = await holders.signed(changes)
    assert len(msgspec.json.encode(body)) < REQUEST_BODY_BYTES_MAX / 4
    only_new = {TARGET_X509_BUNDLE: body.contents[TARGET_X509_BUNDLE]}
    assert (await publish(world, msgspec.structs.replace(body, contents=only_new))).targets_version == 2


def altered(change: Callable[[dict[str, object]], None]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        document = json.loads(data)
        change(document["signed"])
        return json.dumps(document).encode()

    return apply


@pytest.mark.parametrize(
    ("bend", "error"),
    [
        (lambda data: b"", "neither new roots nor new targets"),
        (lambda data: b"{", "cannot be read"),
        (lambda data: b'{"signed": {"_type": "targets"}, "signatures": []}', "cannot be read"),
        (altered(lambda signed: signed.update(version=3)), "not signed by the keys"),
        (altered(lambda signed: signed.update(expires="2099-01-01T00:00:00Z")), "not signed by the keys"),
    ],
)
async def test_metadata_that_do_not_verify(
    world: World, holders: Holders, bend: Callable[[bytes], bytes], error: str
) -> None:
    body, before = await holders.signed(), await rows(world)
    with pytest.raises(TrustRefused, match=error):
        await publish(world, msgspec.structs.replace(body, targets=bend(body.targets)))
    assert await rows(world) == before


async def test_the_rules_of_tuf(world: World, holders: Holders) -> None:
    files = (await holders.content()).encoded()
    year = world.clock() + 365 * DAY
    stranger = signer_of(ec.generate_private_key(ec.SECP256R1()))

    async def refused(error: str, **changes: object) -> None:
        body = msgspec.structs.replace(await holders.signed(), **changes)
        with pytest.raises(TrustRefused, match=error):
            await publish(world, body)

    await refused("not signed by the keys", targets=sign_targets(year, 2, stranger, files).data)
    await refused("the next one is 2", targets=sign_targets(year, 3, holders.targets, files).data)
    await refused("expired already", targets=sign_targets(world.clock(), 2, holders.targets, files).data)
    await refused("exactly", targets=sign_targets(year, 2, holders.targets, {"services.json": b"{}"}).data)
    await refused("exactly", targets=sign_targets(year, 2, holders.targets, files | {"more.json": b"{}"}).data)
    other = sign_targets(year, 2, holders.targets, files | {TARGET_SERVICES: b"{}"}).data
    await refused("does not match the signed length", targets=other)
    await refused("is missing", targets=other, contents={})
    await refused("missing or cannot be read", targets=other, contents=files | {TARGET_SERVICES: b"{}"})
    await refused("not metadata of targets", targets=(await holders.newest("snapshot")).data)
    await refused("cannot be read", roots=(b"{}",))
    assert await world.actions(f"sha256.{sha256_hex(other)[:16]}") == ["trust.refused"] * 3


def with_bundle(**changes: object) -> Callable[[Content], Content]:
    return lambda content: msgspec.structs.replace(content, bundle=msgspec.structs.replace(content.bundle, **changes))


SECOND = Generation()


NO_CA = Authority("no CA", SECOND.root, ca=False)


def withdrawn(keys: tuple[VerificationKey, ...]) -> tuple[VerificationKey, ...]:
    """The keys, of which the first one is withdrawn."""
    return (msgspec.structs.replace(keys[0], withdrawn=True), *keys[1:])


OVER = Authority("root over", not_after=START - timedelta(hours=1))


@pytest.mark.parametrize(
    ("bend", "error"),
    [
        (with_bundle(trust_domain="other.test"), "trust domain"),
        (with_bundle(roots=(SECOND.root.der,)), "no root of the bundle signed"),
        (with_bundle(roots=(SECOND.nodes.der,)), "no root of the bundle signed"),
        (with_bundle(roots=(OVER.der,)), "not valid at this time"),
        (with_bundle(roots=(SECOND.root.der,), node_issuers=(NO_CA.der,)), "not a CA certificate"),
        (
            with_bundle(
                roots=(SECOND.root.der,), node_issuers=(SECOND.nodes.der,) * 2, service_issuers=(SECOND.services.der,)
            ),
            "twice",
        ),
        (
            lambda content: msgspec.structs.replace(
                content, urls=msgspec.structs.replace(content.urls, fabric="https://elsewhere:1")
            ),
            "this Fabric's is",
        ),
        (
            lambda content: msgspec.structs.replace(
                content, keys=msgspec.structs.replace(content.keys, keys=content.keys.keys[1:])
            ),
            "do not trust the key",
        ),
        (
            lambda content: msgspec.structs.replace(
                content, keys=msgspec.structs.replace(content.keys, keys=withdrawn(content.keys.keys))
            ),
            "do not trust the key",
        ),
    ],
)
async def test_content_that_no_node_could_use(
    world: World, holders: Holders, bend: Callable[[Content], Content], error: str
) -> None:
    files = bend(await holders.content()).encoded()
    targets = sign_targets(world.clock() + DAY, 2, holders.targets, files)
    with pytest.raises(TrustRefused, match=error):
        await publish(world, schemas.PublishTrust(targets=targets.data, contents=files))


async def test_fabrics_own_certificate_must_stay_trusted(world: World, holders: Holders) -> None:
    stranger = Generation(7).services.service("fabric")
    world.outside.certificates = {"fabric": stranger}
    with pytest.raises(TrustRefused, match="issuer of this Fabric's TLS certificate"):
        await publish(world, await holders.signed())


async def test_an_override_has_a_reason(world: World, holders: Holders) -> None:
    body = msgspec.structs.replace(await holders.signed(), override=True, reason="  ")
    with pytest.raises(Invalid):
        await publish(world, body)


async def test_a_publication_in_the_meantime_is_not_overwritten(
    world: World, holders: Holders, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = await holders.signed(life=10 * DAY), await holders.signed(life=20 * DAY)
    checked = Publishing._checked

    async def overtaken(*arguments: object) -> object:
        result = await checked(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(Publishing, "_checked", checked)
        await publish(world, theirs)
        return result

    monkeypatch.setattr(Publishing, "_checked", overtaken)
    with pytest.raises(Conflict):
        await publish(world, mine)
    assert (await world.parts.trust.publishing.published()).targets_expire_at == START + 20 * DAY


async def fetched(world: World, pin_version: int, cache: Path) -> str:
    """The URL of Fabric that a client of the library reads, starting from the pin of that root."""
    with Repository().served() as repository:
        repository.store = await mirrored(world)
        pin = pin_of(repository.store.files["root", pin_version])
        return published_trust.fetch(repository.url, pin, cache, world.clock)[1].fabric


@pytest.mark.slow
async def test_the_root_is_renewed_alone(world: World, holders: Holders, tmp_path: Path) -> None:
    await fetched(world, 1, tmp_path / "old")
    renewed = sign_root(START + 2 * ROOT_LIFE, await holders.newest("root"), holders.root)
    body = schemas.PublishTrust(roots=(renewed.data,))
    published = await publish(world, body)
    assert (published.root_version, published.root_expires_at) == (2, START + 2 * ROOT_LIFE)
    assert published.targets_version == 1
    assert await publish(world, body) == published
    world.clock.forward(DAY)
    for cache, version in (("old", 1), ("new", 1), ("pinned to it", 2)):
        assert await fetched(world, version, tmp_path / cache) == URL


@pytest.mark.slow
async def test_root_and_targets_keys_are_replaced_together(world: World, holders: Holders, tmp_path: Path) -> None:
    await fetched(world, 1, tmp_path / "old")
    new_root, new_targets = (signer_of(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    root = await holders.newest("root")
    second = sign_root(START + ROOT_LIFE, root, holders.root, new_root=new_root, new_targets=new_targets)
    alone = schemas.PublishTrust(roots=(second.data,))
    with pytest.raises(TrustRefused, match="targets 1 is not signed by the keys that root 2"):
        await publish(world, alone)
    files = (await holders.content()).encoded()
    targets = sign_targets(START + 365 * DAY, 2, new_targets, files)
    body = schemas.PublishTrust((second.data,), targets.data, files)
    assert (await publish(world, body)).root_version == 2
    world.clock.forward(DAY)
    for cache, version in (("old", 1), ("new", 2)):
        assert await fetched(world, version, tmp_path / cache) == URL
    # Signatures by the old keys are refused now.
    with pytest.raises(TrustRefused, match="not signed by the keys"):
        await publish(world, await holders.signed())
    newest = await holders.newest("root")
    with pytest.raises(ValueError, match="not the only root key"):
        sign_root(START + ROOT_LIFE, newest, holders.root)
    third = sign_root(START + ROOT_LIFE, newest, new_root)
    assert (await publish(world, schemas.PublishTrust((third.data,)))).root_version == 3


async def test_roots_that_do_not_continue_the_chain(world: World, holders: Holders) -> None:
    root = await holders.newest("root")
    stranger = signer_of(ec.generate_private_key(ec.SECP256R1()))
    second = sign_root(START + ROOT_LIFE, root, holders.root)
    skipped = sign_root(START + ROOT_LIFE, second, holders.root)
    ended = sign_root(START, root, holders.root)
    renamed = sign_root(START + ROOT_LIFE, root, holders.root, new_root=stranger)
    unsigned = json.loads(renamed.data)
    unsigned["signatures"] = unsigned["signatures"][:1]
    for data, error in (
        (skipped.data, "the next one is 2"),
        (ended.data, "expired already"),
        (json.dumps(unsigned).encode(), "not signed by the keys that root 2 names"),
    ):
        with pytest.raises(TrustRefused, match=error):
            await publish(world, schemas.PublishTrust(roots=(data,)))
    with pytest.raises(TrustRefused, match="at most 8"):
        await publish(world, schemas.PublishTrust(roots=(second.data,) * 9))


async def test_a_root_with_other_online_keys_is_refused(world: World, holders: Holders) -> None:
    root = Metadata[Root].from_bytes((await holders.newest("root")).data).signed
    root.revoke_key(root.roles[Timestamp.type].keyids[0], Timestamp.type)
    root.add_key(signer_of(ec.generate_private_key(ec.SECP256R1())).public_key, Timestamp.type)
    root.version = 2
    metadata = Metadata(root)
    metadata.sign(holders.root)
    before = await rows(world)
    with pytest.raises(TrustRefused, match="other online keys"):
        await publish(world, schemas.PublishTrust(roots=(metadata.to_bytes(),)))
    assert await rows(world) == before


async def test_an_empty_fleet_may_drop_at_once(world: World, holders: Holders) -> None:
    second = Generation()
    await holders.publish(
        Changes(add_roots=(second.root.der,), add_nodes=(second.nodes.der,), add_services=(second.services.der,))
    )
    old = world.trust.node_issuers[0]
    await holders.publish(Changes(drop_issuers=(key_id_of(old),)))
    assert world.trust.node_issuers == (second.nodes.certificate,)
