"""`cloud.fabric.bootstrap`: the files that `cascade init` makes."""

import pytest
from cryptography import x509

from tests.cloud.fabric.wire import Cloud

pytestmark = pytest.mark.slow


async def test_init_leaves_no_key_readable(cloud: Cloud) -> None:
    for path in cloud.directory.rglob("*"):
        if path.is_file() and path.name != "passphrase":
            assert path.stat().st_mode & 0o077 == 0, path
            content = path.read_bytes()
            assert cloud.made.token.encode() not in content
            assert b"BEGIN PRIVATE KEY" not in content
    certificate = x509.load_pem_x509_certificate((cloud.directory / "fabric" / "certs" / "nodes-ca.pem").read_bytes())
    assert certificate.subject
