"""`cloud.breakwater.checks.pkilint`: our certificates, CRLs and OCSP responses have no findings except waived ones."""

import sys
from datetime import timedelta

import pytest

from cloud.breakwater.ceremony.signing import make_root_crl
from cloud.breakwater.checks import pkilint
from cloud.breakwater.checks.pkilint import WAIVED, all_findings, pkilint_findings, waiver_of
from cloud.breakwater.errors import PkilintMissing
from cloud.breakwater.keys.signer import Signer
from cloud.breakwater.pkix.crl import Entry, make_crl, want_crl
from cloud.breakwater.pkix.linted import assemble
from cloud.breakwater.pkix.ocsp import Question, Status, answer, cert_ids
from cloud.breakwater.pkix.profiles import build
from tests.cloud.breakwater.chains import NOW, load, local, make_chain, pem, specimens, where

pytestmark = pytest.mark.slow

WAIVED_IN = {
    "device": {"pkix.invalid_uri_syntax"},
    "session": {"pkix.invalid_uri_syntax"},
    "service": {"pkix.invalid_uri_syntax", "pkix.invalid_domain_name_syntax"},
}
"""The waivers that each profile needs. Profiles that are not listed need none."""


async def test_one_certificate_of_each_profile() -> None:
    for name, (der, _) in (await specimens()).items():
        assert [str(finding) for finding in pkilint_findings(der, "certificate")] == [], name
        assert {finding.code for finding in all_findings(der, "certificate")} == WAIVED_IN.get(name, set()), name


async def test_a_shards_list_and_the_roots() -> None:
    chain = await make_chain()
    entries = [Entry(5, NOW, 2), Entry(6, NOW)]
    root_list = await make_root_crl(1, entries, chain.root, chain.root_key, NOW, timedelta(days=180))
    signer = Signer()
    signer.add(chain.nodes, chain.nodes_key)
    wanted = want_crl(7, NOW, timedelta(days=7), entries, where(chain.nodes).crl_url)
    shard = await signer.sign(make_crl(wanted, chain.nodes))
    for der in (root_list, shard):
        assert all_findings(der, "crl") == []


@pytest.mark.parametrize("status", [Status("good"), Status("unknown"), Status("revoked", NOW, 1)])
async def test_answers_over_ocsp(status: Status) -> None:
    made = await specimens()
    chain = await make_chain()
    for nonce in (None, b"n" * 32):
        question = Question(cert_ids(chain.nodes)[0], load(made["device"][0]).serial_number, nonce)
        key = local(21)._private_key
        der = answer(question, status, load(made["responder"][0]), key, NOW, NOW + timedelta(hours=12))
        assert all_findings(der, "ocsp") == []


async def test_it_is_awake() -> None:
    """pkilint reports a wrong certificate. This certificate has no subject key identifier."""
    chain = await make_chain()
    wanted, issuer = chain.wanted()["session"]
    tbs = build(wanted, issuer)
    mutated = tbs.replace(bytes.fromhex("301d0603551d0e0416"), bytes.fromhex("301d0603551d630416"))
    found = {finding.code for finding in pkilint_findings(_dressed(mutated), "certificate")}
    assert "pkix.certificate_skid_end_entity_missing" in found


def _dressed(tbs: bytes) -> bytes:
    return assemble(tbs, "secp256r1", bytes.fromhex("3006020101020101"))


def test_every_waiver_has_a_reason_and_fits_only_its_finding() -> None:
    assert {waiver.code for waiver in WAIVED} == {"itu.invalid_asn1_syntax"}.union(*WAIVED_IN.values())
    for waiver in WAIVED:
        assert len(waiver.reason) > 80
        other = pkilint.Finding(waiver.code, "ERROR", "certificate", "something else")
        assert waiver_of(other) is None
    for detail in ('Invalid URI syntax: "http:x"', 'Invalid URI syntax: "spiffe://a/b?c"'):
        assert waiver_of(pkilint.Finding("pkix.invalid_uri_syntax", "ERROR", "", detail)) is None


def test_without_pkilint_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pkilint._linter.cache_clear()
    monkeypatch.setitem(sys.modules, "pkilint", None)
    with pytest.raises(PkilintMissing, match="extra `check`"):
        pkilint_findings(b"\x30\x00", "certificate")


async def test_invalid_der_is_a_value_error() -> None:
    for bad in (b"", b"\x30\x05junk", pem((await specimens())["root"][0])):
        with pytest.raises(ValueError):  # noqa: PT011  the text is pkilint's
            pkilint_findings(bad, "certificate")
