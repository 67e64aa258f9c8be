"""The update client of the library `tuf`: it comes without urllib3, and nothing can fetch with the fetcher in its place."""

import subprocess
import sys
from pathlib import Path


def test_the_import_brings_no_http_client() -> None:
    program = (
        "import sys, node.trust.update\n"
        "sys.exit(any(name.split('.')[0] == 'urllib3' or name == 'tuf.ngclient.urllib3_fetcher' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_update_without_a_fetcher_is_refused(tmp_path: Path) -> None:
    program = (
        "from node.trust.library import Updater\n"
        f"Updater({str(tmp_path)!r}, 'http://127.0.0.1:9/metadata', bootstrap=None)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "the update has a fetcher of its own" in done.stderr
