"""Command: `cascade pki rotate`, which moves an authority from state to state. A gate guards each move.

    prepared -> active -> old -> tainted -> revoked

Activation needs adoption: every node and service must use a published trust that contains the authority. Fabric counts
adoption from the nodes' reports. Tainting and revoking need that no valid certificate depends on the authority. The
issuer's records tell how many do. An operator can override a gate with a reason, which the audit records. `cascade
trust` publishes the authority, because this needs the offline keys.
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
from cloud.breakwater.revocation.crl_shards import root_crl_path
from cloud.breakwater.store.authorities import AuthorityRow
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_REFUSED, EXIT_USAGE, CliError
from cloud.cli.options import DIR_HELP, Commands, repeated_options, server_options
from cloud.cli.owner import INSTALLATION
from cloud.cli.pki.host import on_host
from cloud.cli.show import emit, fields
from cloud.fabric import schemas

MOVES = {
    "activate": "issue from a prepared authority; the active authority of its class becomes old",
    "taint": "stop trusting an old authority; it still signs its CRLs",
    "revoke": "end an authority; it signs nothing any more",
}
"""The steps that change the state of an authority: name -> summary."""
_GOAL = {"activate": "active", "taint": "tainted", "revoke": "revoked"}
NOT_NEEDED = "no longer needed"
"""The reason in the audit of a step that no gate refused, if the operator gives none."""
NEXT_IMPORT = (
    "Next: sign this request in a ceremony (docs/ceremonies.md) with\n"
    'crl_url = "{crl_url}"\n'
    "If another root than the active one signs, write its id into that address.\n"
    "Then: cascade pki rotate import ANSWER.pem --dir DIR"
)


class Requested(msgspec.Struct, frozen=True):
    """A CA key that was made, and the file with the request for its certificate."""

    authority: str
    key: str
    common_name: str
    file: str
    crl_url: str
    """The address of the active root's CRL, for the ceremony file."""


class Moved(msgspec.Struct, frozen=True):
    """An authority and its state after the command. `changed` is False if the authority had this state before."""

    authority: str
    state: str
    changed: bool


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "The steps in order: request, a ceremony, import, `cascade trust sign` and `cascade trust publish`, wait for "
        "adoption, activate, wait for renewals, taint, revoke. docs/rotation.md has every command."
    )
    parser.add_argument("--dir", type=Path, default=INSTALLATION, metavar="DIR", help=DIR_HELP)
    steps = Commands(parser, "step", repeated_options)
    requesting = steps.add(
        "request", "make the next key of a class and a request for its certificate", run=on_host(request)
    )
    requesting.add_argument("ca", choices=["nodes", "services"], metavar="CLASS", help="class: nodes or services")
    requesting.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="PKCS#10 request to write (PEM); must not exist"
    )
    importing = steps.add(
        "import",
        "import a root, an issuing CA or a cross-certificate that a ceremony made",
        run=on_host(import_certificate),
    )
    importing.add_argument("certificate", type=Path, metavar="PEM", help="file with the certificate")
    for name, summary in MOVES.items():
        moving = steps.add(name, summary, run=on_host(move))
        moving.add_argument("authority", metavar="AUTHORITY", help="id of the authority, for example nodes-2")
        moving.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit")
        moving.add_argument(
            "--override",
            action="store_true",
            help="skip the gate: nodes or services that still need the old trust are cut off; needs a --reason",
        )
        server_options(moving)


async def request(admin: Admin, args: Namespace) -> None:
    """Make the next key of a class, and write the request for its certificate. Raises CliError."""
    if args.out.exists():
        raise CliError(
            EXIT_USAGE,
            "file_in_use",
            f"cannot write {args.out}: the file exists already",
            "Name another file. No key was made.",
        )
    authority = admin.parts.authorities.next_id(args.ca)
    active = admin.parts.authorities.find(f"{args.ca}-1")
    mark = ""
    if active is not None and is_for_development(x509.load_der_x509_certificate(active.certificate_der)):
        mark = " (development)"
    common_name = f"{admin.settings.trust_domain} {args.ca} CA {authority.rpartition('-')[2]}{mark}"
    # If the key exists because an earlier request was lost, the new request is for the same key.
    reference = next(iter(await _keys_of(admin, authority)), "") or await admin.parts.keys.generate(authority)
    der = await certificate_request(await admin.parts.keys.open(reference), common_name)
    args.out.write_bytes(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM))
    root = next(row.id for row in admin.parts.authorities.rows() if row.ca == "root" and row.state == "active")
    crl_url = admin.settings.pki_url + root_crl_path(root)
    made = Requested(authority, reference, common_name, str(args.out), crl_url)
    emit(made, args.json, lambda it: f"{fields(it)}\n\n{NEXT_IMPORT.format(crl_url=crl_url)}")


