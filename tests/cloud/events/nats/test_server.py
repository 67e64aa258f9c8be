"""`cloud.events.nats.server`: the server's configuration, and files of credentials."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.events.nats.nkeys import NkeyError, public_text, seed_text
from cloud.events.nats.server import (
    AccountKeys,
    ServerFiles,
    credentials_text,
    read_credentials,
    server_configuration,
    service_credentials,
)

NOW = datetime(2026, 12, 1, tzinfo=UTC)
KEYS = AccountKeys(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())
OPERATOR = Ed25519PrivateKey.generate()
USER = Ed25519PrivateKey.generate()
FILES = ServerFiles('/etc/"odd"/server.pem', "/etc/server.key", "/var/lib/nats")


def test_the_configuration_has_tls_durable_writes_and_no_secret() -> None:
    text = server_configuration(KEYS, OPERATOR, FILES, "0.0.0.0:4222", NOW)
    assert "sync_interval: always" in text
    assert 'cert_file: "/etc/\\"odd\\"/server.pem"' in text
    for key, kind in ((KEYS.services, "account"), (KEYS.consumers, "account")):
        assert f"  {public_text(key, 'account')}: ey" in text
        assert seed_text(key, "account") not in text, kind
    assert seed_text(OPERATOR, "operator") not in text


def test_credentials_are_read_as_they_were_written() -> None:
    token, key = read_credentials(credentials_text("a.b.c", USER).encode())
    assert token == "a.b.c"
    assert key.private_bytes_raw() == USER.private_bytes_raw()
    assert service_credentials(KEYS, USER, "fabric", NOW).count("-----BEGIN ") == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"-----BEGIN NATS USER JWT-----", credentials_text("", USER).encode(), b"-----BEGIN X\na\n" * 2],
)
def test_other_files_are_no_credentials(content: bytes) -> None:
    with pytest.raises(NkeyError):
        read_credentials(content)
