"""`cascade pki check` finds damage and certificates without a record, and works for an issuer without keys."""

import shutil

import pytest

from cloud.breakwater.admin import Admin
from cloud.cli.errors import EXIT_TRY_AGAIN, EXIT_USAGE, EXIT_VERIFICATION
from cloud.storage import Statement
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_damage_ends_with_65(host: Host) -> None:
    async def spoil(admin: Admin) -> None:
        await admin.parts.stores.engine.fetch(
            Statement("UPDATE certificate SET spki_sha256 = '' WHERE service = 'fabric'")
        )

    host.open(spoil)
    report = host.pki("check", expect=EXIT_VERIFICATION)
    assert report["counts"] == {"record.key": 1}
    stranger = host.scratch / "stranger.pem"
    shutil.copy(host.directory / "breakwater" / "certs" / "root.pem", stranger)
    report = host.pki("check", "--certificates", str(stranger), expect=EXIT_VERIFICATION)
    assert report["counts"] == {"record.key": 1, "certificate.unrecorded": 1}
    host.refused(EXIT_USAGE, "certificate_unusable", "check", "--certificates", str(host.scratch / "none.pem"))


def test_the_check_needs_no_key(host: Host) -> None:
    for key in (host.directory / "breakwater" / "keys").iterdir():
        key.unlink()
    assert host.pki("check")["counts"] == {}
    assert [row["has_key"] for row in host.pki("status")["authorities"]] == [False] * 3
    host.refused(EXIT_TRY_AGAIN, "unavailable", "renew", "fabric")
