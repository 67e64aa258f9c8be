"""Fixture of settings: a folder with a valid settings file and its secrets."""

from pathlib import Path

import pytest

from cloud.crypto.keyfile import write_secret
from tests.cloud.process.files import GOOD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_secret(tmp_path / "passphrase", b"Xk3v-9dLq-27Rt-bNw0\n")
    write_secret(tmp_path / "ca.key", b"-----BEGIN")
    (tmp_path / "settings.toml").write_text(GOOD)
    return tmp_path
