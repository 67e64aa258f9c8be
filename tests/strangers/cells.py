"""Values: the table of checks. Each cell is a profile and a check, with tasks and the answers that a program should give.

A cell has tasks to accept beside tasks to refuse, so that a command that always fails, or always succeeds, is seen.
"""

import re
from typing import Literal

import msgspec

from tests.strangers.tasks import (
    CLIENT,
    DEVICE,
    RESPONDER,
    SERVER,
    Answer,
    AskOcsp,
    Connect,
    Fetch,
    Leaf,
    Parse,
    Task,
    Verify,
)

Expected = Literal["accepted", "refused", "revoked", "HTTP 401", "HTTP 403", "HTTP 404", "HTTP 415", "not a client"]
"""`revoked` is a refusal whose text says so. `HTTP 415` is the answer to a known peer, `HTTP 401` to a stranger.
`HTTP 404` is the answer of Fabric, which has no EST.
`not a client` is the alert unsupported_certificate, or the answer to a stranger, because some programs send no
certificate that does not suit."""

UNSUPPORTED = re.compile("unsupported[_ ]certificate|Certificate is not supported", re.IGNORECASE)
"""The words of programs for this alert (RFC 8446 section 6.2)."""

FETCHED = "crl fetched"
"""A check for programs that fetch lists."""

Tasks = tuple[tuple[Task, Expected], ...]


class Cell(msgspec.Struct, frozen=True):
    """One check of one profile."""

    profile: str
    check: str
    tasks: Tasks


def met(answer: Answer, expected: Expected) -> bool:
    """Whether a program answered as expected."""
    match expected:
        case "accepted":
            return answer.accepted
        case "refused":
            return not answer.accepted
        case "revoked":
            return not answer.accepted and "revoked" in answer.said.lower()
        case "not a client":
            if answer.accepted:
                return answer.said == "HTTP 401"
            return UNSUPPORTED.search(answer.said) is not None
        case _:
            return answer.accepted and answer.said == expected


def cells(leaves: dict[str, Leaf], port: int, fabric: int) -> list[Cell]:
    """Every cell, over the files of `material.py`. Breakwater's TLS listener is at `port`, Fabric's at `fabric`."""
    return [
        *_parsed(),
        *_chains(leaves),
        *_lists(leaves),
        *_asked(leaves),
        *_fetched(leaves),
        *_connected(leaves, port, fabric),
    ]


def cells_after_theft(leaves: dict[str, Leaf]) -> list[Cell]:
    """The cells after the publication of the list that names the issuing CAs."""
    tasks: Tasks = ((Fetch(leaves["device"]), "revoked"), (Fetch(leaves["service"]), "revoked"))
    return [Cell("issuing", FETCHED, tasks)]


def _parsed() -> list[Cell]:
    files = {
        "root": ("root-1", "root-2"),
        "cross": ("cross",),
        "issuing": ("nodes-1", "services-1", "services-2"),
        "device": ("device",),
        "session": ("session",),
        "service": ("service",),
        "responder": ("responder-nodes-1", "responder-services-1"),
    }
    return [
        Cell(profile, "parse", tuple((Parse(f"{name}.pem"), "accepted") for name in names))
        for profile, names in files.items()
    ]


def _chains(leaves: dict[str, Leaf]) -> list[Cell]:
    service, crossed, session = leaves["service"], leaves["service-crossed"], leaves["session"]
    lost_cross = msgspec.structs.replace(crossed, cas=crossed.cas[:1])
    lost_ca = msgspec.structs.replace(service, cas=())
    found: dict[str, Tasks] = {
        "root": ((Verify(service, SERVER), "accepted"), (Verify(service, SERVER, root="root-2.pem"), "refused")),
        "cross": ((Verify(crossed, SERVER), "accepted"), (Verify(lost_cross, SERVER), "refused")),
        "issuing": (
            (Verify(session, CLIENT), "accepted"),
            (Verify(service, SERVER), "accepted"),
            (Verify(lost_ca, SERVER), "refused"),
        ),
        "device": _purposes(leaves["device"], DEVICE),
        "session": _purposes(session, CLIENT),
        "service": _purposes(service, SERVER, CLIENT),
        "responder": _purposes(leaves["responder"], RESPONDER),
    }
    foreign: Tasks = (
        (Verify(service, SERVER), "accepted"),
        (Verify(leaves["foreign-service"], SERVER), "refused"),
        (Verify(session, CLIENT), "accepted"),
        (Verify(leaves["foreign-node"], SERVER), "refused"),
    )
    return [Cell(profile, "chain", tasks) for profile, tasks in found.items()] + [Cell("issuing", "names", foreign)]


