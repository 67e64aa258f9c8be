"""Pure functions: the standing of a node, and the changes that operators may make to it.

    active     -suspend-> suspended   -revoke-> revoked   -release-> released
    suspended  -resume->  active      -revoke-> revoked   -release-> released
    released   -revoke->  revoked
    confirm of a new generation: suspended stays suspended, every other standing becomes active

Rules: A repeated change changes nothing. A revoked node becomes active again only by confirming an activation with a
code that readmits it. A released node becomes active again by confirming any activation. Both are safe because revoke
and release close every generation of the node. A generation that is confirmed later was admitted later. Standing
belongs to the node, never to a generation. Signing statements and freeing seats are the job of the use cases.
"""

from datetime import datetime
from typing import Literal

from cloud.fabric.errors import Conflict, NodeRevoked
from cloud.fabric.schemas import Standing

Change = Literal["suspend", "resume", "revoke", "release"]

_TABLE: dict[tuple[Standing, Change], Standing] = {
    ("active", "suspend"): "suspended",
    ("active", "resume"): "active",
    ("active", "revoke"): "revoked",
    ("active", "release"): "released",
    ("suspended", "suspend"): "suspended",
    ("suspended", "resume"): "active",
    ("suspended", "revoke"): "revoked",
    ("suspended", "release"): "released",
    ("revoked", "revoke"): "revoked",
    ("released", "revoke"): "revoked",
    ("released", "release"): "released",
}


def after(standing: Standing, change: Change) -> Standing:
    """The standing after a change; a repeat returns the same standing. Raises Conflict if the change is not allowed."""
    try:
        return _TABLE[standing, change]
    except KeyError as error:
        raise Conflict(f"cannot {change} a node that is {standing}") from error


def after_confirm(standing: Standing) -> Standing:
    """The node's standing after a new generation is confirmed."""
    return "suspended" if standing == "suspended" else "active"


def closes(change: Change) -> bool:
    """Whether the change closes every open generation."""
    return change in ("revoke", "release")


def check_admission(
    standing: Standing, standing_at: datetime, *, made_for_this_node: bool, code_made_at: datetime
) -> None:
    """Check that a known chip may activate again. Raises NodeRevoked.

    A revoked node needs a code that names it in `readmit_node` and was made after the revocation (`standing_at`).
    """
    if standing != "revoked":
        return
    if not made_for_this_node or code_made_at <= standing_at:
        raise NodeRevoked("this machine was revoked; it needs a code to readmit it, made after the revocation")
