"""Adapter: prints the output of the command line, as text or as one JSON document. The `human_*` functions are pure."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from node.errors import NodeError
from node.exits import Exit
from node.text import shown

VALUE_CHARACTERS_MAX = 10_000
"""The longest value is the list of the entitlements. The agent's texts are escaped, because they can quote a stranger."""


def emit(text: str) -> None:
    """Print a text and a line feed to stdout. If the reader of a pipe has gone, the rest of the text is dropped.

    `cascadia status | head -2` is no fault. The exit code stays that of the command's outcome. An output that cannot be
    written, such as on a full disk, exits with code 70.
    """
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a terminal without UTF-8
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except OSError as error:
        # Python flushes stdout once more when it exits, and would report the fault then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            print(f"cascadia: cannot write the output: {error.strerror}", file=sys.stderr)
            raise SystemExit(int(Exit.INTERNAL)) from None


def fail(error: NodeError, as_json: bool) -> NoReturn:
    """Print an error (JSON to stdout, text to stderr), and exit with its exit code."""
    if as_json:
        document = {"error": {"code": error.code, "text": error.text, "next": error.next, "exit_code": int(error.exit)}}
        emit(json.dumps(document))
    else:
        print(f"cascadia: {error.text}", file=sys.stderr)
        if error.next:
            print(f"  {error.next}", file=sys.stderr)
    raise SystemExit(int(error.exit))


def print_document(document: dict[str, Any], as_json: bool, human: Callable[[dict[str, Any]], str]) -> None:
    """Print a document as JSON, or as the text that `human` makes of it."""
    emit(json.dumps(document) if as_json else human(document))


def human_license(document: dict[str, Any]) -> str:
    """The licence document as text, one field a line."""
    rows = [
        ("state", document["state"]),
        ("gate", document["gate"]),
        ("because", document["reason"]),
        ("next", document["next"]),
        ("node", document["node"]),
        ("tenant", document["tenant"]),
        ("generation", document["generation"] or ""),  # 0 before the first activation is confirmed
    ]
    lease = document["lease"]
    if lease:
        rows.append(("tier", lease["tier"]))
        rows.append(("entitlements", ", ".join(_entitlements(lease)) or "none"))
        rows += [(name, lease[name]) for name in ("refresh_after", "expires_at", "grace_until", "terminate_at")]
        if lease.get("final_reason"):  # an older agent has none
            rows.append(("final lease", lease["final_reason"]))
        if lease.get("recovery"):  # as above
            rows.append(("recovery", lease["recovery"]))
    rows += [("flag", flag) for flag in document["flags"]]
    rows.append(("notice", document.get("notice", "")))  # as above
    return _lines((name, value) for name, value in rows if value != "")


def human_status(document: dict[str, Any]) -> str:
    """The status document as text: the licence, the agent, and the limits of the protection."""
    rows = [
        ("agent", "running" if document["agent_running"] else "not running"),
        ("hardware", document["hardware"]),
        ("last contact", document["last_contact_at"] or "none since start"),
    ]
    rows += _failure_rows(document)
    if document["mode"] != "production":
        rows.append(("mode", f"{document['mode']}: not for production"))
    rows += _time_rows(document.get("time"))  # an older agent has none
    rows += _fingerprint_rows(document.get("fingerprint"))  # an older agent has none
    rows += _floor_rows(document.get("floor"))  # an older agent has none
    if document["offline_bound_at"]:
        rows.append(("offline bound", _bound(document)))
    rows += [("damaged", text) for text in document["damaged"]]
    for condition in document.get("conditions", ()):  # an older agent has none
        rows.append(("problem", f"{condition['text']} ({condition['code']}, since {condition['since']})"))
        rows += [("", condition["next"])] if condition["next"] else []
    status = f"{human_license(document['license'])}\n{_lines(rows)}"
    # Without a lease there is nothing that a copy of the state directory could use.
    return f"{status}\n\n{shown(document['limits'])}" if document["offline_bound_at"] else status


def _time_rows(time: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Trusted time and its source; the wall clock too, if it is suspect."""
    if time is None:
        return []
    suspect = [("wall clock", f"{time['wall_at']}: clock-suspect")] if time["suspect"] else []
    return [("trusted time", f"{time['high_at']} ({time['source']})"), *suspect]


def _lines(rows: Iterable[tuple[str, Any]]) -> str:
    return "\n".join(f"{name:<14} {shown(str(value), VALUE_CHARACTERS_MAX)}" for name, value in rows)


def _fingerprint_rows(judged: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The comparison of a machine without a TPM with its enrolled fingerprint, one line for each kind."""
    if judged is None:
        return []
    kinds = [("", f"{kind['kind']} ({kind['weight']}): {kind['result']}") for kind in judged["kinds"]]
    return [("fingerprint", f"{judged['result']}: {judged['reason']}"), *kinds]


def _floor_rows(floor: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The hardware floor: its counter, its rate of NV writes, and why it does not fit."""
    if floor is None:
        return []
    if not floor["index"]:
        return [("floor", f"no hardware floor{': ' if floor['reason'] else ''}{floor['reason']}")]
    counter = f"{floor['record_state']}, counter {floor['index']} at {floor['value']}"
    rate = f"{floor['writes_per_day']} NV writes a day, {floor['years_left']} years left"
    return [("floor", f"{counter}; {rate}"), *([("", floor["reason"])] if floor["reason"] else [])]


def _bound(document: dict[str, Any]) -> str:
    """The date to which an undefended attack could use the licence, and the ids of these attacks."""
    ids = (document.get("floor") or {}).get("undefended", ())
    attacks = f" ({', '.join(ids)} in docs/threat-model.md)" if ids else ""
    return f"{document['offline_bound_at']}{attacks}"


def _failure_rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """The last contact that failed. A failure before the last contact has another label."""
    failure = document.get("last_failure")  # an older agent has none
    if failure is None:
        unknown = "not known; only a running agent keeps it"
        return [] if document["agent_running"] else [("last failure", unknown)]
    label = "last failure" if document["failures"] else "past failure"
    return [(label, f"{failure['text']} ({failure['code']}, {failure['at']})"), ("", failure["next"])]


def human_entitlement(document: dict[str, Any]) -> str:
    """The answer for one entitlement as text, on one line."""
    word = "granted" if document["granted"] else "denied"
    because = "; ".join((document["reason"], *_terms(document), f"until {document['valid_until']}"))
    return shown(f"{document['name']}: {word} ({because})", VALUE_CHARACTERS_MAX)


def _entitlements(lease: dict[str, Any]) -> Iterable[str]:
    """The entitlements of a lease, each with its terms in parentheses. An older agent sends no terms."""
    terms = {each["name"]: _terms(each) for each in lease.get("entitlement_terms", ())}
    for name in lease["entitlements"]:
        yield f"{name} ({'; '.join(terms[name])})" if terms.get(name) else name


def _terms(entitlement: dict[str, Any]) -> list[str]:
    labels = (("limit", "limit"), ("begins at", "not_before"), ("ends at", "until"))
    dated = [f"{label} {entitlement[name]}" for label, name in labels if entitlement.get(name) is not None]
    return dated + [f"{name} {value}" for name, value in entitlement.get("attributes", {}).items()]
