"""EST over mutual TLS with a real Breakwater."""

import pytest
from cryptography import x509

from cloud.mtls.client import ProblemAnswer
from cloud.mtls.est_client import EstClient
from cloud.mtls.identity import make_csr
from tests.cloud.breakwater.live import Live
from tests.cloud.breakwater.support import new_key

pytestmark = pytest.mark.slow


async def test_refusals_differ_from_other_answers(live: Live) -> None:
    async with live.fabric() as fabric, live.anonymous() as anonymous:
        with pytest.raises(ProblemAnswer) as caught:
            await EstClient(anonymous).reenroll(make_csr(new_key()), "r")
        assert caught.value.problem.code == "peer_required"
        with pytest.raises(ProblemAnswer) as caught:
            await EstClient(fabric).reenroll(make_csr(new_key()), "not a name")
        assert caught.value.problem.code == "invalid"
        cas = await EstClient(fabric).ca_certificates()
    certs = live.home / "breakwater" / "certs"
    files = {x509.load_pem_x509_certificate(path.read_bytes()) for path in certs.glob("*.pem")}
    assert {x509.load_der_x509_certificate(ca) for ca in cas} == files
