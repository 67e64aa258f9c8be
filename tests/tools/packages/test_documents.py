"""`tools.packages.documents`: copyright and changelog of a package."""

import gzip
from importlib.metadata import distribution

from tools.packages import documents
from tools.packages.libraries import Library
from tools.packages.targets import PACKAGES, TARGETS

CASCADIA, (DEBIAN12, _, EL9) = PACKAGES[0], TARGETS
PAGE = """# Changelog

## [Unreleased]

### Added

- A thing with a description that goes over
  two lines of the page, and over one line of Debian's changelog.

## [0.1.0] - 2026-11-01

### Fixed

- One.
- Two.
"""
MAINTAINER = "Cascade <cascade@example.org>"


def test_the_changelog_has_an_entry_for_each_version() -> None:
    made = documents.changelog(PAGE, "0.2.0", CASCADIA, DEBIAN12, MAINTAINER, 1_796_000_000)
    assert made == documents.changelog(PAGE, "0.2.0", CASCADIA, DEBIAN12, MAINTAINER, 1_796_000_000)
    assert gzip.decompress(made).decode() == (
        "cascadia (0.2.0-1~deb12) bookworm; urgency=medium\n\n"
        "  * A thing with a description that goes over two lines of the page, and over\n"
        "    one line of Debian's changelog.\n\n"
        f" -- {MAINTAINER}  Mon, 30 Nov 2026 00:53:20 +0000\n\n"
        "cascadia (0.1.0-1~deb12) bookworm; urgency=medium\n\n"
        "  * One.\n  * Two.\n\n"
        f" -- {MAINTAINER}  Sun, 01 Nov 2026 00:00:00 +0000\n"
    )


def test_the_copyright_file_has_every_licence() -> None:
    names = {"cffi": "MIT-0", "pyudev": "LGPL-2.1-or-later"}
    libraries = [Library(name, distribution(name), "") for name in names]
    apache = "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION\n1. Definitions."
    on_debian, elsewhere = (
        documents.copyright_file(CASCADIA, target, apache, libraries, names) for target in (DEBIAN12, EL9)
    )
    for text in (on_debian, elsewhere):
        assert f"  cffi {libraries[0].installed.version}: MIT-0\n" in text
        assert "GNU LESSER GENERAL PUBLIC LICENSE" in text
    assert apache in elsewhere
    assert apache not in on_debian
    assert documents.APACHE in on_debian
