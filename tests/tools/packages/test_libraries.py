"""The build of tpm2-pytss finds the libraries of the TSS, and neither FAPI nor its policies."""

import os
import subprocess
from pathlib import Path

import pytest

HIDING = Path(__file__).resolve().parents[3] / "tools/pkgconfig"


@pytest.mark.parametrize(
    ("library", "found"), [("tss2-esys", True), ("tss2-mu", True), ("tss2-fapi", False), ("tss2-policy", False)]
)
def test_the_build_of_tpm2_pytss_does_not_find_fapi(library: str, found: bool) -> None:
    asked = ["pkg-config", "--exists", library]
    environment = {**os.environ, "PKG_CONFIG_PATH": str(HIDING)}
    assert (subprocess.run(asked, env=environment, check=False).returncode == 0) is found
