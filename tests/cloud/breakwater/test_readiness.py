"""Readiness of an issuer names the CA key, the CRL or the OCSP responder that fails."""

from datetime import timedelta

from tests.cloud.breakwater.support import Issuer


async def codes(issuer: Issuer) -> tuple[str, list[str]]:
    report = await issuer.parts.readiness.report()
    return report.status, [fault.code for fault in report.faults]


async def test_an_issuer_that_works_is_ready_and_proves_that_it_can_write(issuer: Issuer) -> None:
    await issuer.parts.crl_publisher.run_once()
    assert await codes(issuer) == ("ready", [])
    await issuer.parts.stores.authorities.prove_writable()
    await issuer.parts.stores.authorities.prove_writable()


async def test_an_overdue_crl_degrades_an_issuer(issuer: Issuer) -> None:
    await issuer.parts.crl_publisher.run_once()
    issuer.clock.forward(timedelta(days=3))
    assert await codes(issuer) == ("degraded", ["crl_overdue"])
    await issuer.parts.crl_publisher.run_once()
    assert await codes(issuer) == ("ready", [])


async def test_a_ca_key_that_is_away_makes_it_unready_and_its_responder_overdue(issuer: Issuer) -> None:
    issuer.parts.signer.remove("nodes-1")
    await issuer.parts.ocsp_responder.run_once()
    assert await codes(issuer) == ("unready", ["ca_unavailable", "ocsp_signer_overdue"])
    report = await issuer.parts.readiness.report()
    assert "nodes-1" in report.faults[0].cause
    assert report.faults[1].cause.startswith("nodes-1: ")


async def test_a_ca_that_is_not_valid_now_makes_it_unready_and_is_named_with_the_next_step(issuer: Issuer) -> None:
    await issuer.parts.crl_publisher.run_once()
    issuer.clock.forward(timedelta(days=-365))
    assert (await codes(issuer))[0] == "unready"
    (fault,) = [each for each in (await issuer.parts.readiness.report()).faults if each.dependency == "ca"]
    assert fault.code == "ca_not_valid"
    assert "nodes-1 is not valid before" in fault.cause
    assert "cascade pki rotate request nodes" in fault.next
