"""Pure: the standing of a node, and which change leads where. It signs nothing and frees no seat.

    active     -suspend-> suspended   -revoke-> revoked   -release-> released
    suspended  -resume->  active      -revoke-> revoked   -release-> released
    released   -revoke->  revoked
    confirm of a new generation: suspended stays, every other standing becomes active

Rules: a repeat changes nothing. Revoked is left only by confirming an activation by a code made to readmit the node,
and released by any activation, because closing ends all generations that were there: whatever confirms later was
admitted later. Standing belongs to the node, never to a generation.
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
    """The standing that a change leads to; the same one for a repeat. Raises Conflict where it is not allowed."""
    try:
        return _TABLE[standing, change]
    except KeyError as error:
        raise Conflict(f"cannot {change} a node that is {standing}") from error


def after_confirm(standing: Standing) -> Standing:
    """The standing that a confirmed new generation takes over."""
    return "suspended" if standing == "suspended" else "active"


def closes(change: Change) -> bool:
    """Whether the change ends every generation that is open."""
    return change in ("revoke", "release")


def check_admission(
    standing: Standing, standing_at: datetime, *, made_for_this_node: bool, code_made_at: datetime
) -> None:
    """Whether a known chip may activate again. Raises NodeRevoked."""
    if standing != "revoked":
        return
    if not made_for_this_node or code_made_at <= standing_at:
        raise NodeRevoked("this machine was revoked; a code made after that to readmit it is needed")
