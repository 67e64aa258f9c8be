"""Real part: OpenPGP signatures by the caller's key, over GnuPG.

Signatures have the time of the commit, or that of the key if the key is younger. GnuPG signs deterministically (RSA,
EdDSA, and ECDSA by RFC 6979), so two builds have the same signatures.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from tools.packages.errors import PackageError
from tools.packages.root import run

_MARK = "THROWAWAY"
THROWAWAY = "Cascade THROWAWAY key, not for production <throwaway@cascade.invalid>"


class Signer:
    """A secret key in a folder of GnuPG. `home` None is the caller's own (GNUPGHOME)."""

    def __init__(self, home: Path | None, fingerprint: str, epoch: int, *, throwaway: bool = False) -> None:
        self._home = home
        self.fingerprint = fingerprint
        self.throwaway = throwaway
        self._time = max(epoch, created(run([*_gpg(home), "--with-colons", "--list-secret-keys", fingerprint])))

    def detached(self, path: Path) -> Path:
        """Sign a file into a file beside it, armoured."""
        signature = path.with_name(f"{path.name}.asc")
        self._sign(path, signature, "--detach-sign", "--armor")
        return signature

    def clear(self, path: Path, to: Path) -> None:
        """Sign a text into a file that has the text and the signature."""
        self._sign(path, to, "--clear-sign")

    def into_rpm(self, path: Path) -> None:
        """Put a signature into an rpm, where dnf looks for it."""
        home = ["--define", f"__gpg {shutil.which('gpg')}"]
        home += ["--define", f"_gpg_path {self._home}"] if self._home else []
        clock = ["--define", f"_gpg_sign_cmd_extra_args {' '.join(self._clock())}"]
        run(["rpmsign", *home, "--define", f"_gpg_name {self.fingerprint}", *clock, "--addsign", str(path)])

    def public(self, to: Path) -> None:
        """Write the public key, armoured."""
        to.unlink(missing_ok=True)
        options = ["--armor", "--export-options", "export-minimal", "--output", str(to)]
        run([*_gpg(self._home), *options, "--export", self.fingerprint])

    def _clock(self) -> list[str]:
        return ["--faked-system-time", f"{self._time}!", "--ignore-time-conflict"]

    def _sign(self, path: Path, to: Path, *how: str) -> None:
        to.unlink(missing_ok=True)
        options = [*self._clock(), "--digest-algo", "SHA256", "--local-user", self.fingerprint, "--output", str(to)]
        run([*_gpg(self._home), *options, *how, str(path)])


def created(listing: str) -> int:
    """The time in which the key of `gpg --with-colons --list-secret-keys` was made, in seconds since 1970."""
    return int(next(line.split(":")[5] for line in listing.splitlines() if line.startswith("sec:")))


def fingerprints(listing: str) -> list[str]:
    """The fingerprints of the primary keys in `gpg --with-colons --list-secret-keys`."""
    lines = [line.split(":") for line in listing.splitlines()]
    return [following[9] for line, following in pairwise(lines) if (line[0], following[0]) == ("sec", "fpr")]


def check_release(listing: str) -> None:
    """Check that no user id in `gpg --with-colons --list-secret-keys` is that of a throwaway key. Raises PackageError.

    A throwaway key has no pass phrase, and each clone that has built with it keeps it in a folder.
    """
    names = [line.split(":")[9] for line in listing.splitlines() if line.startswith("uid:")]
    if any(_MARK in name for name in names):
        raise PackageError(
            f"cannot sign for a release with a {_MARK} key. Name another key, or sign with --throwaway-key."
        )


def from_home(name: str, epoch: int) -> Signer:
    """A signer with a key of the caller's GnuPG. Raises PackageError unless the name is that of one secret key.

    GnuPG takes a part of a user's name as well. The export would then publish every public key that has it.
    """
    listing = run([*_gpg(None), "--with-colons", "--list-secret-keys", name])
    found = fingerprints(listing)
    if len(found) != 1:
        raise PackageError(f"cannot sign: {len(found)} secret keys are named {name}. Give the fingerprint of one.")
    check_release(listing)
    return Signer(None, found[0], epoch)


@contextmanager
def from_file(key: Path, cache: Path, epoch: int) -> Iterator[Signer]:
    """A signer with the secret key of a file, which is in a folder of its own meanwhile. Raises PackageError."""
    home = cache / "signing"
    with _own_home(home):
        run([*_gpg(home), "--import", str(key)])
        listing = run([*_gpg(home), "--with-colons", "--list-secret-keys"])
        found = fingerprints(listing)
        if len(found) != 1:
            raise PackageError(f"cannot sign: {key} has {len(found)} secret keys. Export one, without a pass phrase.")
        check_release(listing)
        yield Signer(home, found[0], epoch)


@contextmanager
def throwaway(cache: Path, epoch: int) -> Iterator[Signer]:
    """A signer with a key that says that it is of no worth. It is kept, so that two builds can be compared."""
    home = cache / "throwaway-key"
    with _own_home(home, keep=True):
        listing = run([*_gpg(home), "--with-colons", "--list-secret-keys"])
        if not fingerprints(listing):
            made = ["--faked-system-time", f"{epoch}!", "--passphrase", "", "--quick-generate-key", THROWAWAY]
            run([*_gpg(home), *made, "rsa3072", "sign", "never"])
            listing = run([*_gpg(home), "--with-colons", "--list-secret-keys"])
        yield Signer(home, fingerprints(listing)[0], epoch, throwaway=True)


@contextmanager
def _own_home(home: Path, *, keep: bool = False) -> Iterator[None]:
    if not keep:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        yield
    finally:
        try:
            run(["gpgconf", "--homedir", str(home), "--kill", "all"])
        finally:
            if not keep:
                shutil.rmtree(home, ignore_errors=True)


def _gpg(home: Path | None) -> list[str]:
    return ["gpg", "--batch", "--quiet", "--no-tty", *(["--homedir", str(home)] if home else [])]
