"""`python -m tests.fuzz TARGET [--minutes N]`: coverage-guided fuzzing of one target.

`make drills PART=fuzz` runs all targets.

The fuzzer adds each input that reaches new code to the corpus, which is in the repository. It writes a finding beside
the corpus as `TARGET.crash-...`, and the run ends with an error.
"""

import argparse
import sys

import atheris

with atheris.instrument_imports(include=["cloud", "protocol"]):
    from tests.fuzz.targets import CORPUS, INPUT_BYTES_MAX, TARGETS


def main() -> None:
    """Fuzz until the time is over or the first finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    target = TARGETS[args.target]
    kept = CORPUS / target.name
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (kept / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={int(args.minutes * 60)}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-artifact_prefix={CORPUS}/{target.name}.",
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            str(kept),
        ],
        target.run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
