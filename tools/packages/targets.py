"""Values: the packages, and the distributions that they are built for."""

from dataclasses import dataclass
from typing import Literal

DEBIAN_ARCHITECTURE = "amd64"
RPM_ARCHITECTURE = "x86_64"


@dataclass(frozen=True)
class Package:
    """A package: the code of this checkout that it has, and the extras of pyproject.toml whose libraries it has."""

    name: str
    program: str
    """The file in /usr/bin that starts `entry`."""
    entry: str
    code: tuple[str, ...]
    extras: tuple[str, ...]
    opened: tuple[str, ...] = ()
    """Shared libraries that are opened at run time, and that no module links to."""
    helpers: tuple[tuple[str, str], ...] = ()
    """Programs that units start: the file without its first stroke, and the module whose `main` it calls."""

    @property
    def launchers(self) -> tuple[tuple[str, str], ...]:
        """Every program of the package, as in `helpers`."""
        return ((f"usr/bin/{self.program}", self.entry), *self.helpers)

    @property
    def library(self) -> str:
        """The folder of the private environment, without its first stroke."""
        return f"usr/lib/{self.program}/lib"


@dataclass(frozen=True)
class Target:
    """A distribution that packages are built for. `suite` is the Debian release of the root that they are built in."""

    name: str
    packager: Literal["deb", "rpm"]
    suite: Literal["bookworm", "trixie"]
    python: str
    revision: str
    """The part of the version that follows the version of Cascade. A newer release of a distribution sorts later."""
    glibc_max: tuple[int, int] | None = None
    """The C library of the distribution, where it is older than that of the root."""

    def file_name(self, package: str, version: str) -> str:
        """The name of a package's file."""
        if self.packager == "deb":
            return f"{package}_{version}-{self.revision}_{DEBIAN_ARCHITECTURE}.deb"
        return f"{package}-{version}-{self.revision}.{RPM_ARCHITECTURE}.rpm"


PACKAGES = (
    # segno draws the QR codes of `cascadia request --qr`. A machine that needs them has no network to get segno from.
    Package(
        "cascadia",
        "cascadia",
        "node.cli.main",
        ("node", "protocol"),
        ("node", "qr"),
        # pyudev opens libudev, and libtss2 its transport to the device.
        opened=("libudev.so.1", "libtss2-tcti-device.so.0"),
        helpers=(("usr/lib/cascadia/gate", "node.gating.gate"),),
    ),
    Package("cascade-cloud", "cascade", "cloud.cli.main", ("cloud", "protocol"), ("cloud",)),
)
TARGETS = (
    Target("debian12", "deb", "bookworm", "3.11", "1~deb12"),
    Target("debian13", "deb", "trixie", "3.13", "1~deb13"),
    # Python 3.11 and tpm2-tss 3.2 of Debian 12 are those of Enterprise Linux 9, so its modules are shared.
    Target("el9", "rpm", "bookworm", "3.11", "1.el9", glibc_max=(2, 34)),
)
