"""Command: `cascade pki rotate`, moves an authority from state to state, through the gates between them.

    prepared -> active -> old -> tainted -> revoked

An authority may be activated once every node and service works by a published trust that has it. It may be dropped once
no certificate in force needs it. Fabric counts the first (nodes report the trust that they work by), the records here
the second. An operator may override a gate with a reason, which goes into the audit. A trust bundle is published with
`cascade trust`, since that needs the offline keys.
"""

import asyncio
from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.breakwater.admin import Admin
from cloud.breakwater.errors import SignerError, SignerUnavailable
from cloud.breakwater.keys.file import FileKeys
from cloud.breakwater.keys.pkcs11 import Pkcs11Keys
from cloud.breakwater.keys.signer import certificate_request, is_for_development
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE, CliError
from cloud.cli.options import Commands, repeated_options, server_options
from cloud.cli.pki.host import on_host
from cloud.cli.show import emit, fields
from cloud.fabric import schemas

MOVES = {
    "activate": "issue from this authority; the one before becomes old",
    "taint": "believe an old authority no more; it still signs its CRLs",
    "revoke": "end an authority: it signs nothing any more",
}
"""The steps that change the state of an authority: name -> summary."""
_GOAL = {"activate": "active", "taint": "tainted", "revoke": "revoked"}
NEXT_IMPORT = "Have the ceremony sign it (docs/ceremonies.md), then: cascade pki rotate import ANSWER.pem --dir DIR"


class Requested(msgspec.Struct, frozen=True):
    """A key that was made, and the request for its certificate."""

    authority: str
    key: str
    common_name: str
    file: str


class Moved(msgspec.Struct, frozen=True):
    """An authority and the state it is in now; `changed` is False when it was in it already."""

    authority: str
    state: str
    changed: bool


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "request -> (ceremony) -> import -> `cascade trust sign` and `publish` -> activate -> (adoption) -> taint or "
        "revoke. docs/pki.md has the whole with its commands."
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="directory of the installation; after the step too")
    steps = Commands(parser, "step", repeated_options)
    requesting = steps.add(
        "request", "make the next key of a class, and a request for the ceremony", run=on_host(request)
    )
    requesting.add_argument("ca", choices=["nodes", "services"], metavar="CLASS", help="nodes or services")
    requesting.add_argument("--out", type=Path, required=True, metavar="FILE", help="PKCS#10 request to write")
    importing = steps.add(
        "import",
        "take in what the ceremony made: a root, an issuing CA, a cross-certificate",
        run=on_host(import_certificate),
    )
    importing.add_argument("certificate", type=Path, metavar="PEM")
    for name, summary in MOVES.items():
        moving = steps.add(name, summary, run=on_host(move))
        moving.add_argument("authority", metavar="AUTHORITY", help="for example nodes-2")
        moving.add_argument("--reason", default="", help="kept in the audit")
        moving.add_argument(
            "--override", action="store_true", help="although not everybody has adopted; needs a --reason"
        )
        server_options(moving)


async def request(admin: Admin, args: Namespace) -> None:
    if args.out.exists():
        raise CliError(EXIT_USAGE, "file_in_use", f"cannot write {args.out}: it exists", "Nothing was made.")
    authority = admin.parts.authorities.next_id(args.ca)
    active = admin.parts.authorities.find(f"{args.ca}-1")
    mark = ""
    if active is not None and is_for_development(x509.load_der_x509_certificate(active.certificate_der)):
        mark = " (development)"
    common_name = f"{admin.settings.trust_domain} {args.ca} CA {authority.rpartition('-')[2]}{mark}"
    # A request that was lost is made again, for the key that there is.
    reference = next(iter(await _keys_of(admin, authority)), "") or await admin.parts.keys.generate(authority)
    der = await certificate_request(await admin.parts.keys.open(reference), common_name)
    args.out.write_bytes(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM))
    made = Requested(authority, reference, common_name, str(args.out))
    emit(made, args.json, lambda it: f"{fields(it)}\n\n{NEXT_IMPORT}")