def _purposes(leaf: Leaf, *own: str) -> Tasks:
    """The leaf is accepted for its own purposes, and for no other purpose of TLS."""
    accepted: list[tuple[Task, Expected]] = [(Verify(leaf, purpose), "accepted") for purpose in own]
    refused: list[tuple[Task, Expected]] = [
        (Verify(leaf, purpose), "refused") for purpose in (SERVER, CLIENT) if purpose not in own
    ]
    return (*accepted, *refused)


def _lists(leaves: dict[str, Leaf]) -> list[Cell]:
    found = []
    for profile, purpose in (("device", DEVICE), ("service", SERVER)):
        good, revoked = leaves[profile], leaves[f"{profile}-revoked"]
        found.append(_cell(profile, "crl", good, purpose, good.lists, revoked=(revoked, good.lists)))
        # The list of the issuing CA is missing: a program that demands lists refuses.
        tasks: Tasks = (
            (Verify(good, purpose, good.lists), "accepted"),
            (Verify(good, purpose, good.lists[1:]), "refused"),
        )
        found.append(Cell(profile, "crl demanded", tasks))
    service, crossed = leaves["service"], leaves["service-crossed"]
    for profile, leaf in (("issuing", service), ("cross", crossed)):
        other = (*leaf.lists[:-1], "root-1-revoked.crl")
        found.append(_cell(profile, "crl", leaf, SERVER, leaf.lists, revoked=(leaf, other), cas_only=True))
    # These profiles name no list, so a program that demands one from all certificates cannot accept them.
    for profile, purpose, leaf in (
        ("session", CLIENT, leaves["session"]),
        ("responder", RESPONDER, leaves["responder"]),
    ):
        listed = ("nodes-1.crl", "root-1.crl")
        other = ("nodes-1.crl", "root-1-revoked.crl")
        found.append(_cell(profile, "crl", leaf, purpose, listed, revoked=(leaf, other), cas_only=True))
    return found


def _cell(
    profile: str,
    check: str,
    leaf: Leaf,
    purpose: str,
    lists: tuple[str, ...],
    *,
    revoked: tuple[Leaf, tuple[str, ...]],
    cas_only: bool = False,
) -> Cell:
    good = Verify(leaf, purpose, lists, cas_only)
    bad = Verify(revoked[0], purpose, revoked[1], cas_only)
    return Cell(profile, check, ((good, "accepted"), (bad, "revoked")))


def _fetched(leaves: dict[str, Leaf]) -> list[Cell]:
    return [
        Cell(profile, FETCHED, ((Fetch(leaves[profile]), "accepted"), (Fetch(leaves[f"{profile}-revoked"]), "revoked")))
        for profile in ("device", "service")
    ]


def _asked(leaves: dict[str, Leaf]) -> list[Cell]:
    return [
        Cell(
            profile,
            "ocsp",
            ((AskOcsp(leaves[profile]), "accepted"), (AskOcsp(leaves[f"{profile}-revoked"]), "revoked")),
        )
        for profile in ("device", "service")
    ]


def _connected(leaves: dict[str, Leaf], port: int, fabric: int) -> list[Cell]:
    """Handshakes with the running Breakwater. The server verifies the client, and the program the server."""
    lists = ("services-1.crl", "root-1.crl")
    server: Tasks = (
        (Connect(port), "HTTP 401"),
        (Connect(fabric), "HTTP 404"),
        (Connect(port, root="root-2.pem"), "refused"),
    )
    good: tuple[Task, Expected] = (Connect(port, lists=lists), "HTTP 401")
    good_ca: tuple[Task, Expected] = (Connect(port, lists=lists, cas_only=True), "HTTP 401")
    revoked: tuple[Task, Expected] = (Connect(port, lists=("services-1-revoked.crl", "root-1.crl")), "revoked")
    ca_revoked: tuple[Task, Expected] = (
        Connect(port, lists=("services-1.crl", "root-1-revoked.crl"), cas_only=True),
        "revoked",
    )
    clients: Tasks = (
        (Connect(port, leaves["service"]), "HTTP 415"),
        (Connect(port, leaves["service-revoked"]), "HTTP 403"),
    )
    return [
        Cell("service", "tls server", server),
        Cell("service", "tls server crl", (good, revoked)),
        Cell("issuing", "tls server crl", (good_ca, ca_revoked)),
        Cell("service", "tls client", clients),
        Cell("session", "tls client", ((Connect(port, leaves["session"]), "HTTP 415"),)),
        Cell("device", "tls client", ((Connect(port, leaves["device"]), "not a client"),)),
    ]
