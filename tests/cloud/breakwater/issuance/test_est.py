"""`cloud.breakwater.issuance.est`: the caller determines the certificate's names; ids of requests without an id."""

import hashlib
from datetime import timedelta

import pytest

from cloud.breakwater.errors import CsrRefused, IssuanceLost, NotAdmitted, ValueRefused
from cloud.breakwater.issuance.est import Est
from cloud.http.guard import Credentials
from cloud.mtls.identity import make_csr
from cloud.mtls.peer import AnonymousPeer, NodePeer, ServicePeer
from protocol.ids import NodeSpiffeId, ServiceSpiffeId
from protocol.messages.sessions import Certificate
from tests.cloud.breakwater.support import SPIFFE, START, TRUST_DOMAIN, Issuer, new_key

CSR = make_csr(new_key())
DIGEST = hashlib.sha256(CSR).hexdigest()
FABRIC_ID = ServiceSpiffeId(TRUST_DOMAIN, "fabric")
HOST = "192.0.2.1"
HOUR = timedelta(hours=1)


class Recorder:
    """An issuer that records its calls, and raises `error` if it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    async def issue_service(
        self, name: str, csr_der: bytes, request_id: str, caller: str, shown: int = 0
    ) -> Certificate:
        self.asked.append((name, csr_der, request_id, caller, shown))
        if self.error is not None:
            raise self.error
        return Certificate((b"leaf", b"ca"))

    async def renew_device(self, spiffe: NodeSpiffeId, generation: int, csr_der: bytes, request_id: str) -> Certificate:
        self.asked.append((spiffe, generation, csr_der, request_id))
        return Certificate((b"leaf", b"ca"))


def est_over(issuer: Issuer) -> tuple[Est, Recorder]:
    recorder = Recorder()
    return Est(recorder, issuer.parts.enrolments, lambda: (b"root",)), recorder


async def test_a_service_that_enrols_is_the_one_its_secret_was_made_for(issuer: Issuer) -> None:
    est, recorder = est_over(issuer)
    secret = await issuer.parts.enrolments.create("fabric", "operator/anna", HOUR)
    assert await est.enrol(Credentials("fabric", secret), CSR, HOST) == b"leaf"
    (row,) = await issuer.parts.enrolments.list()
    assert recorder.asked == [("fabric", CSR, DIGEST, f"enrolment/{row.id}", 0)]
    assert row.csr_sha256 == DIGEST


@pytest.mark.parametrize(
    ("error", "bound"), [(CsrRefused("no"), False), (NotAdmitted("no"), False), (IssuanceLost(), True)]
)
async def test_a_refused_csr_frees_the_secret(issuer: Issuer, error: Exception, bound: bool) -> None:
    est, recorder = est_over(issuer)
    secret = await issuer.parts.enrolments.create("fabric", "operator/anna", HOUR)
    recorder.error = error
    with pytest.raises(type(error)):
        await est.enrol(Credentials("fabric", secret), CSR, HOST)
    (row,) = await issuer.parts.enrolments.list()
    assert row.csr_sha256 == (DIGEST if bound else "")


async def test_a_service_renews_for_itself_and_a_node_its_session_generation(issuer: Issuer) -> None:
    est, recorder = est_over(issuer)
    service, node = ServicePeer(FABRIC_ID, 0xABC, START), NodePeer(SPIFFE, 3, 7, START, START)
    assert await est.reenrol(service, CSR) == b"leaf"
    assert await est.reenrol(service, CSR, "r-1") == b"leaf"
    assert await est.reenrol(node, CSR) == b"leaf"
    assert await est.reenrol(node, CSR, "n-1") == b"leaf"
    assert recorder.asked == [
        ("fabric", CSR, f"{DIGEST}.abc", "service/fabric", 0xABC),
        ("fabric", CSR, "r-1", "service/fabric", 0xABC),
        (SPIFFE, 3, CSR, DIGEST),
        (SPIFFE, 3, CSR, "n-1"),
    ]


async def test_anonymous_callers_cannot_renew_and_request_ids_are_bounded(issuer: Issuer) -> None:
    est, recorder = est_over(issuer)
    with pytest.raises(NotAdmitted):
        await est.reenrol(AnonymousPeer(), CSR)
    for name in ("a b", "a/b", "a" * 129):
        with pytest.raises(ValueRefused):
            await est.reenrol(ServicePeer(FABRIC_ID, 1, START), CSR, name)
    assert recorder.asked == []
    assert est.ca_certificates() == (b"root",)
