"""Commands: `cascade recovery list`, `show`, `approve` and `deny`."""

from argparse import Namespace
from typing import Any, get_args

from cloud.cli.arguments import id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.options import Commands
from cloud.cli.show import columns, emit, pairs, table
from cloud.fabric import schemas
from cloud.fabric.bodies.recovery import RecoveryCase
from cloud.fabric.bodies.recovery_codes import RecoveryCode
from protocol.messages.recovery import CaseState

STATES = ("undecided", *get_args(CaseState))
_APPROVE = (
    "The machine becomes the node again, in the node's seat. A machine that waits goes on when it asks again. A machine "
    "that runs on a grace lease gets an ordinary lease. A repeat changes nothing."
)
_DENY = (
    "The machine is refused with the reason. If it runs on a grace lease, that ends: its generation is revoked. It may ask "
    "again after the time for a decision. A repeat changes nothing."
)
DECISIONS = {
    "approve": ("let a machine have its node back", _APPROVE),
    "deny": ("refuse a machine that asks for a node", _DENY),
}
"""The decisions: name -> summary and page. The name is the command's action and the last part of the path."""
SITUATIONS = {
    "reinstalled": "same chip; the system was reinstalled or the disk replaced",
    "tpm-cleared": "same chip; the TPM was cleared",
    "hardware-replaced": "another chip; board, TPM or machine was replaced",
}


def add_options(actions: Commands) -> None:
    """Add the commands to the group."""
    listing = actions.add(
        "list",
        "list the machines that ask for their node back",
        "Without --state, lists the cases that wait for an operator or a recovery code. Below them are the recovery codes "
        "that were issued again and are not accepted yet: if you know of no reason for one, revoke it.",
        run=list_all,
    )
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only cases of this tenant (id)")
    listing.add_argument("--node", default="", metavar="NODE", help="only cases of this node (id)")
    listing.add_argument(
        "--state", choices=(*STATES, "all"), default="undecided", help="only cases in this state (default undecided)"
    )
    showing = actions.add(
        "show",
        "show a case with the evidence of its machine",
        "The evidence is what the machine has proved or reported. Only the chip is proved; the fingerprint is the "
        "machine's own report.",
        run=show,
    )
    showing.add_argument("case", metavar="CASE", help="id of the case")
    for name, (summary, text) in DECISIONS.items():
        deciding = actions.add(name, summary, text, run=decide)
        deciding.add_argument("case", metavar="CASE", help="id of the case")
        deciding.add_argument(
            "--reason",
            required=name == "deny",
            default="",
            metavar="TEXT",
            help="recorded in the audit; the machine gets the reason of a denial",
        )


def list_all(args: Namespace) -> None:
    """Print the cases that the filters match, and the codes that are accepted later. Raises CliError."""
    server, tenant = Server(args), tenant_filter(args.tenant)
    node = id_argument("node", args.node) if args.node else ""
    state = "" if args.state == "all" else args.state
    cases = server.pages("/v1/recovery/cases", schemas.Page[RecoveryCase], tenant=tenant, node=node, state=state)
    codes = server.pages("/v1/recovery/codes", schemas.Page[RecoveryCode], tenant=tenant, node=node, state="delayed")
    emit({"cases": cases, "delayed_codes": codes}, args.json, _human_list)


def _human_list(found: dict[str, Any]) -> str:
    headings = ("case", "state", "situation", "node", "needs", "opened", "decide by")
    names = ("id", "state", "situation", "node", "needs", "opened_at", "decide_by")
    shown = columns(headings, *names)(found["cases"])
    if not found["delayed_codes"]:
        return shown
    rows = [(code.id, code.node or "any node of the tenant", code.usable_from) for code in found["delayed_codes"]]
    later = table(("code", "node", "accepted from"), rows)
    return f"{shown}\n\nrecovery codes that were issued again, and are accepted later:\n{later}"


def show(args: Namespace) -> None:
    """Print a case. Raises CliError."""
    path = f"/v1/recovery/cases/{id_argument('rcv', args.case)}"
    emit(Server(args).call("GET", path, RecoveryCase), args.json, human_case)


def decide(args: Namespace) -> None:
    """Make the decision that `args.action` names, and print the case. Raises CliError."""
    path = f"/v1/recovery/cases/{id_argument('rcv', args.case)}/{args.action}"
    body = schemas.Decide(reason=args.reason)
    emit(Server(args).call("POST", path, RecoveryCase, body), args.json, human_case)


def human_case(case: RecoveryCase) -> str:
    """One line for each value, the evidence in words, and the next step."""
    evidence = case.evidence
    rows: list[tuple[str, object]] = [
        ("case", case.id),
        ("state", case.state),
        ("node", case.node),
        ("tenant", case.tenant),
        ("situation", f"{case.situation}: {SITUATIONS[case.situation]}"),
        ("chip", "the node's, proved" if evidence.same_chip else "another one"),
        ("tier", evidence.tier),
        ("fingerprint", f"{evidence.fingerprint} (the machine's own report)"),
        ("  the same", _weights(evidence.matched)),
        ("  not the same", _weights(evidence.changed)),
        ("statement of the node", "presented, signature valid" if evidence.statement else "not presented"),
        ("last contact", evidence.last_seen_at),
        ("last ran, by its report", evidence.last_ran_at),
        ("address", evidence.address),
        ("agent", evidence.agent_version),
        ("generation", f"{case.old_generation} -> {case.generation or 'none yet'}"),
        ("old machine may run until", case.overlap_until),
        ("old machine returned", case.returned_at),
        ("node silent until", case.silent_until),
        ("grace lease until", case.grace_until if case.grace_until or not case.grace else "promised, not signed yet"),
        ("recovery code", case.code),
        ("opened", case.opened_at),
        ("decide by", case.decide_by),
        ("may ask again from", case.next_allowed_at),
        ("decided", case.decided_at),
        ("decided by", case.decided_by),
        ("reason", case.reason),
        ("next", next_step(case)),
    ]
    return pairs(rows)


def _weights(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({weight})" for kind, weight in sorted(kinds.items()))


def next_step(case: RecoveryCase) -> str:
    """What an operator can do about the case."""
    match case.state:
        case "needs_operator" | "eligible":
            return f"cascade recovery approve {case.id}, or: cascade recovery deny {case.id} --reason TEXT"
        case "code_issued":
            return "on the machine: cascadia recover, with the recovery code; or approve the case"
        case "open" | "approved":
            return "on the machine: cascadia recover; it has not confirmed yet"
        case "refused":
            return f"a mistake is corrected by: cascade recovery approve {case.id}"
        case "lapsed":
            return "on the machine: cascadia recover; it opens another case"
        case "consumed" if case.returned_at is not None:
            return f"two machines claim the node: cascade node clones {case.node}"
        case "consumed":
            return "none: the machine is the node again"
