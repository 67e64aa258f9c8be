"""The command `make packages`: reads the options, builds, and signs with the caller's key.

sudo make packages ARGS='--key release-key.asc'
sudo make packages ARGS='--only cascadia --target debian12'
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tools.packages import build, dist, shipped, signing
from tools.packages.build import Plan
from tools.packages.errors import PackageError
from tools.packages.root import NEEDED, missing_packages
from tools.packages.signing import Signer
from tools.packages.targets import PACKAGES, TARGETS

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SIGNING = {"gpg": "gnupg", "rpmsign": "rpm"}
"""Program -> its Debian package: what a signature needs besides."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m tools.packages", description="Build the packages.")
    made.add_argument("--only", choices=[each.name for each in PACKAGES], help="build one package")
    made.add_argument("--target", choices=[each.name for each in TARGETS], help="build for one distribution")
    made.add_argument(
        "--to", type=Path, default=REPOSITORY / "dist", help="the folder of the result, which is replaced"
    )
    made.add_argument("--cache", type=Path, default=REPOSITORY / "build/packages", help="what is kept between builds")
    made.add_argument("--mirror", default="", help="Debian mirror for the roots (default: debootstrap's own)")
    made.add_argument("--version", help="the version of the packages (default: that of pyproject.toml)")
    keys = made.add_mutually_exclusive_group()
    keys.add_argument("--key", type=Path, help="sign with the secret key in this file")
    keys.add_argument("--key-id", help="sign with this key of GnuPG's folder (GNUPGHOME)")
    keys.add_argument(
        "--throwaway-key", action="store_true", help="sign with a key for tests, which says so everywhere"
    )
    made.add_argument("--verify-reproducible", action="store_true", help="build twice, and compare every byte")
    made.add_argument("--write-shipped", action="store_true", help=f"write {shipped.PAGE}, and build nothing")
    return made


def planned(options: argparse.Namespace, repository: Path = REPOSITORY) -> Plan:
    """The plan that the options ask for. Raises PackageError outside a clone."""
    done = subprocess.run(
        ["git", "-C", str(repository), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PackageError(f"cannot find the commit: {done.stderr.strip()}. Build in a clone of the repository.")
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    return Plan(
        repository=repository,
        cache=options.cache.resolve(),
        scratch=options.cache.resolve(),
        to=options.to.resolve(),
        version=options.version or project["version"],
        epoch=int(done.stdout),
        packages=[each for each in PACKAGES if options.only in (None, each.name)],
        targets=[each for each in TARGETS if options.target in (None, each.name)],
        mirror=options.mirror,
    )


def check_committed(repository: Path) -> None:
    """Raise PackageError if the clone has changes that its commit lacks: a release is what a commit says."""
    command = ["git", "-C", str(repository), "status", "--porcelain"]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if changed:
        raise PackageError(
            f"cannot sign for a release: {len(changed)} files differ from the commit, first {changed[0][3:]}. Build in a "
            "clean clone, or sign with --throwaway-key."
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns the exit code: 0 when everything was built, 1 when not, 2 for wrong options."""
    options = parser().parse_args(arguments)
    signs = options.key or options.key_id or options.throwaway_key
    try:
        if os.geteuid() != 0:
            raise PackageError("cannot build packages: it needs root, for roots of Debian. Run `sudo make packages`.")
        if missing := missing_packages({**NEEDED, **(SIGNING if signs else {})}):
            raise PackageError(f"cannot build packages: run `apt-get install {' '.join(missing)}` first.")
        plan = planned(options)
        if options.key or options.key_id:
            check_committed(plan.repository)
        if options.write_shipped:
            build.write_shipped(plan)
            return 0
        with signer(options, plan) as key:
            made(plan, key)
            if options.verify_reproducible:
                verify(plan, key)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    for line in (f"packages: in {plan.to}", *_about_signatures(key)):
        print(line)
    return 0


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"packages: {text}", file=sys.stderr, flush=True)


@contextmanager
def signer(options: argparse.Namespace, plan: Plan) -> Iterator[Signer | None]:
    """The key that the options name, or None. Raises PackageError."""
    if options.key:
        with signing.from_file(options.key, plan.cache, plan.epoch) as key:
            yield key
    elif options.throwaway_key:
        with signing.throwaway(plan.cache, plan.epoch) as key:
            yield key
    else:
        yield signing.from_home(options.key_id, plan.epoch) if options.key_id else None


def made(plan: Plan, key: Signer | None) -> None:
    """Build everything of a plan into its folder. A build that fails leaves the earlier result. Raises PackageError."""
    dist.check_replaceable(plan.to)
    new = plan.to.with_name(f"{plan.to.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    attempt = replace(plan, to=new)
    dist.finish(attempt, build.build(attempt, say), key)
    dist.replace(plan.to, new)


def verify(plan: Plan, key: Signer | None) -> None:
    """Build once more, with libraries that are installed and compiled again. Raises PackageError if a byte differs."""
    second = plan.cache / "second"
    shutil.rmtree(second, ignore_errors=True)
    say("the second build")
    again = replace(plan, scratch=second, to=second / "dist")
    made(again, key)
    one, other = dist.digests(plan.to), dist.digests(again.to)
    if differing := sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path)):
        raise PackageError(f"cannot build the same twice: {', '.join(differing)}. The second build is in {again.to}.")
    say(f"{len(one)} files of two builds have the same bytes")
    shutil.rmtree(second, ignore_errors=True)


def _about_signatures(key: Signer | None) -> list[str]:
    if key is None:
        return ["packages: nothing is signed. Name a key with --key FILE or --key-id ID before you publish this."]
    if key.throwaway:
        return ["packages: signed by a THROWAWAY key. Publish nothing of this."]
    return [f"packages: signed by {key.fingerprint}"]
