"""Command: `cascade trust publish`, which sends the trust that `cascade trust sign` wrote to Fabric."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import changing_path, dry_run_option
from cloud.cli.show import emit, fields
from cloud.cli.trust.commands import accept_expired_option
from cloud.cli.trust.published import folder_errors
from cloud.fabric import schemas
from cloud.fabric.tuf.folder import read_folder
from protocol.encoding import json_encode
from protocol.limits import REQUEST_BODY_BYTES_MAX


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Sends signed trust to Fabric. Fabric checks it again, then publishes it. Fabric refuses to drop a root or an "
        "issuer while nodes or services still need it; `cascade trust adoption` shows them."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that `cascade trust sign --out` wrote")
    parser.add_argument(
        "--override",
        action="store_true",
        help="drop it anyway: nodes and services that still need it are cut off; needs a --reason",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit")
    accept_expired_option(parser)
    dry_run_option(parser)
    parser.set_defaults(run=publish)


@folder_errors()
def publish(args: Namespace) -> None:
    """Send a signed folder to Fabric, and print the published versions. Raises CliError."""
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
            f"cannot publish {args.folder}: the request has {size} bytes, Fabric accepts {REQUEST_BODY_BYTES_MAX}",
            "Drop roots and issuers that no node and no service needs any more.",
        )
    emit(Server(args).call("POST", changing_path("/v1/trust/targets", args), schemas.Trust, body), args.json, fields)
