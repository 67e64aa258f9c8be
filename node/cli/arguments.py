"""Command line: what each command of `cascadia` is called and takes, and its help."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.cli.show import emit
from node.config import AGENT_VERSION

EPILOG = """\
exit codes: 0 done or granted, 2 wrong usage or settings, 3 entitlement denied, 65 verification failed,
69 cloud or agent unreachable, 70 internal fault, 75 try again, 77 refused by the cloud, 80 not activated, 81 revoked,
82 suspended, 83 terminated, 84 hardware mismatch, 85 no trusted statement, 86 clock wrong, 87 TPM fault,
88 activation not approved or confirmed, 89 clone suspected.
"""


AGENT = "The Cascade agent. It binds this machine to its licence and tells licensed software whether it may run."


class _Parser(argparse.ArgumentParser):
    """A parser whose help and version are printed as every other output: a closed pipe or a full disk is no traceback."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not None and file is sys.stdout:
            emit(message.removesuffix("\n"))
        else:
            super()._print_message(message, file)


def parser(only: str = "") -> argparse.ArgumentParser:
    """The parser of all commands, or of the command `only`: the parsers of the others would slow the agent's start."""
    made = _Parser(
        prog="cascadia",
        description=AGENT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"cascadia {AGENT_VERSION}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, text, add_arguments) in _TEXTS.items():
        if only in ("", name):
            command = commands.add_parser(name, help=summary, description=text)
            _common_arguments(command)
            add_arguments(command)
    return made


def _common_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="settings file (default /etc/cascadia/cascadia.toml)")
    command.add_argument("--state-dir", metavar="DIR", help="state directory (default /var/lib/cascadia)")
    command.add_argument("--socket", metavar="PATH", help="the agent's socket (default /run/cascadia/cascadia.sock)")
    command.add_argument("--tpm", metavar="TCTI", help="TPM connection (default device:/dev/tpmrm0)")
    command.add_argument("--json", action="store_true", help="print one JSON document")


def _no_arguments(_command: argparse.ArgumentParser) -> None:
    """Add nothing to the common arguments."""


def _license_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "action", choices=["show", "import"], help="show: print the licence; import: read the answer to a request"
    )
    command.add_argument(
        "file", nargs="?", metavar="FILE", help="import: the file that `cascade airgap answer` wrote; - reads the input"
    )


def _request_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--file", type=Path, metavar="FILE", help="activate this machine: the activation file of `cascade code create`"
    )
    command.add_argument(
        "--recover",
        action="store_true",
        help="ask for a recovery of this machine's node; --file then names the cloud, if the published trust is lost",
    )
    command.add_argument(
        "--node", metavar="NODE", help="with --recover: the id of the node that this machine was, if its state is lost"
    )
    command.add_argument(
        "--code-file", metavar="FILE", help="with --recover: the file with the recovery code; - reads the input"
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write the request to this file (mode 0600)")
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--text", dest="form", action="store_const", const="text", help="as lines that can be printed and typed again"
    )
    form.add_argument("--qr", dest="form", action="store_const", const="qr", help="as a QR code (--out: .svg or .png)")
    command.add_argument(
        "--new",
        action="store_true",
        help="abandon the outstanding request and make another one; an answer to the abandoned one is refused",
    )


def _entitlement_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="the entitlement's name")


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=["check"], help="check: show each setting, its value and its source")


def _identity_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=["ek"], help="ek: show the endorsement keys and their certificates")


def _renew_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rekey", action="store_true", help="also make a new node key in the TPM and get a device certificate for it"
    )


def _activation_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the activation file, made by `cascade code create`")
    command.add_argument(
        "--software",
        dest="identity",
        action="store_const",
        const="software",
        help="activate without a TPM: the node key is in a file, and the machine is known by its serial numbers; the "
        "cloud must admit the tier `software`",
    )
    command.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for an operator's approval: exit with code 88; the same command continues later",
    )


