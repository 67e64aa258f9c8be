"""`cascade trust`: what is published, signed again offline, published, adopted; and device certificates renewed.

    show --export DIR   ->  sign --from DIR --out NEW (where the offline keys are; no network)  ->  publish NEW

`sign` shows what changes, with `--dry-run` before anything is signed, and checks everything before it writes. Of the
folder it believes what the holder's own key has signed; it decides nothing that Fabric does not check again.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from cloud.cli import published_trust
from cloud.cli.connection import Server, cache_directory, setting, trust_errors
from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.show import emit, pairs, table
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, read_passphrase
from cloud.fabric import schemas
from cloud.fabric.tuf.bootstrap import read_or_make_signer, read_signer
from cloud.fabric.tuf.checking import PublicationRefused, check_signed, read_metadata
from cloud.fabric.tuf.folder import TARGETS_FILE, Folder, FolderError, check_own, read_folder, write_folder
from cloud.fabric.tuf.offline import Authority, Changes, authorities, changed, der_of, differences
from cloud.fabric.tuf.repository import ROOT_LIFE, TARGETS_LIFE, MetadataFile, sign_root, sign_targets
from cloud.fabric.tuf.targets import TargetsError, check_content, read_content
from protocol.encoding import json_encode
from protocol.ids import IdError
from protocol.limits import REQUEST_BODY_BYTES_MAX
from protocol.messages.activation import PinError, parse_pin
from protocol.signed.trust import TARGETS

WARN_DAYS = 60
PAGE_ITEMS = 200


class Shown(msgspec.Struct, frozen=True):
    """What is published now, as verified under the pin."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime
    fabric_url: str
    breakwater_url: str
    authorities: tuple[Authority, ...]
    signing_keys: tuple[dict[str, str], ...]
    warnings: tuple[str, ...]


