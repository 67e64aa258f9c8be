"""`tools.packages.definition`: definitions with their values, scripts with their check."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.packages import definition
from tools.packages.errors import PackageError
from tools.packages.targets import PACKAGES, TARGETS, Package, Target

REPOSITORY = Path(__file__).parent.parent.parent.parent
VALUES = {"VERSION": "1.2.3", "DEPENDS": ["libc6 (>= 2.34)", "libudev1"]}


def test_a_name_and_a_list_get_their_values() -> None:
    text = "version: ${VERSION}-1\ndepends:\n  - ${DEPENDS}\n  - tpm-udev\n"
    expected = 'version: 1.2.3-1\ndepends:\n  - "libc6 (>= 2.34)"\n  - "libudev1"\n  - tpm-udev\n'
    assert definition.filled(text, VALUES) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: ${VERSON}", "${VERSON} is unknown. Known: DEPENDS, VERSION"),
        ("a: ${DEPENDS}", "${DEPENDS} is a list"),
    ],
)
def test_a_name_that_cannot_be_filled_in_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PackageError, match=re.escape(problem)):
        definition.filled(text, VALUES)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda each: each.name)
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_the_first_script_of_each_package_checks_the_release(package: Package, target: Target, tmp_path: Path) -> None:
    """On this machine's release, a first installation passes exactly if the package was built for it."""
    first = {"deb": "preinst", "rpm": "pre"}[target.packager]
    script = (REPOSITORY / f"packaging/{package.name}/scripts/{target.packager}/{first}").read_text("utf-8")
    check = (REPOSITORY / f"packaging/supported.{target.packager}.sh").read_text("utf-8")
    (tmp_path / "os-release").write_text("VERSION_CODENAME=bookworm\nPLATFORM_ID=platform:el9\n")
    whole = definition.with_check(script, check, package, target)
    assert "@" not in whole.replace("$@", "")
    checked = definition.with_check(f"{definition.SUPPORTED}\n", check, package, target)
    checked = checked.replace("/etc/os-release", f"{tmp_path}/os-release")
    arguments = ["install"] if target.packager == "deb" else ["1"]
    done = subprocess.run(["/bin/sh", "-euc", checked, "sh", *arguments], capture_output=True, text=True, check=False)
    supported = target.name != "debian13"
    assert (done.returncode == 0) == supported
    assert (f"cannot install {package.name}: " in done.stderr) != supported
    upgrade = ["upgrade", "0.1"] if target.packager == "deb" else ["2"]
    assert subprocess.run(["/bin/sh", "-euc", checked, "sh", *upgrade], check=False).returncode == 0
