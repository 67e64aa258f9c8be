"""`cloud.cli.pki.crl_ceremony`: the issuer's host writes the ceremony of a root's next CRL."""

import shutil

import msgspec
import pytest

from cloud.breakwater.admin import Admin
from cloud.breakwater.ceremony.file import CrlCeremony, read_ceremony
from cloud.cli.main import main
from cloud.cli.pki.crl_ceremony import prepare
from cloud.cli.pki.rotate import NOT_NEEDED
from tests.cloud.cli.pki.support import Host

pytestmark = pytest.mark.slow


def test_the_host_prepares_the_ceremony_of_the_roots_next_crl(host: Host) -> None:
    folder, offline = host.scratch / "room", host.directory / "offline"
    made = host.pki("crl", "--ceremony", str(folder))
    assert (made["authority"], made["number"], made["revokes"]) == ("root-1", 2, [])
    assert "cascade pki ceremony" in host.printed("crl", "--ceremony", str(host.scratch / "another"))
    host.refused(2, "folder_unusable", "crl", "--ceremony", str(folder))
    host.refused(2, "root_unknown", "crl", "--ceremony", str(host.scratch / "third"), "--root", "root-7")
    # The machine with the root's key has the folder, the key and the passphrase.
    shutil.copy(offline / "root-ca.key.pem", folder / "root-1.key.pem")
    shutil.copy(host.directory / "secrets" / "passphrase", folder / "passphrase")
    assert main(["pki", "ceremony", made["file"], "--dry-run"]) == 0
    assert main(["pki", "ceremony", made["file"]]) == 0
    *_, root = host.pki("crl", "--import", str(folder / "root-1.2.crl.pem"))
    assert (root["number"], root["entries"]) == (2, 0)


@pytest.mark.parametrize(
    ("operators", "suggested"), [("its key was\nstolen\x7f", "cACompromise"), (NOT_NEEDED, "superseded")]
)
def test_the_prepared_ceremony_names_a_ca_that_is_not_trusted_any_more(
    host: Host, operators: str, suggested: str
) -> None:
    async def taint(admin: Admin) -> None:
        rows = [row for row in admin.parts.authorities.rows() if row.id == "nodes-1"]
        rows = [msgspec.structs.replace(row, state="tainted", reason=operators) for row in rows]
        others = [row for row in admin.parts.authorities.rows() if row.id != "nodes-1"]
        admin.parts.authorities.rows = lambda: (*others, *rows)  # type: ignore[method-assign]  # a state that rotation makes
        made = await prepare(admin, "root-1", host.scratch / "room")
        assert made.revokes == ("nodes-1",)

    host.open(taint)
    ceremony, _ = read_ceremony(host.scratch / "room" / "ceremony.toml")
    assert isinstance(ceremony, CrlCeremony)
    (revoked,) = ceremony.revoked
    assert (revoked.certificate.path, revoked.reason) == ("nodes-1.pem", suggested)
