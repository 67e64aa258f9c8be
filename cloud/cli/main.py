"""Wiring: the entry point of `cascade`. It lists the commands and turns failures into texts and exit codes."""

import errno
import logging
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

from cloud.cli.errors import EXIT_INTERNAL, CliError
from cloud.cli.options import Commands, Parser, Run
from cloud.cli.owner import become_owner
from cloud.cli.show import complain, escape_log_records, say_json

VERSION = "0.1.0"

EPILOG = """\
Commands that talk to the cloud need three values, from options or from the environment.
`cascade init` writes all three to DIR/operator/env. root finds those of /var/lib/cascade/installation by itself:
  CASCADE_URL         http:// URL of the installation's trust repository (--url)
  CASCADE_TRUST       trust pin, VERSION:SHA256 (--trust)
  CASCADE_TOKEN_FILE  file with the operator's token, mode 0600 (--token-file)

Every command has its own page: cascade COMMAND --help, cascade COMMAND ACTION --help.

exit codes:
  0   done                        70  fault of this machine or of its files, or an internal error
  2   wrong usage                 75  not possible just now: try again
  65  verification failed         77  refused
  69  the cloud did not answer    130 interrupted
"""


def parser() -> ArgumentParser:
    """The parser of the whole command line. A command's options are added once the command line names the command."""
    root = Parser(
        prog="cascade",
        description="Run a Cascade cloud and operate it: tenants, trusted hardware, activation codes, approvals, nodes, tokens, audit.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"cascade {VERSION}")
    commands = Commands(root, "command")
    commands.load("init", "make a new installation", "cloud.cli.installation.init")
    commands.load("up", "run all services in one process", "cloud.cli.run", "add_up_options")
    commands.load("serve", "run one service", "cloud.cli.run", "add_serve_options")
    commands.load("config", "check the settings of the services without starting them", "cloud.cli.config")
    commands.load("backup", "back up an installation, and check backups", "cloud.cli.backup.commands")
    commands.load("restore", "make an installation out of a backup", "cloud.cli.backup.restore")
    commands.load("pki", "manage the certificate authorities, on Breakwater's host", "cloud.cli.pki.commands")
    commands.load("tenant", "manage tenants and their policies for machines", "cloud.cli.tenants")
    commands.load("hardware", "show and change the hardware that a tenant trusts", "cloud.cli.hardware.commands")
    commands.load(
        "consumer",
        "make, list and revoke tenants' consumers of events, on Fabric's host",
        "cloud.cli.installation.consumers",
    )
    commands.load("code", "make, list and revoke activation codes", "cloud.cli.codes")
    commands.load("activation", "show activations, approve or deny those that wait", "cloud.cli.activation.commands")
    commands.load("airgap", "answer machines without a network", "cloud.cli.airgap")
    commands.load(
        "reconcile", "compare the generations of Fabric and Breakwater, after a restore", "cloud.cli.restored.reconcile"
    )
    commands.load("node", "show nodes and change their standing", "cloud.cli.nodes")
    commands.load("recovery", "decide about machines that ask for their node back", "cloud.cli.recovery.commands")
    commands.load(
        "trust", "show, sign and publish the installation's trust, and count its adoption", "cloud.cli.trust.commands"
    )
    commands.load("token", "make, list and revoke operators' tokens", "cloud.cli.tokens")
    commands.load("audit", "list the audit entries: who did what, and when", "cloud.cli.audit")
    commands.load("schema", "print the API documents", "cloud.cli.schema")
    return root


def _report(error: CliError, as_json: bool) -> int:
    if as_json:
        document = {"code": error.code, "text": error.text, "next": error.next_step, "exit_code": error.exit_code}
        say_json({"error": document})
    else:
        complain(f"cascade: {error.text}")
        if error.next_step:
            complain(f"  {error.next_step}")
    return error.exit_code


def _become_owner(args: Namespace) -> str | None:
    """Give up root for the owner of the installation that the command names (`cloud.cli.owner`). Raises CliError."""
    directory = getattr(args, "dir", None)
    if directory is None:
        return None
    try:
        return become_owner(directory)
    except OSError as error:
        raise CliError(
            EXIT_INTERNAL,
            "owner_unusable",
            f"cannot become the owner of {directory}: {error}",
            "Run the command as the user who owns the installation.",
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` replaces the arguments of the process.

    Raises SystemExit where argparse ends the process: after `--help` or `--version`, and on wrong usage (code 2).
    """
    escape_log_records()
    try:
        args = parser().parse_args(argv)
        run: Run = args.run
        owner: str | None = None
        try:
            owner = _become_owner(args)
            return run(args) or 0
        except CliError as error:
            if owner is not None and os.strerror(errno.EACCES) in error.text:
                error.next_step = f"root runs this command as {owner}. Give it files that {owner} can read or write."
            return _report(error, args.json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the pipe has gone, so there is nowhere to print. Closing stderr avoids a warning at exit.
        sys.stderr.close()
        return 0
    except Exception as error:
        # Every expected failure is a CliError. Any other exception is a bug, so its traceback is kept.
        logging.getLogger("cascade").critical("internal error", exc_info=error)
        return EXIT_INTERNAL


if __name__ == "__main__":
    raise SystemExit(main())
