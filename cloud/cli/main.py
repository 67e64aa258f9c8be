"""`cascade`: entry point. Chooses the command, turns every known failure into a text and an exit code of the design."""

import json
import logging
import sys
from argparse import Namespace

from cloud.cli.errors import EXIT_INTERNAL, CliError
from cloud.cli.options import parser


def _run(args: Namespace) -> int:
    # Imports stand here because a client command must not wait for the servers' libraries, nor the other way round.
    if args.command == "init":
        from cloud.cli.init import initialise

        return initialise(args)
    if args.command in ("up", "serve"):
        from cloud.cli.run import run

        return run(args)
    if args.command == "pki" and args.action == "ceremony":
        from cloud.cli.pki.ceremony import ceremony

        return ceremony(args)
    if args.command == "pki":
        from cloud.cli.pki.commands import run as run_pki

        return run_pki(args)
    if args.command == "trust":
        from cloud.cli.trust import run as run_trust

        run_trust(args)
        return 0
    from cloud.cli.connection import Server
    from cloud.cli.operate import COMMANDS

    COMMANDS[args.command, args.action](Server(args), args)
    return 0


def _tell(error: CliError, as_json: bool) -> int:
    if as_json:
        document = {"code": error.code, "text": error.text, "next": error.next_step, "exit_code": error.exit_code}
        print(json.dumps({"error": document}))
    else:
        print(f"cascade: {error.text}", file=sys.stderr)
        if error.next_step:
            print(f"  {error.next_step}", file=sys.stderr)
    return error.exit_code


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except CliError as error:
        return _tell(error, args.json)
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
