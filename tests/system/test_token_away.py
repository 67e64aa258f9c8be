"""A CA's token is removed while the cloud runs: requests fail as `unavailable`, and succeed once the token is back."""

import secrets
from pathlib import Path

from cloud.crypto.keyfile import read_passphrase
from lab.cloud import Cloud
from lab.processes import ended, wait_until
from tests.simulators.forged_evidence import request
from tests.system.support.harness import forked, new_cloud
from tests.system.support.paper_node import SESSIONS, PaperNode, paper_tenant, secret_of
from tests.system.support.token import move_a_key_to_a_token
from tests.system.support.wire import new_key, once


def test_a_token_that_vanishes_and_comes_back(tmp_path: Path, installation: Cloud) -> None:
    cloud = new_cloud(tmp_path).copy_from(installation)
    passphrase = read_passphrase(cloud.directory / "secrets" / "passphrase")
    hsm = move_a_key_to_a_token(cloud, tmp_path / "hsm", secrets.token_hex(12), passphrase)
    with ended(cloud):
        up = forked(tmp_path, "cascade", "up", "--dir", str(cloud.directory), env=hsm.environment)
        cloud.process = up
        cloud.wait_up()
        code = secret_of(cloud.code(paper_tenant(cloud, tmp_path)))
        node = PaperNode(cloud, "patient").join(code)
        issued = "SELECT count(*) FROM certificate WHERE state = 'issued' AND profile = 'session'"
        before = cloud.rows("breakwater", issued)

        def status() -> int:
            return once(cloud, "fabric", "POST", SESSIONS, node.open_session(request(new_key()))).status

        hsm.take_away()
        for _ in range(3):
            once(cloud, "fabric", "POST", SESSIONS, node.open_session(request(new_key()))).refused("unavailable")
        assert cloud.rows("breakwater", issued) == before
        hsm.put_back()
        wait_until("a session once the token is back", lambda: status() < 300)
        assert node.session().chain
        assert up.running
        # Breakwater marks each record without a signature as orphaned at once, and never signs it later.
        assert cloud.rows("breakwater", "SELECT count(*) FROM certificate WHERE state = 'orphaned'")[0][0] >= 3
        session = "SELECT count(*) FROM certificate WHERE state = 'recorded' AND profile = 'session'"
        assert cloud.rows("breakwater", session) == [(0,)]
