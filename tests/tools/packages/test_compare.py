"""`tools.packages.compare`: which differences between a deb and an rpm are named."""

import stat

import pytest

from tools.packages.compare import Entry, differences

FILE = Entry(stat.S_IFREG | 0o644, "root:root", "ab" * 32)
FOLDER = Entry(stat.S_IFDIR | 0o755, "root:root", "")
COMMON = {"/usr/bin/cascadia": FILE, "/usr/lib/cascadia": FOLDER}


def test_named_differences_are_none() -> None:
    deb = {**COMMON, "/usr": FOLDER, "/usr/share/doc/cascadia/changelog.Debian.gz": FILE}
    rpm = {**COMMON, "/usr/share/licenses/cascadia/copyright": FILE}
    assert differences(deb, rpm) == []


@pytest.mark.parametrize(
    ("path", "deb", "rpm"),
    [
        ("/usr/bin/cascadia", FILE, None),
        ("/usr/share/licenses/cascadia/copyright", FILE, None),
        ("/usr/share/doc/cascadia/copyright", None, FILE),
        ("/usr/bin/cascadia", FILE, Entry(stat.S_IFREG | 0o755, "root:root", FILE.content)),
        ("/usr/bin/cascadia", FILE, Entry(FILE.mode, "root:cascadia", FILE.content)),
        ("/usr/bin/cascadia", FILE, Entry(FILE.mode, FILE.owner, "cd" * 32)),
        ("/usr/lib/cascadia", FOLDER, Entry(stat.S_IFDIR | 0o700, "root:root", "")),
    ],
)
def test_any_other_difference_is_found(path: str, deb: Entry | None, rpm: Entry | None) -> None:
    sides = ({name: entry for name, entry in {**COMMON, path: each}.items() if entry} for each in (deb, rpm))
    (found,) = differences(*sides)
    assert found.startswith(f"{path}: deb ")