def _recovery_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="a recovery file, or any activation file of this cloud: it names the cloud if the state directory is lost",
    )
    command.add_argument(
        "--code-file",
        metavar="FILE",
        help="the file that has the recovery code; - reads stdin. Without it the command asks on a terminal",
    )
    command.add_argument("--node", metavar="NODE", help="the id of this machine's node, if the state directory is lost")
    command.add_argument(
        "--software",
        dest="identity",
        action="store_const",
        const="software",
        help="the machine has no TPM; needed if the state directory is lost",
    )
    command.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for an approval: exit with code 88; the agent or the same command continues later",
    )


def _deactivation_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
    command.add_argument(
        "--forget",
        action="store_true",
        help="also without the cloud's answer: remove the state, and say that the seat is still taken",
    )


_TEXTS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "activate": (
        "activate this machine with an activation file",
        (
            "Proves to the cloud with the TPM which machine this is, and fetches its identity and licence. Without a TPM it "
            "needs --software. If the command is interrupted, repeat it with the same file; it then continues. If an "
            "operator must approve the activation, the command waits and shows the id to approve. A running agent lends "
            "its state and takes it back by itself."
        ),
        _activation_arguments,
    ),
    "run": (
        "run the agent in the foreground",
        (
            "Checks the TPM and the licence, asks the cloud, then serves the socket until it is stopped. Exits with code "
            "81 before it serves if this machine is revoked."
        ),
        _no_arguments,
    ),
    "status": (
        "show the state, the licence and the next step",
        "Works in every state of the licence, with and without a running agent.",
        _no_arguments,
    ),
    "license": (
        "show the licence, or import an answer",
        (
            "Shows the licence of this machine, or imports the answer to its request: `cascadia license import FILE`. A "
            "file that is refused changes nothing. If the command is interrupted, repeat it."
        ),
        _license_arguments,
    ),
    "request": (
        "ask for a licence without a network",
        (
            "Makes a request that is carried to the operators of the cloud, who answer it with `cascade airgap answer`. "
            "The machine has one outstanding request: the command shows the same one until its answer is imported or 14 "
            "days have passed. With --file it asks for an activation. Without --out the request is printed."
        ),
        _request_arguments,
    ),
    "entitlement": (
        "ask whether an entitlement is granted",
        "Asks the running agent. Exits with code 0 if the entitlement is granted now, and with code 3 if it is denied.",
        _entitlement_arguments,
    ),
    "schema": (
        "print the API document of the socket",
        "Prints an OpenAPI 3.1 document, made from the installed code. It asks no agent.",
        _no_arguments,
    ),
    "config": (
        "check the settings",
        (
            "Shows the settings in force, and the file and line, variable or option that each of them is from. Settings that "
            "the agent would refuse end it with exit code 2, as they end the agent."
        ),
        _config_arguments,
    ),
    "identity": (
        "show the endorsement keys of the TPM",
        (
            "Shows each endorsement key (EK) that can identify this machine, with the name that `cascade hardware "
            "allow-ek TENANT NAME` takes, and the certificates in the NV memory of the TPM. It needs no activation, and "
            "works beside a running agent."
        ),
        _identity_arguments,
    ),
    "recover": (
        "find out what happened to this machine, and get its node back",
        (
            "Says what is left of this machine's node and what it needs, and does it: nothing, a renewal, or a recovery. "
            "A recovery needs a recovery code or an operator's approval. It never undoes a revocation. The last line is "
            "one sentence for the phone. If the command is interrupted, repeat it; it then continues. A running agent "
            "lends its state and takes it back by itself."
        ),
        _recovery_arguments,
    ),
    "deactivate": (
        "hand the seat back, and remove this machine's identity",
        (
            "Has the cloud release the node, ends the agent, and removes the state and the floor counter in the TPM. "
            "Licensed software stops. The persistent storage key and the endorsement keys of the TPM belong to the machine "
            "and stay. If the cloud cannot be reached, nothing is removed (exit code 69), unless --forget is given. If the "
            "command is interrupted, repeat it. The machine can be activated again with an activation code that has a "
            "free seat."
        ),
        _deactivation_arguments,
    ),
    "renew": (
        "refresh licence, session and device certificate now",
        (
            "Asks the cloud now. Without this command the agent asks when the licence, the session or the device "
            "certificate is due."
        ),
        _renew_arguments,
    ),
}
"""Each command: its summary, its description, and the function that adds its own arguments."""
