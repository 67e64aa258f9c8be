"""Command: `cascade trust sign`, which changes the published trust or extends its validity, with the offline keys.

The command shows every change. `--dry-run` shows the changes without signing. Everything is checked before it is
written. The command accepts a folder only if the signing key has also signed the folder's present targets. Fabric
repeats all checks when the result is published.
"""

from argparse import ArgumentParser, Namespace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner

from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.show import emit, pairs
from cloud.cli.trust.commands import accept_expired_option
from cloud.cli.trust.published import describe, fetch_folder, folder_errors
from cloud.clock import utc_now
from cloud.crypto.keyfile import read_passphrase
from cloud.fabric.tuf.bootstrap import read_or_make_signer, read_signer
from cloud.fabric.tuf.checking import PublicationRefused, check_signed
from cloud.fabric.tuf.folder import Folder, check_own, read_folder, write_folder
from cloud.fabric.tuf.offline import Changes, changed, der_of, differences
from cloud.fabric.tuf.repository import ROOT_LIFE, TARGETS_LIFE, MetadataFile, sign_root, sign_targets
from cloud.fabric.tuf.targets import TargetsError, check_content


class Signed(msgspec.Struct, frozen=True):
    """Report of `sign`: the result, or with `--dry-run` the result that it would have. `out` is then empty."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime
    changes: tuple[str, ...]
    out: str


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Shows every change, checks the result as Fabric will, and writes files for `cascade trust publish`. With "
        "--from DIR it needs no network. Without a change it signs the same content again, which extends its validity. "
        "docs/rotation.md has the steps of each change."
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="DIR|URL",
        help="the trust to start from: a folder of `cascade trust show --export`, or the http:// URL of the repository",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    parser.add_argument(
        "--passphrase-file", type=Path, required=True, metavar="FILE", help="file with the offline keys' passphrase"
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="sign the targets with this key: offline/tuf-targets.key.pem"
    )
    parser.add_argument(
        "--days", type=float, metavar="DAYS", help="days until the signed targets expire, at most 3652 (default 365)"
    )
    _change_options(parser)
    _root_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show the changes only; no key is read and nothing is written"
    )
    accept_expired_option(parser)
    parser.set_defaults(run=sign)


def _change_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--add-root", type=Path, action="append", default=[], metavar="PEM", help="add this root CA; repeat for more"
    )
    parser.add_argument(
        "--drop-root",
        action="append",
        default=[],
        metavar="KEYID",
        help="drop the root CA with this key id; repeat for more",
    )
    parser.add_argument(
        "--add-issuer",
        action="append",
        default=[],
        metavar="CLASS:PEM",
        help="add this issuing CA to the class `nodes` or `services`, for example nodes:nodes-2.pem; repeat for more",
    )
    parser.add_argument(
        "--drop-issuer",
        action="append",
        default=[],
        metavar="KEYID",
        help="drop the issuing CA with this key id (`cascade trust show` prints the key ids); repeat for more",
    )
    parser.add_argument("--fabric-url", default="", metavar="URL", help="new https:// URL of Fabric")
    parser.add_argument("--breakwater-url", default="", metavar="URL", help="new https:// URL of Breakwater")
    parser.add_argument(
        "--repository-url",
        default="",
        metavar="URL",
        help="new http:// URL of the trust repository, for nodes (default: the published one, or the URL of --from)",
    )


def _root_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--root-key", type=Path, metavar="FILE", help="sign the next TUF root with this key: offline/tuf-root.key.pem"
    )
    parser.add_argument(
        "--root-days", type=float, metavar="DAYS", help="days until the signed root expires (at most and default 3652)"
    )
    parser.add_argument(
        "--new-targets-key",
        type=Path,
        metavar="FILE",
        help="replace the targets key by this key, which is made if FILE is missing; needs --root-key",
    )
    parser.add_argument(
        "--new-root-key",
        type=Path,
        metavar="FILE",
        help="replace the root key by this key, which is made if FILE is missing; needs --root-key",
    )


@folder_errors()
def sign(args: Namespace) -> None:
    """Sign the changes that the options name, write the result to `--out`, and print it. Raises CliError."""
    folder = fetch_folder(args, args.source) if args.source.startswith("http://") else read_folder(Path(args.source))
    changes = _changes(args)
    if not (args.key or args.root_key) or (changes != Changes() and not (args.key or args.new_targets_key)):
        raise CliError(
            EXIT_USAGE,
            "key_missing",
            "cannot sign: the key is missing (--key signs the targets and their changes, --root-key the root)",
            "Name the key file on its offline medium.",
        )
    if (args.new_targets_key or args.new_root_key) and not args.root_key:
        raise CliError(
            EXIT_USAGE,
            "key_missing",
            "cannot replace a key: --root-key is missing",
            "The root's key signs every replacement of a key. Name it with --root-key.",
        )
    now, old = utc_now(), folder.content
    signs_targets = bool(args.key or args.new_targets_key)
    if signs_targets and args.source.startswith("http://") and not (changes.repository_url or old.urls.repository):
        changes = msgspec.structs.replace(changes, repository_url=args.source.rstrip("/"))
    new = changed(old, changes)
    check_content(new, old.bundle.trust_domain, now)
    lines = (*differences(old, new), *(f"+ a new key of {name}" for name in _replaced(args)))
    root_ends, targets_end = now + _days(args.root_days, ROOT_LIFE), now + _days(args.days, TARGETS_LIFE)
    if not args.dry_run:
        _sign_all(args, folder, new.encoded() if new != old else folder.files, root_ends, targets_end)
    made = describe(read_folder(args.out)) if not args.dry_run else describe(folder)
    result = Signed(
        targets_version=folder.targets.version + signs_targets,
        targets_expire_at=targets_end if signs_targets else made.targets_expire_at,
        root_version=folder.root.version + bool(args.root_key),
        root_expires_at=root_ends if args.root_key else made.root_expires_at,
        changes=lines,
        out="" if args.dry_run else str(args.out),
    )
    emit(result, args.json, _human)


def _sign_all(
    args: Namespace, folder: Folder, files: dict[str, bytes], root_ends: datetime, targets_end: datetime
) -> None:
    """Sign, check the result as Fabric will, and only then write it to `--out`."""
    passphrase = read_passphrase(args.passphrase_file)
    new_targets = _signer(args.new_targets_key, passphrase, make=True)
    new_root = _signer(args.new_root_key, passphrase, make=True)
    roots: tuple[MetadataFile, ...] = ()
    if root_key := _signer(args.root_key, passphrase):
        try:
            roots = (sign_root(root_ends, folder.root, root_key, new_root=new_root, new_targets=new_targets),)
        except ValueError as error:
            raise PublicationRefused(str(error)) from error
    targets = b""
    if key := new_targets or _signer(args.key, passphrase):
        if root_key is None:
            check_own(folder.targets, key)
        targets = sign_targets(targets_end, folder.targets.version + 1, key, files).data
    offered = tuple(root.data for root in roots)
    check_signed(folder.root, folder.targets, offered, targets, files, utc_now())
    write_folder(args.out, (*folder.roots, *roots), targets or folder.targets.data, files)


def _signer(path: Path | None, passphrase: bytes, *, make: bool = False) -> CryptoSigner | None:
    if path is None:
        return None
    return read_or_make_signer(path, passphrase) if make else read_signer(path, passphrase)


def _changes(args: Namespace) -> Changes:
    added: dict[str, list[bytes]] = {"nodes": [], "services": []}
    for text in args.add_issuer:
        kind, _, path = text.partition(":")
        if kind not in added or not path:
            raise CliError(
                EXIT_USAGE, "issuer_invalid", f"cannot read --add-issuer {text}: it is not nodes:PEM or services:PEM"
            )
        added[kind].append(_der(Path(path)))
    return Changes(
        add_roots=tuple(_der(path) for path in args.add_root),
        add_nodes=tuple(added["nodes"]),
        add_services=tuple(added["services"]),
        drop_roots=tuple(args.drop_root),
        drop_issuers=tuple(args.drop_issuer),
        fabric_url=args.fabric_url,
        breakwater_url=args.breakwater_url,
        repository_url=args.repository_url,
    )


def _der(path: Path) -> bytes:
    try:
        return der_of(path.read_bytes())
    except (OSError, TargetsError) as error:
        raise CliError(EXIT_USAGE, "file_unreadable", f"cannot read {path}: {error}") from error


def _replaced(args: Namespace) -> list[str]:
    return [name for name in ("root", "targets") if getattr(args, f"new_{name}_key") is not None]


def _days(days: float | None, default: timedelta) -> timedelta:
    if days is None:
        return default
    if not 0 < days <= ROOT_LIFE.days:
        raise CliError(
            EXIT_USAGE, "days_invalid", f"cannot sign for {days} days: it is not between 0 and {ROOT_LIFE.days}"
        )
    return timedelta(days=days)


def _human(signed: Signed) -> str:
    names = ("targets_version", "targets_expire_at", "root_version", "root_expires_at")
    head = pairs([(name.replace("_", " "), getattr(signed, name)) for name in names])
    lines = "\n".join(signed.changes) or "(no change, only signed again)"
    end = f"Next: cascade trust publish {signed.out}" if signed.out else "Nothing was signed or written (--dry-run)."
    return f"{head}\n\n{lines}\n\n{end}"
