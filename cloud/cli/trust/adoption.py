"""Command: `cascade trust adoption`, which counts the nodes and services that use the published trust."""

from argparse import ArgumentParser, Namespace

from cloud.cli.connection import Server
from cloud.cli.show import columns, emit, fields, pairs
from cloud.cli.trust.commands import accept_expired_option
from cloud.fabric import schemas


def add_options(parser: ArgumentParser) -> None:
    parser.description = (
        "Shows how many nodes have reported that they use the published trust version, which CA issued their device "
        "certificates, and the progress of a renewal order. Counted are nodes with a confirmed, open generation."
    )
    parser.add_argument(
        "--missing", action="store_true", help="list the nodes that have not reported the published version"
    )
    parser.add_argument(
        "--issuer",
        default="",
        metavar="KEYID",
        help="list the nodes whose device certificate is from the CA with this key id; `none` lists the nodes that "
        "have not shown a device certificate yet",
    )
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="list at most N nodes (default 1000)")
    accept_expired_option(parser)
    parser.set_defaults(run=adoption)


def adoption(args: Namespace) -> None:
    """Print the counts, or with `--missing` or `--issuer` the nodes. Raises CliError."""
    server = Server(args)
    if not (args.missing or args.issuer):
        emit(server.call("GET", "/v1/trust/adoption", schemas.Adoption), args.json, _human)
        return
    page = schemas.Page[schemas.NodeAdoption]
    nodes = server.pages("/v1/trust/adoption/nodes", page, limit=args.limit, issuer=args.issuer)
    names = ("node", "tenant", "trust_version", "device_issuer", "seen_at")
    emit(nodes, args.json, columns(("node", "tenant", "trust version", "device issuer", "seen"), *names))


def _human(shown: schemas.Adoption) -> str:
    head = pairs([("trust version", shown.trust_version), ("adopted", f"{shown.adopted} of {shown.nodes} nodes")])
    names = ("key_id", "subject", "published", "nodes", "sessions_until")
    issuers = columns(("device issuer", "subject", "published", "nodes", "sessions until"), *names)(shown.issuers)
    services = columns(("service", "issuer", "published"), "name", "issuer", "published")(shown.services)
    renewal = "" if shown.renewal is None else f"\n\nrenewal of device certificates\n{fields(shown.renewal)}"
    return f"{head}\n\n{issuers}\n\n{services}{renewal}"
