"""Operators publish what the offline holders have signed, and order device certificates renewed.

Fabric signs the online roles only. It checks what is offered by the rules of TUF and of our targets, and that nothing
is dropped which somebody still works by: every node tells the version that is published now, no node's device
certificate is of an issuer that goes, no session certificate of it can still count, and no service serves by it.
"""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from tuf.api.metadata import Root, Targets

from cloud.fabric import schemas
from cloud.fabric.errors import AdoptionIncomplete, Conflict, Invalid, Refused, TrustRefused
from cloud.fabric.service.context import Core, check_text, operator_actor
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.tuf.checking import PublicationRefused, check_online, check_signed, hashes_of, read_metadata
from cloud.fabric.tuf.current_trust import RenewalOrder
from cloud.fabric.tuf.repository import Latest, MetadataFile, Publication, Signed, publish_signed
from cloud.fabric.tuf.targets import Content, TargetsError, check_content, read_certificates, read_content
from cloud.http.guard import Operator
from cloud.mtls.peer import PeerRefused, key_id_of, require_issuer
from protocol.encoding import sha256_hex

RENEWALS_PER_SECOND = 50
"""How fast an order wakes a fleet unless told otherwise: a fraction of what one issuer signs."""
SPREAD_SECONDS_MAX = 30 * 24 * 3600
TAKES = timedelta(seconds=5)
"""Until every replica has heard of an order; leases signed before that lack it and are signed anew."""


class _Stored:
    """What is published, as it was read."""

    def __init__(self, root: MetadataFile, latest: Latest) -> None:
        self.root = root
        self.latest = latest

    def same(self, other: "_Stored") -> bool:
        """Whether nothing but the online roles differs."""
        return (self.root.version, self.latest.targets.version) == (other.root.version, other.latest.targets.version)


async def published(core: Core) -> schemas.Trust:
    """Versions and ends of what is published."""
    return _view(await _stored(core))


async def publish(core: Core, operator: Operator, body: schemas.PublishTrust) -> schemas.Trust:
    """Publish; a repeat of the same bytes changes nothing. Raises Invalid, TrustRefused, AdoptionIncomplete, Conflict."""
    check_text("reason", body.reason)
    if body.override and not body.reason.strip():
        raise Invalid("an override is given a reason")
    before = await _stored(core)
    if await _is_repeat(core, before, body):
        return _view(before)
    overridden = ""
    try:
        signed, old, new = await _checked(core, before, body)
        try:
            await _refuse_early_drop(core, before.latest.targets.version, old, new)
        except AdoptionIncomplete as error:
            if not body.override:
                raise
            overridden = error.detail
    except Refused as error:
        await _audit_refusal(core, operator, body, error)
        raise
    async with core.stores.transaction():
        stored = await _stored(core)
        if not stored.same(before):
            raise Conflict("something else was published meanwhile")
        publication = publish_signed(core.now(), stored.latest, signed, core.online)
        _check_online(signed.roots[-1] if signed.roots else stored.root, publication)
        await core.stores.repository.publish(publication)
        await core.audit(
            operator_actor(operator),
            "trust.published",
            f"targets.{publication_version(publication, stored)}",
            "",
            reason=body.reason,
            override="yes" if body.override else "",
            overridden=overridden,
            roots=len(signed.roots) or "",
            dropped=",".join(sorted(_ids(old) - _ids(new))),
            added=",".join(sorted(_ids(new) - _ids(old))),
        )
    return _view(await _stored(core))


def publication_version(publication: Publication, stored: _Stored) -> int:
    """The version of the targets after a publication."""
    versions = [file.version for file in publication.metadata if file.role == "targets"]
    return versions[0] if versions else stored.latest.targets.version


async def renew_devices(core: Core, operator: Operator, body: schemas.RenewDevices) -> schemas.RenewalOrder:
    """Order that device certificates made before a time are renewed. A later order replaces an earlier one.

    Raises Invalid.
    """
    check_text("reason", body.reason)
    now = core.now()
    after = body.after or now
    if after.tzinfo is None:
        raise Invalid("after: a time with its zone")
    counted = await adoption.count(core, core.belief.version)
    spread = counted.nodes // RENEWALS_PER_SECOND if body.spread_seconds is None else body.spread_seconds
    if not 0 <= spread <= SPREAD_SECONDS_MAX:
        raise Invalid(f"spread_seconds: 0 to {SPREAD_SECONDS_MAX}")
    order = RenewalOrder(
        after=after.astimezone(UTC),
        reason=body.reason,
        set_at=now,
        starts_at=max(now, after.astimezone(UTC)) + TAKES,
        spread_seconds=spread,
        nodes=counted.nodes,
    )
    async with core.stores.transaction():
        await core.stores.installation.set_renewal_order(order)
        await core.audit(
            operator_actor(operator),
            "trust.renew_devices",
            "renew_devices",
            "",
            reason=body.reason,
            after=after.isoformat(),
            spread_seconds=spread,
            nodes=counted.nodes,
        )
    core.belief.order = order
    return adoption.order_view(order)


async def _stored(core: Core) -> _Stored:
    files = core.stores.repository
    found = [await files.latest(role) for role in ("root", "targets", "snapshot", "timestamp")]
    root, targets, snapshot, timestamp = found
    if root is None or targets is None or snapshot is None or timestamp is None:
        raise Conflict("the repository is empty: `cascade init` has not been here")
    return _Stored(root, Latest(targets=targets, snapshot=snapshot, timestamp=timestamp))


async def _is_repeat(core: Core, stored: _Stored, body: schemas.PublishTrust) -> bool:
    if body.targets and body.targets != stored.latest.targets.data:
        return False
    if not (body.targets or body.roots):
        return False
    try:
        return all([await _is_stored(core, data) for data in body.roots])
    except PublicationRefused as error:
        raise TrustRefused(str(error)) from error


