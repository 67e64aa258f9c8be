"""Command group: `cascade activation`, which shows activations, decides about those that wait, and lifts denials."""

from argparse import ArgumentParser, Namespace
from typing import get_args

from cloud.cli.arguments import id_argument, tenant_filter
from cloud.cli.connection import Server
from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.show import columns, emit, pairs
from cloud.fabric import schemas

STATES = get_args(schemas.ActivationState)
_APPROVE = (
    "Takes a seat of the activation's code. The machine continues when it asks again; it must do so within 14 days. A "
    "repeat changes nothing."
)
_DENY = (
    "The machine is refused with the reason. A later activation of the same machine with the same code is refused too: it "
    "is known by its TPM, or without one by its serial numbers. A repeat changes nothing."
)
_LIFT = "The machine may ask again with the same code. A repeat changes nothing."
DECISIONS = {
    "approve": ("approve a waiting activation", _APPROVE),
    "deny": ("deny a waiting activation", _DENY),
    "lift": ("end the denial of an activation", _LIFT),
}
"""The decisions: name -> summary and page. The name is the command's action and the last part of the path."""


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    listing = actions.add(
        "list",
        "list activations that wait for approval, or others",
        "Without --state, lists the activations that wait for an operator.",
        run=list_all,
    )
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only activations of this tenant (id)")
    listing.add_argument("--code", default="", metavar="CODE", help="only activations with this code (id)")
    listing.add_argument(
        "--state", choices=(*STATES, "all"), default="pending", help="only activations in this state (default pending)"
    )
    showing = actions.add(
        "show",
        "show an activation with the evidence of its machine",
        "The evidence is what the machine has proved or reported. `matched` says by what a known machine was recognised: "
        "by its TPM (chip). Without a TPM: by its earlier key and its serial numbers (key), by its serial numbers alone "
        "(fingerprint), or by its earlier key with other serial numbers (changed). A machine that has gained a TPM is "
        "recognised by its serial numbers and a code for its node (fingerprint).",
        run=show,
    )
    showing.add_argument("activation", metavar="ACTIVATION", help="id of the activation")
    for name, (summary, text) in DECISIONS.items():
        deciding = actions.add(name, summary, text, run=decide)
        deciding.add_argument("activation", metavar="ACTIVATION", help="id of the activation")
        deciding.add_argument(
            "--reason",
            default="",
            metavar="TEXT",
            help="recorded in the audit; the machine gets the reason of a denial",
        )


def list_all(args: Namespace) -> None:
    """Print the activations that the filters match. Raises CliError."""
    state = "" if args.state == "all" else args.state
    page = schemas.Page[schemas.Activation]
    found = Server(args).pages("/v1/activations", page, tenant=tenant_filter(args.tenant), code=args.code, state=state)
    headings = ("id", "state", "tier", "code", "node", "address", "asked", "until")
    names = ("id", "state", "tier", "code", "node", "address", "asked_at", "approve_by")
    emit(found, args.json, columns(headings, *names))


def show(args: Namespace) -> None:
    """Print an activation. Raises CliError."""
    path = f"/v1/activations/{id_argument('act', args.activation)}"
    emit(Server(args).call("GET", path, schemas.Activation), args.json, _human)


def decide(args: Namespace) -> None:
    """Make the decision that `args.action` names, and print the activation. Raises CliError."""
    path = f"/v1/activations/{id_argument('act', args.activation)}/{args.action}"
    body = schemas.Decide(reason=args.reason)
    emit(Server(args).call("POST", path, schemas.Activation, body), args.json, _human)


def _human(found: schemas.Activation) -> str:
    """Return one line for each field. After an approval, `approve_by` is the time by which the machine must return."""
    labels = {"approve_by": "return by"} if found.state == "approved" else {}
    rows = [(labels.get(name, name.replace("_", " ")), getattr(found, name)) for name in found.__struct_fields__]
    return pairs(rows)
