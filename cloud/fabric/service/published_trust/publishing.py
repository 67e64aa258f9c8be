"""Use case: operators publish root and targets files that the holders of the offline keys have signed.

Fabric itself signs the online roles only. It checks the offered files by the rules of TUF and of our targets. It
refuses to drop a root or issuer that is still in use. A drop is allowed when all of this holds:

- Every node has reported the version that is published now.
- No node has a device certificate from a dropped issuer.
- Every session certificate from a dropped issuer has expired.
- No service has a TLS certificate from a dropped issuer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, Targets

from cloud.crypto.issued import issuer_among
from cloud.fabric import schemas
from cloud.fabric.errors import AdoptionIncomplete, Conflict, Invalid, Refused, TrustRefused
from cloud.fabric.licensing.signing import Signer
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.ports import Now, ServiceCertificates, Transaction
from cloud.fabric.service.published_trust.adoption import Adoption
from cloud.fabric.store.keys import TRUST, refusal_key
from cloud.fabric.store.repository import RepositoryStore
from cloud.fabric.tuf.checking import PublicationRefused, check_online, check_signed, hashes_of, read_metadata
from cloud.fabric.tuf.current_trust import CurrentTrust
from cloud.fabric.tuf.repository import Latest, MetadataFile, OnlineSigners, Publication, Signed, publish_signed
from cloud.fabric.tuf.targets import Content, TargetsError, check_content, read_certificates, read_content
from cloud.http.guard import Operator
from cloud.mtls.peer import key_id_of
from protocol.encoding import sha256_hex


@dataclass(frozen=True)
class _Published:
    """The published metadata, as it was read from the store."""

    root: MetadataFile
    latest: Latest

    def same(self, other: "_Published") -> bool:
        """Whether root and targets have the same versions. The online roles may differ."""
        return (self.root.version, self.latest.targets.version) == (other.root.version, other.latest.targets.version)


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """Publishes metadata and targets. `public_url` is the URL of this Fabric, which the targets must name."""

    trust_domain: str
    public_url: str
    now: Now
    transaction: Transaction
    acting: Acting
    audit: AuditLog
    repository: RepositoryStore
    adoption: Adoption
    current_trust: CurrentTrust
    signer: Signer
    online: OnlineSigners = field(repr=False)
    service_certificates: ServiceCertificates
    wake_follower: Callable[[], None]

    async def published(self) -> schemas.Trust:
        """Versions and expiry times of the published root and targets."""
        return _view(await self._read())

    async def publish(self, operator: Operator, body: schemas.PublishTrust, dry_run: bool = False) -> schemas.Trust:
        """Check the offered files and publish them. A repeat of the same bytes changes nothing.

        A dry run makes every check, and returns the versions that would be published.

        Raises Invalid, TrustRefused, AdoptionIncomplete, Conflict.
        """
        check_text("reason", body.reason)
        if body.override and not body.reason.strip():
            raise Invalid("reason: an override needs a reason")
        before = await self._read()
        if await self._is_repeat(before, body):
            return _view(before)
        overridden = ""
        try:
            signed, old, new = await self._checked(before, body)
            try:
                await self._refuse_early_drop(before.latest.targets.version, old, new)
            except AdoptionIncomplete as error:
                if not body.override:
                    raise
                overridden = error.detail
        except Refused as error:
            if not dry_run:
                await self._audit_refusal(operator, body, error)
            raise
        async with self.acting.transaction(operator, TRUST, dry_run=dry_run):
            stored = await self._read()
            if not stored.same(before):
                raise Conflict("another operator has published in the meantime. Read the published trust and try again")
            publication = publish_signed(self.now(), stored.latest, signed, self.online)
            _check_online(signed.roots[-1] if signed.roots else stored.root, publication)
            await self.repository.publish(publication)
            await self.audit.write(
                operator_actor(operator),
                "trust.published",
                f"targets.{_version_after(publication, stored)}",
                "",
                reason=body.reason,
                override="yes" if body.override else "",
                overridden=overridden,
                roots=len(signed.roots) or "",
                dropped=",".join(sorted(_ids(old) - _ids(new))),
                added=",".join(sorted(_ids(new) - _ids(old))),
            )
            answer = _view(await self._read())
        if not dry_run:
            self.wake_follower()
        return answer

    async def _read(self) -> _Published:
        found = [await self.repository.latest(role) for role in ("root", "targets", "snapshot", "timestamp")]
        root, targets, snapshot, timestamp = found
        if root is None or targets is None or snapshot is None or timestamp is None:
            raise Conflict("the repository is empty: `cascade init` did not make this database")
        return _Published(root, Latest(targets=targets, snapshot=snapshot, timestamp=timestamp))

    async def _is_repeat(self, stored: _Published, body: schemas.PublishTrust) -> bool:
        if body.targets and body.targets != stored.latest.targets.data:
            return False
        if not (body.targets or body.roots):
            return False
        try:
            return all([await self._is_stored(data) for data in body.roots])
        except PublicationRefused as error:
            raise TrustRefused(str(error)) from error

    async def _is_stored(self, root: bytes) -> bool:
        """Whether exactly this root file is published. Raises PublicationRefused if it is not a root file."""
        return await self.repository.metadata("root", int(read_metadata(root, Root).signed.version)) == root

    async def _checked(self, stored: _Published, body: schemas.PublishTrust) -> tuple[Signed, Content, Content]:
        """The checked files, the content that is published now, and the content afterwards. Raises TrustRefused."""
        now = self.now()
        targets = b"" if body.targets == stored.latest.targets.data else body.targets
        try:
            old = read_content(await self._contents(stored.latest.targets.data, {}))
            contents = await self._contents(targets, body.contents) if targets else {}
            roots = [data for data in body.roots if not await self._is_stored(data)]
            signed = check_signed(stored.root, stored.latest.targets, roots, targets, contents, now)
            if signed.targets is None:
                return signed, old, old
            new = read_content(contents)
            check_content(new, self.trust_domain, now)
        except (PublicationRefused, TargetsError) as error:
            raise TrustRefused(str(error)) from error
        self._check_ours(new, now)
        return signed, old, new

    async def _contents(self, targets: bytes, offered: dict[str, bytes]) -> dict[str, bytes]:
        """The files that the targets name, from the request or else from the store. Raises PublicationRefused."""
        found = {}
        for name, sha256 in hashes_of(targets).items():
            data = offered.get(name)
            if data is None:
                data = await self.repository.target(name, sha256)
            if data is not None:
                found[name] = data
        return found

    def _check_ours(self, new: Content, now: datetime) -> None:
        """Check that nodes can still use this Fabric with the new targets. Raises TrustRefused.

        1 the targets name this Fabric's URL; 2 every signing key of this Fabric is valid now and not withdrawn, for every
        document type that it signs; 3 a CA in the new bundle issued this Fabric's own TLS certificate.
        """
        if new.urls.fabric != self.public_url:
            raise TrustRefused(f"the targets name the URL {new.urls.fabric}; this Fabric's is {self.public_url}")
        known = {key.kid: key for key in new.keys.keys}
        for ours in self.signer.published(now, now):
            key = known.get(ours.kid)
            covers = key is not None and not key.withdrawn and key.not_before <= now < key.not_after
            if key is None or not covers or not set(ours.typs) <= set(key.typs):
                raise TrustRefused(f"the targets do not trust the key {ours.kid}, with which this Fabric signs")
        leaf = self.service_certificates().get("fabric")
        if leaf is not None and issuer_among(leaf, read_certificates(new.bundle.service_issuers)) is None:
            raise TrustRefused("the issuer of this Fabric's TLS certificate is not in the bundle. Renew it first")

    async def _refuse_early_drop(self, version: int, old: Content, new: Content) -> None:
        """Check that no dropped root or issuer is in use. Raises AdoptionIncomplete, with counts and some nodes."""
        roots = _key_ids(old.bundle.roots) - _key_ids(new.bundle.roots)
        nodes = _key_ids(old.bundle.node_issuers) - _key_ids(new.bundle.node_issuers)
        services = _key_ids(old.bundle.service_issuers) - _key_ids(new.bundle.service_issuers)
        if not roots | nodes | services:
            return
        counted, now, reasons = await self.adoption.count(version), self.now(), []
        if counted.behind:
            reasons.append(f"{counted.behind} of {counted.nodes} nodes have not reported version {version} yet")
        if nodes and counted.by_issuer.get(""):
            reasons.append(f"{counted.by_issuer['']} nodes have shown no device certificate yet")
        for key_id in sorted(nodes):
            if held := counted.by_issuer.get(key_id):
                reasons.append(f"{held} nodes have a device certificate from {key_id}")
            until = self.current_trust.sessions_until.get(key_id)
            if until is not None and until > now:
                reasons.append(f"session certificates from {key_id} may be valid until {until.isoformat()}")
        reasons += [
            f"{name} has a TLS certificate from {key_id}"
            for name, key_id in self.adoption.service_issuers().items()
            if key_id in services
        ]
        certificates = self.service_certificates()
        if services and certificates and "breakwater" not in certificates:
            reasons.append("the issuer of Breakwater's TLS certificate is unknown, because Breakwater does not answer")
        if reasons:
            some = await self.adoption.blocking(version, tuple(nodes))
            raise AdoptionIncomplete("; ".join(reasons) + (f"; some of these nodes: {', '.join(some)}" if some else ""))

    async def _audit_refusal(self, operator: Operator, body: schemas.PublishTrust, error: Refused) -> None:
        async with self.transaction(refusal_key(operator.id)):
            await self.audit.write(
                operator_actor(operator),
                "trust.refused",
                f"sha256.{sha256_hex(body.targets)[:16]}",
                "",
                "refused",
                reason=error.detail,
            )


def _version_after(publication: Publication, stored: _Published) -> int:
    """The version of the targets after the publication."""
    versions = [file.version for file in publication.metadata if file.role == "targets"]
    return versions[0] if versions else stored.latest.targets.version


def _check_online(root: MetadataFile, publication: Publication) -> None:
    try:
        check_online(root, publication)
    except PublicationRefused as error:
        raise TrustRefused(f"the root names other online keys than those of this Fabric ({error})") from error


def _key_ids(ders: tuple[bytes, ...]) -> set[str]:
    return {key_id_of(certificate) for certificate in read_certificates(ders)}


def _ids(content: Content) -> set[str]:
    bundle = content.bundle
    return _key_ids((*bundle.roots, *bundle.node_issuers, *bundle.service_issuers))


def _view(stored: _Published) -> schemas.Trust:
    targets = read_metadata(stored.latest.targets.data, Targets).signed
    root = read_metadata(stored.root.data, Root).signed
    return schemas.Trust(targets.version, targets.expires, root.version, root.expires)
