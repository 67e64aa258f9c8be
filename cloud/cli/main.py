"""Entry point of `cascade`: the table of commands, and the one place that turns failures into texts and exit codes."""

import json
import logging
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from cloud.cli.errors import EXIT_INTERNAL, CliError
from cloud.cli.options import Commands, Run

VERSION = "0.1.0"

EPILOG = """\
The server is found by three things, from options or the environment; `cascade init` writes them to DIR/operator/env:
  CASCADE_URL         URL of the installation's repository (--url)
  CASCADE_TRUST       trust pin, VERSION:SHA256 (--trust)
  CASCADE_TOKEN_FILE  file with the operator's token (--token-file)

exit codes: 0 done, 2 usage, 65 verification failed, 69 unreachable, 70 internal, 75 try again, 77 refused.
"""


def parser() -> ArgumentParser:
    """The whole command line. A command's options are added when the command is named."""
    root = ArgumentParser(
        prog="cascade",
        description="Run a Cascade cloud and operate it: tenants, activation codes, nodes, tokens, audit.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"cascade {VERSION}")
    commands = Commands(root, "command")
    commands.load("init", "make a new installation", "cloud.cli.init")
    commands.load("up", "run every service in one process", "cloud.cli.run", "add_up_options")
    commands.load("serve", "run one service", "cloud.cli.run", "add_serve_options")
    commands.load("pki", "the certificate authorities, on the issuer's own host", "cloud.cli.pki.commands")
    commands.load("tenant", "tenants and the hardware they trust", "cloud.cli.tenants")
    commands.load("code", "activation codes", "cloud.cli.codes")
    commands.load("node", "nodes and their standing", "cloud.cli.nodes")
    commands.load(
        "trust", "the published trust: roots, issuers, signing keys, and who works by them", "cloud.cli.trust.commands"
    )
    commands.load("token", "operators' tokens", "cloud.cli.tokens")
    commands.load("audit", "what was done, by whom", "cloud.cli.audit")
    return root


def _report(error: CliError, as_json: bool) -> int:
    if as_json:
        document = {"code": error.code, "text": error.text, "next": error.next_step, "exit_code": error.exit_code}
        print(json.dumps({"error": document}))
    else:
        print(f"cascade: {error.text}", file=sys.stderr)
        if error.next_step:
            print(f"  {error.next_step}", file=sys.stderr)
    return error.exit_code


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        args = parser().parse_args(argv)
        run: Run = args.run
        try:
            return run(args) or 0
        except CliError as error:
            return _report(error, args.json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone; nobody is left to tell.
        sys.stderr.close()
        return 0
    except Exception as error:
        # The last stop of every fault: what arrives here is a bug and keeps its traceback.
        logging.getLogger("cascade").critical("internal error", exc_info=error)
        return EXIT_INTERNAL


if __name__ == "__main__":
    raise SystemExit(main())