async def import_certificate(admin: Admin, args: Namespace) -> None:
    """Import a certificate. A repeat changes nothing.

    A certificate that names a known root, but is not the root's own certificate, is a cross-certificate. Otherwise a
    self-issued certificate is a new root, and any other certificate is an issuing CA. Raises CliError.
    """
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
    """Return the id of the authority that this certificate is for, and the reference of its key on this host.

    Raises CliError (`key_unknown`) when the certificate's key was not made on this host.
    """
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
        "cannot import this certificate: its key was not made on this host",
        "Make the key and the request with `cascade pki rotate request CLASS --out FILE` on this host.",
    )


async def _keys_of(admin: Admin, identifier: str) -> dict[str, ec.EllipticCurvePublicKey]:
    """Return the keys that were made for an authority, by reference. A key on the token comes first.

    Raises SignerUnavailable.
    """
    found = {}
    for reference in (f"{Pkcs11Keys.PREFIX}{identifier}", f"{FileKeys.PREFIX}{identifier}.key.pem"):
        try:
            found[reference] = (await admin.parts.keys.open(reference)).public_key
        except SignerUnavailable:
            raise
        except SignerError:
            continue  # there is no key under this reference
    return found


async def move(admin: Admin, args: Namespace) -> None:
    """Carry out a step of `MOVES`, after its gate unless `--override` is given. Raises CliError."""
    row = next((row for row in admin.parts.authorities.rows() if row.id == args.authority), None)
    if row is None:
        names = ", ".join(row.id for row in admin.parts.authorities.rows())
        raise CliError(
            EXIT_USAGE,
            "authority_unknown",
            f"cannot {args.step} {args.authority!r}: there is no authority of this id",
            f"The authorities are {names}.",
        )
    if args.override and not args.reason.strip():
        raise CliError(
            EXIT_USAGE,
            "reason_missing",
            f"cannot {args.step} {row.id} with --override: --reason is missing",
            "Add a --reason. The audit records it.",
        )
    if not args.override:
        await _gate(admin, args, row)
    reason = f"override: {args.reason}" if args.override else args.reason
    if args.step == "activate":
        changed = await admin.parts.authorities.activate(admin.caller, row.id, reason)
    elif args.step == "taint":
        changed = await admin.parts.authorities.taint(admin.caller, row.id, reason or NOT_NEEDED)
    else:
        changed = await admin.parts.authorities.revoke(admin.caller, row.id, reason or NOT_NEEDED)
    emit(Moved(row.id, _state(admin, row.id), changed), args.json, fields)


async def _gate(admin: Admin, args: Namespace, row: AuthorityRow) -> None:
    """Refuse a step that would cut nodes or services off from the cloud. Raises CliError."""
    if row.state == _GOAL[args.step]:
        return
    if args.step == "activate":
        await _check_adopted(args, row)
    elif row.ca == "root":
        below = [each.id for each in admin.parts.authorities.rows() if each.ca != "root" and _is_below(each, row)]
        if live := [each for each in below if _state(admin, each) in ("prepared", "active", "old")]:
            raise _still_needed(args, row, f"it has signed {', '.join(live)}, and these are still trusted")
    elif left := await admin.parts.stores.checker_reads.dependents(row.id, admin.now()):
        raise _still_needed(args, row, f"{left} certificates that it issued are valid and not replaced")


async def _check_adopted(args: Namespace, row: AuthorityRow) -> None:
    """Check that every node and service uses a published trust that contains this authority. Raises CliError."""
    server = Server(args)
    bundle, _ = await asyncio.to_thread(server.trust)
    published = {"root": bundle.roots, "nodes": bundle.node_issuers, "services": bundle.service_issuers}[row.ca]
    if row.certificate not in published:
        place = "--add-root FILE" if row.ca == "root" else f"--add-issuer {row.ca}:FILE"
        raise CliError(
            EXIT_REFUSED,
            "not_published",
            f"cannot activate {row.id}: the published trust does not contain it",
            f"Run `cascade trust sign {place}`, then `cascade trust publish`. Or give --override and a --reason.",
        )
    adoption = await asyncio.to_thread(server.call, "GET", "/v1/trust/adoption", schemas.Adoption)
    if adoption.adopted < adoption.nodes:
        raise _not_adopted(row, f"{adoption.adopted} of {adoption.nodes} nodes use the published trust")
    for service in adoption.services:
        if service.trust_version is not None and service.trust_version < adoption.trust_version:
            text = f"{service.name} uses trust version {service.trust_version}, published is {adoption.trust_version}"
            raise _not_adopted(row, text)


def _not_adopted(row: AuthorityRow, cause: str) -> CliError:
    return CliError(
        EXIT_REFUSED,
        "adoption_incomplete",
        f"cannot activate {row.id}: {cause}",
        "Wait for the others (`cascade trust adoption --missing` names the nodes), or give --override and a --reason.",
    )


def _still_needed(args: Namespace, row: AuthorityRow, cause: str) -> CliError:
    return CliError(
        EXIT_REFUSED,
        "still_needed",
        f"cannot {args.step} {row.id}: {cause}",
        "Wait until they are replaced (`cascade trust renew-devices` orders it), or give --override and a --reason.",
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
