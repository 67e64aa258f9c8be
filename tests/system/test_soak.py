"""The drill `soak` with 200 certificates: `make drills PART=soak` issues 10,000."""

from pathlib import Path

import pytest

from lab.cloud import Cloud
from tests.drills.soak import REVOKED_OF, Soak, outcome

CERTIFICATES = 200


@pytest.mark.long(5)
def test_all_verifiers_agree_on_issued_and_revoked_certificates(cloud: Cloud, tmp_path: Path) -> None:
    scratch = tmp_path / "soak"
    scratch.mkdir()
    figures = Soak(cloud, scratch, seed=1, say=print).run(CERTIFICATES, pkilint_certificates=10, verified=20, asked=6)
    assert figures.good, outcome(figures, seed=1).findings
    assert figures.checked >= CERTIFICATES
    assert figures.pkilint_certificates == 10
    assert (figures.verified, figures.verified_revoked, figures.asked_ocsp) == (20, 10, 6)
    assert figures.crls["nodes-1.1"][0] == CERTIFICATES // REVOKED_OF
