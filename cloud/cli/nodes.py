"""Command group: `cascade node`, which shows nodes and changes their standing."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import msgspec

from cloud.cli.arguments import id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.errors import EXIT_USAGE, CliError
from cloud.cli.options import Commands, changing_path, dry_run_option, json_option, server_options
from cloud.cli.restored import holds, rebuild
from cloud.cli.show import columns, emit, fields, pairs
from cloud.fabric import schemas
from cloud.fabric.bodies.clones import CloneCase, SettleClone

CHANGES = {
    "suspend": "suspend the node's licence until `resume`; nothing is deleted",
    "resume": "end a suspension; the node gets a new lease",
    "revoke": "end the node's licence for good; its seat becomes free once its last lease has terminated",
    "release": "revoke the node and free its seat at once",
}
"""The changes of a node's standing: name -> summary. The name is the command's action and the last part of the path."""
READMISSION = "Only an activation code made with `cascade code create --readmit NODE` brings a revoked node back."
"""A sentence for the pages of the changes that revoke."""


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    listing = actions.add("list", "list nodes", run=list_all)
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only nodes of this tenant (id)")
    holds.add_filters(listing)
    showing = actions.add("show", "show a node and its generations", run=show)
    showing.add_argument("node", metavar="NODE", help="id of the node")
    accepting = actions.add(
        "accept-pcrs",
        "accept the PCR values of a node's newest quote",
        "Later quotes are compared with these values. `cascade node show NODE` shows what changed. Changed values are "
        "usual after an update of the firmware, or a change of its settings.",
        run=accept_pcrs,
    )
    accepting.add_argument("node", metavar="NODE", help="id of the node")
    cloning = actions.add(
        "clones",
        "list the nodes of which a clone is suspected, with the evidence of each holder",
        "A node's key is in one TPM. If two machines use it, the machine was copied together with its virtual TPM. "
        "`cascade node settle` keeps one of them. With the id of a node, shows its holders also without a suspicion.",
        run=clones,
    )
    cloning.add_argument(
        "object", metavar="TENANT|NODE", nargs="?", default="", help="only nodes of this tenant, or only this node (id)"
    )
    settling = actions.add(
        "settle",
        "keep one of the machines that use a node's key",
        "The machine that is kept gets an ordinary lease. Every other one gets a signed suspension at its next session. "
        "It needs a TPM of its own and an activation code. Another machine can be kept later.",
        run=settle,
    )
    settling.add_argument("node", metavar="NODE", help="id of the node")
    settling.add_argument(
        "--keep",
        required=True,
        metavar="EVIDENCE",
        help="id of the evidence of the machine to keep, from `clones` (8 hex digits)",
    )
    holds.add_actions(actions)
    rebuild.add_options(actions.add("rebuild", "bring nodes back after the loss of the database"))
    for name, summary in CHANGES.items():
        text = f"{summary.capitalize()}. {READMISSION}" if name in ("revoke", "release") else ""
        changing = actions.add(name, summary, text, run=change)
        dry_run_option(changing)
        changing.add_argument("node", metavar="NODE", help="id of the node")
        changing.add_argument(
            "--reason",
            default="",
            metavar="TEXT",
            help="recorded in the audit; the reason of a suspension is also sent to the node",
        )


def list_all(args: Namespace) -> None:
    """Print all nodes, those of a tenant, or those that wait after a restore. Raises CliError."""
    if args.waiting:
        holds.list_waiting(args)
        return
    nodes = Server(args).pages("/v1/nodes", schemas.Page[schemas.Node], tenant=tenant_filter(args.tenant))
    headings = ("id", "standing", "tier", "generation", "seat", "lease until", "closing", "development", "notice")
    names = ("id", "standing", "tier", "generation", "seat_held", "lease_until", "closing", "development", "notice")
    emit(nodes, args.json, columns(headings, *names))


def show(args: Namespace) -> None:
    """Print a node and its generations. Raises CliError."""
    server = Server(args)
    emit(server.call("GET", f"/v1/nodes/{id_argument('node', args.node)}", schemas.NodeDetail), args.json, _human)


def _human(detail: schemas.NodeDetail) -> str:
    headings = ("generation", "state", "statement", "seq", "issued", "terminates", "certificate until", "reads lease")
    names = (
        "number",
        "state",
        "statement",
        "seq",
        "issued_at",
        "terminate_at",
        "certificate_not_after",
        "lease_version",
    )
    shown = f"{_human_node(detail.node)}\n\n{columns(headings, *names)(detail.generations)}"
    if detail.receipt_outstanding_since is not None:
        waits = pairs([("receipt outstanding since", detail.receipt_outstanding_since)])
        shown = (
            f"{shown}\n\n{waits}\nThe answer to the node's last request in a file: see `cascade airgap list --node`."
        )
    if detail.repairs is not None:
        shown += f"\n\nautomatic repairs after a restore from a backup\n{fields(detail.repairs)}"
    current = next((each for each in detail.generations if each.number == detail.node.generation), None)
    if current is None:
        return shown
    compared = "not compared yet" if current.drift is None else f"compared with the activation\n{fields(current.drift)}"
    return f"{shown}\n\nfingerprint: {compared}\n\nPCRs: {_pcrs(current)}"


def _human_node(node: schemas.Node) -> str:
    """The node, one field a line. The NV index is in hex, as `cascadia status` shows it."""
    rows = [(name.replace("_", " "), getattr(node, name)) for name in node.__struct_fields__]
    index = f"{node.floor_index:#010x}" if node.floor_index else ""
    return pairs([(name, index if name == "floor index" else value) for name, value in rows])


def _pcrs(generation: schemas.Generation) -> str:
    """The PCR quotes of the current generation in words, and the values of its last valid quote."""
    if not generation.pcr_values and not generation.pcr_fault:
        return "no quote recorded"
    changed = ", ".join(map(str, generation.pcr_changed))
    state = f"changed since they were accepted: {changed}" if changed else "as accepted"
    lines = [state if generation.pcr_values else "no values"]
    if generation.pcr_fault:
        lines.append(f"the last session had no valid quote: {generation.pcr_fault}")
    lines += [f"PCR {number}  {value}" for number, value in enumerate(generation.pcr_values)]
    return "\n".join(lines)


def accept_pcrs(args: Namespace) -> None:
    """Accept the PCR values that the node's current generation reported last. Raises CliError."""
    server = Server(args)
    path = f"/v1/nodes/{id_argument('node', args.node)}"
    detail = server.call("GET", path, schemas.NodeDetail)
    values = next((each.pcr_values for each in detail.generations if each.number == detail.node.generation), ())
    body = schemas.AcceptPcrs(values=values)
    emit(server.call("POST", f"{path}/accept-pcrs", schemas.NodeDetail, body), args.json, _human)


