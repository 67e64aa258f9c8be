"""`lab.stranger`: fetches the status of a certificate from a running cloud, and refuses an answer it cannot verify."""

from pathlib import Path

import pytest
from cryptography import x509

from lab.processes import StepFailed, ended
from lab.stranger import Stranger
from tests.system.support.harness import new_cloud

pytestmark = pytest.mark.slow


def test_a_stranger_gets_a_certificates_status_and_trusts_only_the_root(tmp_path: Path) -> None:
    cloud = new_cloud(tmp_path).init()
    leaf = x509.load_pem_x509_certificates((cloud.directory / "fabric" / "tls" / "chain.pem").read_bytes())[0]
    with ended(cloud):
        cloud.up()
        stranger = Stranger(cloud, tmp_path / "stranger")
        verdicts = stranger.asks(leaf)
        assert verdicts.ocsp == "good"
        assert not verdicts.on_crl
        (tmp_path / "stranger" / "cas.pem").write_bytes((tmp_path / "stranger" / "leaf.pem").read_bytes())
        with pytest.raises(StepFailed):
            stranger.crl(leaf)
        cloud.kill()
        with pytest.raises(StepFailed, match="curl"):
            stranger.asks(leaf)
