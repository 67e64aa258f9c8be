"""Pure functions: changes of the published trust that a holder of the offline keys makes, and the list of differences.

A change starts from the published content, never from an empty one. Roots and issuers are dropped by key id.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.fabric.tuf.targets import Content, TargetsError, read_certificates
from cloud.mtls.peer import key_id_of
from protocol.signed.trust import X509Bundle

KEY_ID_CHARS_MIN = 8
"""Shortest beginning of a key id that a person may type. It distinguishes the few CAs of a bundle."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The changes to make. `add_...` are certificates in DER. `drop_...` are key ids, or at least their first 8
    characters."""

    add_roots: tuple[bytes, ...] = ()
    add_nodes: tuple[bytes, ...] = ()
    add_services: tuple[bytes, ...] = ()
    drop_roots: tuple[str, ...] = ()
    drop_issuers: tuple[str, ...] = ()
    fabric_url: str = ""
    breakwater_url: str = ""
    repository_url: str = ""


class Authority(msgspec.Struct, frozen=True):
    """A CA of the bundle, in the form shown to people."""

    place: str
    key_id: str
    subject: str
    not_before: datetime
    not_after: datetime

    def __str__(self) -> str:
        return f"{self.place} {self.key_id} {self.subject} (until {self.not_after:%Y-%m-%d})"


def changed(content: Content, changes: Changes) -> Content:
    """The content after the changes.

    Raises TargetsError if a key id names no authority or several, or if an added certificate is in the bundle already.
    """
    bundle = content.bundle
    roots = _with(_without(bundle.roots, changes.drop_roots), changes.add_roots)
    nodes, services = bundle.node_issuers, bundle.service_issuers
    for named in changes.drop_issuers:
        matching = [bool(_named(ders, named)) for ders in (nodes, services)]
        if sum(matching) != 1:
            raise TargetsError(f"the key id {named} names {'no issuer' if not any(matching) else 'two issuers'}")
        nodes, services = (
            _without(ders, (named,)) if here else ders for ders, here in zip((nodes, services), matching, strict=True)
        )
    bundle = msgspec.structs.replace(
        bundle,
        roots=roots,
        node_issuers=_with(nodes, changes.add_nodes),
        service_issuers=_with(services, changes.add_services),
    )
    urls = msgspec.structs.replace(
        content.urls,
        fabric=changes.fabric_url or content.urls.fabric,
        breakwater=changes.breakwater_url or content.urls.breakwater,
        repository=changes.repository_url or content.urls.repository,
    )
    return msgspec.structs.replace(content, bundle=bundle, urls=urls)


def differences(old: Content, new: Content) -> tuple[str, ...]:
    """The differences between two contents, one line each; empty if there are none."""
    before, after = ({str(entry) for entry in authorities(content.bundle)} for content in (old, new))
    lines = [f"- {line}" for line in sorted(before - after)] + [f"+ {line}" for line in sorted(after - before)]
    for name in ("fabric", "breakwater", "repository"):
        was, becomes = getattr(old.urls, name), getattr(new.urls, name)
        if was != becomes:
            lines += [f"- url of {name}: {was}"] * bool(was) + [f"+ url of {name}: {becomes}"]
    if old.keys != new.keys:
        lines.append("+ signing keys have changed")
    return tuple(lines)


def authorities(bundle: X509Bundle) -> Iterator[Authority]:
    """The CAs of a bundle: roots, then issuers for nodes, then issuers for services. Raises TargetsError."""
    for place, ders in (("root", bundle.roots), ("nodes", bundle.node_issuers), ("services", bundle.service_issuers)):
        for certificate in read_certificates(ders):
            yield Authority(
                place,
                key_id_of(certificate),
                certificate.subject.rfc4514_string(),
                certificate.not_valid_before_utc,
                certificate.not_valid_after_utc,
            )


def der_of(pem: bytes) -> bytes:
    """Turn a PEM certificate into DER. Raises TargetsError."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except ValueError as error:
        raise TargetsError("the file is not a certificate in PEM form") from error


def _named(ders: Sequence[bytes], key_id: str) -> list[bytes]:
    if len(key_id) < KEY_ID_CHARS_MIN:
        raise TargetsError(f"a key id must have {KEY_ID_CHARS_MIN} characters or more, not {key_id!r}")
    certificates = read_certificates(ders)
    return [der for der, each in zip(ders, certificates, strict=True) if key_id_of(each).startswith(key_id.lower())]


def _without(ders: Sequence[bytes], key_ids: Sequence[str]) -> tuple[bytes, ...]:
    left = tuple(ders)
    for key_id in key_ids:
        found = _named(left, key_id)
        if len({key_id_of(each) for each in read_certificates(found)}) != 1:
            raise TargetsError(f"the key id {key_id} names {'nothing' if not found else 'several authorities'}")
        left = tuple(der for der in left if der not in found)
    return left


def _with(ders: Sequence[bytes], added: Sequence[bytes]) -> tuple[bytes, ...]:
    for der in added:
        if der in ders:
            raise TargetsError("a certificate that is to be added is in the bundle already")
    return (*ders, *added)