class Signed(msgspec.Struct, frozen=True):
    """What `sign` has made, or would make."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime
    changes: tuple[str, ...]
    out: str


def run(args: Namespace) -> None:
    """The commands of `cascade trust`. Raises CliError."""
    try:
        _COMMANDS[args.action](args)
    except PublicationRefused as error:
        raise CliError(EXIT_VERIFICATION, "trust_not_verified", f"cannot use this trust: {error}") from error
    except (TargetsError, IdError, FolderError, KeyFileError) as error:
        text = str(error)
        raise CliError(
            EXIT_USAGE, "trust_unusable", text if text.startswith("cannot") else f"cannot sign this: {text}"
        ) from error


def show(args: Namespace) -> None:
    folder = _published(args)
    if args.export is not None:
        write_folder(args.export, folder.roots, folder.targets.data, folder.files)
    emit(_shown(folder), args.json, _human_shown)


def sign(args: Namespace) -> None:
    folder = _published(args) if args.source.startswith("http://") else read_folder(Path(args.source))
    changes = _changes(args)
    if not (args.key or args.root_key) or (changes != Changes() and not (args.key or args.new_targets_key)):
        raise CliError(
            EXIT_USAGE,
            "key_missing",
            "cannot sign: --key signs the targets and their changes, --root-key the root",
            "Name the key file on its offline medium.",
        )
    if (args.new_targets_key or args.new_root_key) and not args.root_key:
        raise CliError(EXIT_USAGE, "key_missing", "cannot replace a key: that is signed by the root's, --root-key")
    now, old = utc_now(), folder.content
    new = changed(old, changes)
    check_content(new, old.bundle.trust_domain, now)
    lines = (*differences(old, new), *(f"+ a new key of {name}" for name in _replaced(args)))
    root_ends, targets_end = now + _days(args.root_days, ROOT_LIFE), now + _days(args.days, TARGETS_LIFE)
    if not args.dry_run:
        _sign_all(args, folder, new.encoded() if new != old else folder.files, root_ends, targets_end)
    made = _shown(read_folder(args.out)) if not args.dry_run else _shown(folder)
    signs_targets = bool(args.key or args.new_targets_key)
    result = Signed(
        targets_version=folder.targets.version + signs_targets,
        targets_expire_at=targets_end if signs_targets else made.targets_expire_at,
        root_version=folder.root.version + bool(args.root_key),
        root_expires_at=root_ends if args.root_key else made.root_expires_at,
        changes=lines,
        out="" if args.dry_run else str(args.out),
    )
    emit(result, args.json, _human_signed)


def _sign_all(
    args: Namespace, folder: Folder, files: dict[str, bytes], root_ends: datetime, targets_end: datetime
) -> None:
    """Sign, check the whole as Fabric will, and only then write."""
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


def publish(args: Namespace) -> None:
    folder = read_folder(args.folder)
    body = schemas.PublishTrust(
        roots=tuple(root.data for root in folder.roots),
        targets=folder.targets.data,
        contents=folder.files,
        override=args.override,
        reason=args.reason,
    )
    size = len(json_encode(body))
    if size > REQUEST_BODY_BYTES_MAX:
        raise CliError(
            EXIT_USAGE,
            "trust_too_large",
            f"cannot publish {args.folder}: {size} bytes in one request, {REQUEST_BODY_BYTES_MAX} are taken",
            "Drop roots and issuers that nobody works by any more.",
        )
    emit(Server(args).call("POST", "/v1/trust/targets", schemas.Trust, body), args.json, _human_fields)


def adoption(args: Namespace) -> None:
    server = Server(args)
    if not (args.missing or args.issuer):
        emit(server.call("GET", "/v1/trust/adoption", schemas.Adoption), args.json, _human_adoption)
        return
    items: list[schemas.NodeAdoption] = []
    cursor = ""
    while len(items) < args.limit:
        asked = {"issuer": args.issuer, "cursor": cursor, "limit": str(min(PAGE_ITEMS, args.limit - len(items)))}
        query = urlencode({name: value for name, value in asked.items() if value})
        page = server.call("GET", f"/v1/trust/adoption/nodes?{query}", schemas.Page[schemas.NodeAdoption])
        items += page.items
        cursor = page.next_cursor
        if not cursor:
            break
    emit(tuple(items), args.json, _human_nodes)


def renew_devices(args: Namespace) -> None:
    body = schemas.RenewDevices(after=_time(args.after), reason=args.reason, spread_seconds=args.spread)
    order = Server(args).call("POST", "/v1/trust/renew-devices", schemas.RenewalOrder, body)
    emit(order, args.json, _human_fields)


def _published(args: Namespace) -> Folder:
    """What is published, fetched now and verified under the pin; of `sign --from URL` that URL."""
    source = getattr(args, "source", "")
    url = (source or setting(args.url, "CASCADE_URL", "--url")).rstrip("/")
    try:
        pin = parse_pin(setting(args.trust, "CASCADE_TRUST", "--trust"))
    except PinError as error:
        raise CliError(EXIT_USAGE, "trust_pin_invalid", f"cannot use the trust pin: {error}") from error
    with trust_errors():
        files = published_trust.read(url, pin, cache_directory(pin), utc_now, judge_dates=not args.accept_expired)
    roots = [data for path, data in files.items() if path.startswith("metadata/root_history/")]
    newest = max(roots, key=lambda data: int(read_metadata(data, Root).signed.version))
    root = MetadataFile(role="root", version=read_metadata(newest, Root).signed.version, data=newest)
    targets = files[f"metadata/{TARGETS_FILE}"]
    version = read_metadata(targets, Targets).signed.version
    contents = {name: files[f"targets/{name}"] for name in TARGETS}
    return Folder((root,), MetadataFile(role="targets", version=version, data=targets), contents)


def _shown(folder: Folder) -> Shown:
    targets, root = read_metadata(folder.targets.data, Targets).signed, read_metadata(folder.root.data, Root).signed
    content, now = read_content(folder.files), utc_now()
    ends = [("the targets", targets.expires), (f"root {root.version}", root.expires)]
    ends += [(f"{entry.place} {entry.key_id}", entry.not_after) for entry in authorities(content.bundle)]
    return Shown(
        targets_version=targets.version,
        targets_expire_at=targets.expires,
        root_version=root.version,
        root_expires_at=root.expires,
        fabric_url=content.urls.fabric,
        breakwater_url=content.urls.breakwater,
        authorities=tuple(authorities(content.bundle)),
        signing_keys=tuple(
            {"kid": key.kid, "signs": " ".join(key.typs), "until": key.not_after.isoformat()}
            for key in content.keys.keys
        ),
        warnings=tuple(_warning(what, end, now) for what, end in ends if end - now < timedelta(days=WARN_DAYS)),
    )


def _warning(what: str, end: datetime, now: datetime) -> str:
    return f"{what} {'ended' if end <= now else 'ends'} at {end:%Y-%m-%d %H:%M} UTC"


def _changes(args: Namespace) -> Changes:
    added: dict[str, list[bytes]] = {"nodes": [], "services": []}
    for text in args.add_issuer:
        kind, _, path = text.partition(":")
        if kind not in added or not path:
            raise CliError(EXIT_USAGE, "issuer_invalid", f"cannot read --add-issuer {text}: nodes:PEM or services:PEM")
        added[kind].append(_der(Path(path)))
    return Changes(
        add_roots=tuple(_der(path) for path in args.add_root),
        add_nodes=tuple(added["nodes"]),
        add_services=tuple(added["services"]),
        drop_roots=tuple(args.drop_root),
        drop_issuers=tuple(args.drop_issuer),
        fabric_url=args.fabric_url,
        breakwater_url=args.breakwater_url,
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
        raise CliError(EXIT_USAGE, "days_invalid", f"cannot sign for {days} days: up to {ROOT_LIFE.days}")
    return timedelta(days=days)


def _time(text: str) -> datetime | None:
    if text == "now":
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CliError(EXIT_USAGE, "time_invalid", f"cannot read --after {text}: RFC 3339, or now") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _human_fields(value: Any) -> str:
    return pairs([(name.replace("_", " "), getattr(value, name)) for name in value.__struct_fields__])


def _rows(headings: Sequence[str], items: Sequence[Any], *fields: str) -> str:
    return table(headings, [[getattr(item, field) for field in fields] for item in items])


def _human_shown(shown: Shown) -> str:
    names = ("targets_version", "targets_expire_at", "root_version", "root_expires_at", "fabric_url", "breakwater_url")
    head = pairs([(name.replace("_", " "), getattr(shown, name)) for name in names])
    columns = ("place", "key_id", "subject", "not_before", "not_after")
    cas = _rows(("place", "key id", "subject", "from", "until"), shown.authorities, *columns)
    keys = table(("signing key", "signs", "until"), [list(key.values()) for key in shown.signing_keys])
    warnings = "".join(f"\n\nWarning: {text}: `cascade trust sign`" for text in shown.warnings)
    return f"{head}\n\n{cas}\n\n{keys}{warnings}"


def _human_signed(signed: Signed) -> str:
    names = ("targets_version", "targets_expire_at", "root_version", "root_expires_at")
    head = pairs([(name.replace("_", " "), getattr(signed, name)) for name in names])
    lines = "\n".join(signed.changes) or "(only signed again)"
    end = f"cascade trust publish {signed.out}" if signed.out else "nothing was signed or written (--dry-run)"
    return f"{head}\n\n{lines}\n\nNext: {end}"


def _human_adoption(shown: schemas.Adoption) -> str:
    head = pairs([("trust version", shown.trust_version), ("adopted", f"{shown.adopted} of {shown.nodes} nodes")])
    columns = ("key_id", "subject", "published", "nodes", "sessions_until")
    issuers = _rows(("device issuer", "subject", "published", "nodes", "sessions until"), shown.issuers, *columns)
    services = _rows(("service", "issuer", "published"), shown.services, "name", "issuer", "published")
    renewal = "" if shown.renewal is None else f"\n\nrenewal of device certificates\n{_human_fields(shown.renewal)}"
    return f"{head}\n\n{issuers}\n\n{services}{renewal}"


def _human_nodes(items: Sequence[schemas.NodeAdoption]) -> str:
    columns = ("node", "tenant", "trust_version", "device_issuer", "seen_at")
    return _rows(("node", "tenant", "trust version", "device issuer", "seen"), items, *columns)


_COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "show": show,
    "sign": sign,
    "publish": publish,
    "adoption": adoption,
    "renew-devices": renew_devices,
}
