"""Command: `cascade trust show`, which shows the published trust and exports it for signing."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cloud.cli.show import columns, emit, pairs, table
from cloud.cli.trust.commands import accept_expired_option
from cloud.cli.trust.published import WARN_DAYS, Shown, describe, fetch_folder, folder_errors
from cloud.fabric.tuf.folder import write_folder


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Fetches the published trust, verifies it under the trust pin, and shows versions, ends, roots, issuers and "
        f"signing keys. Warns about what ends within {WARN_DAYS} days."
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="also write it to this folder, for `cascade trust sign --from`"
    )
    accept_expired_option(parser)
    parser.set_defaults(run=show)


@folder_errors()
def show(args: Namespace) -> None:
    """Print the published trust, and write it to `--export`. Raises CliError."""
    folder = fetch_folder(args)
    if args.export is not None:
        write_folder(args.export, folder.roots, folder.targets.data, folder.files)
    emit(describe(folder), args.json, _human)


def _human(shown: Shown) -> str:
    names = ("targets_version", "targets_expire_at", "root_version", "root_expires_at", "fabric_url", "breakwater_url")
    head = pairs([(name.replace("_", " "), getattr(shown, name)) for name in names])
    parts = ("place", "key_id", "subject", "not_before", "not_after")
    cas = columns(("place", "key id", "subject", "from", "until"), *parts)(shown.authorities)
    keys = table(("signing key", "signs", "until"), [list(key.values()) for key in shown.signing_keys])
    warnings = "".join(f"\n\nWarning: {text}. Renew with `cascade trust sign`." for text in shown.warnings)
    return f"{head}\n\n{cas}\n\n{keys}{warnings}"
