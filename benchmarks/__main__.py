"""Command `python -m benchmarks [NAME ...]`: runs benchmarks and prints a table, or with `--json` one document."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import agent, compare, connections, crls, events, issuer, revocation, serving, stall
from benchmarks.figures import Figure, progress, table
from benchmarks.world import World
from lab.processes import StepFailed
from node.clock import utc_now

BENCHMARKS: dict[str, Callable[[World], list[Figure]]] = {
    "agent-start": agent.start,
    "agent-memory": agent.memory,
    "agent-stall": stall.stall,
    "issuer-sqlite": issuer.on_sqlite,
    "issuer-postgresql": issuer.on_postgresql,
    "crls": crls.crls,
    "serving-sqlite": serving.on_sqlite,
    "serving-postgresql": serving.on_postgresql,
    "idle-connections": connections.idle_connections,
    "revocation": revocation.revocation,
    "events-sqlite": events.on_sqlite,
    "events-postgresql": events.on_postgresql,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures real parts on this machine, each figure beside a floor from the same run. Uses loopback "
        "and a scratch directory only and leaves nothing running. A missed aim does not change the exit status.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"run these only: {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="run the issuer under cProfile and leave its profiles in FOLDER"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="compare with another checkout: both run in turns, and each figure is printed with the ratio of the two",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often each checkout runs for --against (default 3)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    strange = [name for name in args.names if name not in BENCHMARKS]
    if strange:
        parser.error(f"no benchmark is called {strange[0]!r}; there are {', '.join(BENCHMARKS)}")
    if args.against is not None:
        print(compare.against(args.against.absolute(), args.names or list(BENCHMARKS), args.rounds))
        return 0
    began, figures, failed = time.monotonic(), list[Figure](), ""
    try:
        with World(args.profile) as world:
            for name in args.names or BENCHMARKS:
                figures += BENCHMARKS[name](world)
    except StepFailed as error:
        failed = str(error)
    about = {
        "at": utc_now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - began),
    }
    progress("nothing is left running")
    if args.json:
        print(json.dumps({**about, "error": failed, "figures": [figure.document() for figure in figures]}))
    else:
        print(f"\n{table(figures)}\n\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    if failed:
        print(f"\na benchmark could not be run: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