async def import_certificate(admin: Admin, args: Namespace) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(args.certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise CliError(EXIT_USAGE, "certificate_unusable", f"cannot read {args.certificate}: {error}") from error
    der = certificate.public_bytes(Encoding.DER)
    roots = [row for row in admin.parts.authorities.rows() if row.ca == "root"]
    if any(_same_name(certificate, row) and row.certificate != der for row in roots):
        changed = await admin.parts.authorities.import_cross(admin.caller, der)
        made = Moved(_common_name(certificate), "cross-certificate", changed)
    elif certificate.subject == certificate.issuer:
        identifier = next((row.id for row in roots if row.certificate == der), admin.parts.authorities.next_id("root"))
        changed = await admin.parts.authorities.import_prepared(admin.caller, identifier, der)
        made = Moved(identifier, _state(admin, identifier), changed)
    else:
        identifier, reference = await _owner(admin, certificate)
        changed = await admin.parts.authorities.import_prepared(admin.caller, identifier, der, reference)
        made = Moved(identifier, _state(admin, identifier), changed)
    emit(made, args.json, fields)


async def _owner(admin: Admin, certificate: x509.Certificate) -> tuple[str, str]:
    """The authority whose key was made here for this certificate: its id and the key's reference."""
    der = certificate.public_bytes(Encoding.DER)
    known = next((row for row in admin.parts.authorities.rows() if row.certificate == der), None)
    if known is not None:
        return known.id, known.key
    for ca in ("nodes", "services"):
        identifier = admin.parts.authorities.next_id(ca)
        for reference, public_key in (await _keys_of(admin, identifier)).items():
            if public_key == certificate.public_key():
                return identifier, reference
    raise CliError(
        EXIT_REFUSED,
        "key_unknown",
        "this certificate is for a key that was not made here",
        "Make key and request with `cascade pki rotate request CLASS --out FILE` on this host.",
    )


async def _keys_of(admin: Admin, identifier: str) -> dict[str, ec.EllipticCurvePublicKey]:
    """The keys that were made for an authority, by reference; on the token first. Raises SignerUnavailable."""
    found = {}
    for reference in (f"{Pkcs11Keys.PREFIX}{identifier}", f"{FileKeys.PREFIX}{identifier}.key.pem"):
        try:
            found[reference] = (await admin.parts.keys.open(reference)).public_key
        except SignerUnavailable:
            raise
        except SignerError:
            continue  # none was made there
    return found


async def move(admin: Admin, args: Namespace) -> None:
    row = next((row for row in admin.parts.authorities.rows() if row.id == args.authority), None)
    if row is None:
        names = ", ".join(row.id for row in admin.parts.authorities.rows())
        raise CliError(EXIT_USAGE, "authority_unknown", f"there is no authority {args.authority!r}", names)
    if args.override and not args.reason.strip():
        raise CliError(EXIT_USAGE, "reason_missing", "an override needs a --reason: it is kept in the audit")
    if not args.override:
        await _gate(admin, args, row)
    reason = f"override: {args.reason}" if args.override else args.reason
    if args.step == "activate":
        changed = await admin.parts.authorities.activate(admin.caller, row.id, reason)
    elif args.step == "taint":
        changed = await admin.parts.authorities.taint(admin.caller, row.id, reason or "nobody needs it any more")
    else:
        changed = await admin.parts.authorities.revoke(admin.caller, row.id, reason or "nobody needs it any more")
    emit(Moved(row.id, _state(admin, row.id), changed), args.json, fields)


async def _gate(admin: Admin, args: Namespace, row: AuthorityRow) -> None:
    """Refuse a step that would cut nodes or services off. Raises CliError."""
    if row.state == _GOAL[args.step]:
        return
    if args.step == "activate":
        await _everybody_knows(args, row)
    elif row.ca == "root":
        below = [each.id for each in admin.parts.authorities.rows() if each.ca != "root" and _is_below(each, row)]
        if live := [each for each in below if _state(admin, each) in ("prepared", "active", "old")]:
            raise _still_needed(f"{', '.join(live)} stand below {row.id} and are believed")
    elif left := await admin.parts.stores.checker_reads.dependents(row.id, admin.now()):
        raise _still_needed(f"{left} certificates that {row.id} issued are in force, and nothing has replaced them")


async def _everybody_knows(args: Namespace, row: AuthorityRow) -> None:
    """Every node and service works by a published trust that has this authority. Raises CliError."""
    server = Server(args)
    bundle, _ = await asyncio.to_thread(server.trust)
    published = {"root": bundle.roots, "nodes": bundle.node_issuers, "services": bundle.service_issuers}[row.ca]
    if row.certificate not in published:
        place = "--add-root FILE" if row.ca == "root" else f"--add-issuer {row.ca}:FILE"
        raise CliError(
            EXIT_REFUSED,
            "not_published",
            f"refused: {row.id} is not in the published trust",
            f"`cascade trust sign {place}`, then `cascade trust publish`; or give --override and a --reason.",
        )
    adoption = await asyncio.to_thread(server.call, "GET", "/v1/trust/adoption", schemas.Adoption)
    if adoption.adopted < adoption.nodes:
        raise _refused(f"{adoption.adopted} of {adoption.nodes} nodes work by the published trust")
    for service in adoption.services:
        if service.trust_version is not None and service.trust_version < adoption.trust_version:
            raise _refused(f"{service.name} works by version {service.trust_version} of {adoption.trust_version}")


def _refused(text: str) -> CliError:
    return CliError(
        EXIT_REFUSED,
        "adoption_incomplete",
        f"refused: {text}",
        "Wait (`cascade trust adoption --missing` names the nodes), or give --override and a --reason.",
    )


def _still_needed(text: str) -> CliError:
    return CliError(
        EXIT_REFUSED,
        "still_needed",
        f"refused: {text}",
        "Wait until they have renewed (`cascade trust renew-devices`), or give --override and a --reason.",
    )


def _state(admin: Admin, identifier: str) -> str:
    return next((row.state for row in admin.parts.authorities.rows() if row.id == identifier), "")


def _is_below(row: AuthorityRow, root: AuthorityRow) -> bool:
    certificate = x509.load_der_x509_certificate(row.certificate)
    return certificate.issuer == x509.load_der_x509_certificate(root.certificate).subject


def _same_name(certificate: x509.Certificate, row: AuthorityRow) -> bool:
    return certificate.subject == x509.load_der_x509_certificate(row.certificate).subject


def _common_name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