def clones(args: Namespace) -> None:
    """Print the nodes of which a clone is suspected, or one node, with the evidence of each holder. Raises CliError."""
    if args.object.startswith("node_"):
        path = f"/v1/nodes/{id_argument('node', args.object)}/clones"
        emit(Server(args).call("GET", path, CloneCase), args.json, _human_case)
        return
    found = Server(args).pages("/v1/clones", schemas.Page[CloneCase], tenant=tenant_filter(args.object))
    emit(found, args.json, _human_cases)


def settle(args: Namespace) -> None:
    """Keep one holder of a node's key, and print what follows. Raises CliError."""
    path = f"/v1/nodes/{id_argument('node', args.node)}/settle"
    if not re.fullmatch(r"[0-9a-f]{8}", args.keep):
        raise CliError(
            EXIT_USAGE,
            "evidence_invalid",
            f"cannot keep {args.keep!r}: the id of an evidence has 8 hex digits",
            "`cascade node clones NODE` shows the evidence of each machine.",
        )
    emit(Server(args).call("POST", path, CloneCase, SettleClone(keep=args.keep)), args.json, _human_case)


def _human_cases(cases: Sequence[CloneCase]) -> str:
    return "\n\n".join(map(_human_case, cases)) or "no clone is suspected"


def _human_case(case: CloneCase) -> str:
    headings = ("evidence", "state", "last seen", "address", "agent", "TPM resets", "TPM clock (ms)", "fingerprint")
    names = ("id", "state", "seen_at", "address", "agent_version", "tpm_resets", "tpm_clock_ms", "fingerprint_hash")
    summary = fields(msgspec.structs.replace(case, evidence=()))
    return f"{summary}\n\n{columns(headings, *names)(case.evidence)}"


def change(args: Namespace) -> None:
    """Make the change of `CHANGES` that `args.action` names."""
    server = Server(args)
    body = schemas.ChangeStanding(reason=args.reason)
    path = changing_path(f"/v1/nodes/{id_argument('node', args.node)}/{args.action}", args)
    emit(server.call("POST", path, schemas.Node, body), args.json, fields)