async def _is_stored(core: Core, root: bytes) -> bool:
    """Whether this very root is published. Raises PublicationRefused for what is none."""
    return await core.stores.repository.metadata("root", int(read_metadata(root, Root).signed.version)) == root


async def _checked(core: Core, stored: _Stored, body: schemas.PublishTrust) -> tuple[Signed, Content, Content]:
    """What is signed, the content that is published and the one that would be. Raises TrustRefused."""
    now = core.now()
    targets = b"" if body.targets == stored.latest.targets.data else body.targets
    try:
        old = read_content(await _contents(core, stored.latest.targets.data, {}))
        contents = await _contents(core, targets, body.contents) if targets else {}
        roots = [data for data in body.roots if not await _is_stored(core, data)]
        signed = check_signed(stored.root, stored.latest.targets, roots, targets, contents, now)
        if signed.targets is None:
            return signed, old, old
        new = read_content(contents)
        check_content(new, core.trust_domain, now)
    except (PublicationRefused, TargetsError) as error:
        raise TrustRefused(str(error)) from error
    _check_ours(core, new, now)
    return signed, old, new


async def _contents(core: Core, targets: bytes, offered: dict[str, bytes]) -> dict[str, bytes]:
    """What the targets name, from the offer or from what is stored already. Raises PublicationRefused."""
    files, found = core.stores.repository, {}
    for name, sha256 in hashes_of(targets).items():
        data = offered.get(name)
        if data is None or sha256_hex(data) != sha256:
            data = await files.target(name, sha256) if data is None else data
        if data is not None:
            found[name] = data
    return found


def _check_ours(core: Core, new: Content, now: datetime) -> None:
    """Whether nodes could still talk to this Fabric by these targets. Raises TrustRefused.

    1 its URL is the one that session proofs must name; 2 every key that it signs with counts now, for all that it
    signs; 3 its own TLS certificate is of an issuer in the bundle.
    """
    if new.urls.fabric != core.public_url:
        raise TrustRefused(f"the targets name the URL {new.urls.fabric}; this Fabric's is {core.public_url}")
    known = {key.kid: key for key in new.keys.keys}
    for ours in core.signer.published(now, now):
        key = known.get(ours.kid)
        if key is None or not set(ours.typs) <= set(key.typs) or not key.not_before <= now < key.not_after:
            raise TrustRefused(f"the key {ours.kid}, which this Fabric signs with, would not count")
    leaf = core.services().get("fabric")
    if leaf is not None and not _issued_by(leaf, read_certificates(new.bundle.service_issuers)):
        raise TrustRefused("this Fabric's own TLS certificate would not be of a published issuer: renew it first")


def _issued_by(leaf: x509.Certificate, issuers: tuple[x509.Certificate, ...]) -> bool:
    try:
        require_issuer(leaf, issuers)
    except PeerRefused:
        return False
    return True


def _check_online(root: MetadataFile, publication: Publication) -> None:
    try:
        check_online(root, publication)
    except PublicationRefused as error:
        raise TrustRefused(f"{error}: this Fabric signs with others") from error


def _key_ids(ders: tuple[bytes, ...]) -> set[str]:
    return {key_id_of(certificate) for certificate in read_certificates(ders)}


def _ids(content: Content) -> set[str]:
    bundle = content.bundle
    return _key_ids((*bundle.roots, *bundle.node_issuers, *bundle.service_issuers))


async def _refuse_early_drop(core: Core, version: int, old: Content, new: Content) -> None:
    """Raises AdoptionIncomplete, with counts and some of the nodes."""
    roots = _key_ids(old.bundle.roots) - _key_ids(new.bundle.roots)
    nodes = _key_ids(old.bundle.node_issuers) - _key_ids(new.bundle.node_issuers)
    services = _key_ids(old.bundle.service_issuers) - _key_ids(new.bundle.service_issuers)
    if not roots | nodes | services:
        return
    counted, now, reasons = await adoption.count(core, version), core.now(), []
    if counted.behind:
        reasons.append(f"{counted.behind} of {counted.nodes} nodes do not work by version {version} yet")
    if nodes and counted.by_issuer.get(""):
        reasons.append(f"{counted.by_issuer['']} have shown no device certificate yet")
    for key_id in sorted(nodes):
        if held := counted.by_issuer.get(key_id):
            reasons.append(f"{held} have a device certificate of {key_id}")
        until = core.belief.sessions_until.get(key_id)
        if until is not None and until > now:
            reasons.append(f"session certificates of {key_id} count until {until.isoformat()}")
    reasons += [
        f"{name} serves by {key_id}" for name, key_id in adoption.service_issuers(core).items() if key_id in services
    ]
    if services and core.services() and "breakwater" not in core.services():
        reasons.append("Breakwater has not been met yet, or does not answer: what it serves by is not known")
    if reasons:
        some = await adoption.named(core, version, tuple(nodes))
        raise AdoptionIncomplete("; ".join(reasons) + (f"; of them: {', '.join(some)}" if some else ""))


async def _audit_refusal(core: Core, operator: Operator, body: schemas.PublishTrust, error: Refused) -> None:
    async with core.stores.transaction():
        await core.audit(
            operator_actor(operator),
            "trust.refused",
            f"sha256.{sha256_hex(body.targets)[:16]}",
            "",
            "refused",
            reason=error.detail,
        )


def _view(stored: _Stored) -> schemas.Trust:
    targets = read_metadata(stored.latest.targets.data, Targets).signed
    root = read_metadata(stored.root.data, Root).signed
    return schemas.Trust(targets.version, targets.expires, root.version, root.expires)
