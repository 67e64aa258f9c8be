"""`cloud.fabric.attestation.verifier`: the adapter passes every argument to the checks of its package."""

from datetime import UTC, datetime

import pytest

from cloud.fabric.attestation import ek_trust, evidence
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from cloud.fabric.attestation.verifier import TpmVerifier, Verifier
from protocol.evidence import EndorsementEvidence
from protocol.ids import ActivationId, make_id
from tests.simulators.forged_evidence import AK_ATTRIBUTES, PaperChip, ek_public, p256, rsa2048, signing_public

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACTIVATION = ActivationId(make_id("act", 1, bytes(10)))
SECRET = b"s" * evidence.SECRET_BYTES
AK = signing_public(p256("ak").public_key(), AK_ATTRIBUTES)


def test_each_check_is_the_packages_own() -> None:
    verifier: Verifier = TpmVerifier()
    public = ek_public(rsa2048("ek").public_key())
    claim = EndorsementEvidence(public, AK)
    trust = TenantTrust(roots=(), allowed_ek_names=frozenset(), tiers=frozenset({"tpm"}))
    chip = verifier.check_chip(claim, trust, NOW)
    assert chip == ek_trust.check_chip(claim, trust, NOW)
    assert chip.tier == "tpm"
    blob, encrypted = verifier.make_challenge(chip, AK, SECRET)
    assert blob
    assert encrypted
    paper = PaperChip(ak=p256("ak"), node_key=p256("node"), nonce_secret=SECRET, nonce_activation=ACTIVATION).prove()
    key = verifier.verify_key(paper.key, AK, SECRET, ACTIVATION, paper.csr)
    assert key.spki == evidence.verify_key(paper.key, AK, SECRET, ACTIVATION, paper.csr).spki


def test_a_key_is_certified_over_the_digest_of_a_request() -> None:
    verifier: Verifier = TpmVerifier()
    digest = b"d" * 32
    paper = PaperChip(ak=p256("ak"), node_key=p256("node"), extra_data=digest).prove()
    key = verifier.verify_key_in_request(paper.key, AK, digest, paper.csr)
    assert key.spki == evidence.verify_key_in_request(paper.key, AK, digest, paper.csr).spki
    with pytest.raises(EvidenceRefused, match="the attestation is for another request") as caught:
        verifier.verify_key_in_request(paper.key, AK, b"e" * 32, paper.csr)
    assert caught.value.step == 24
    other = signing_public(p256("other ak").public_key(), AK_ATTRIBUTES)
    with pytest.raises(EvidenceRefused, match="did not sign"):
        verifier.verify_key_in_request(paper.key, other, digest, paper.csr)


def test_refusals_pass() -> None:
    verifier = TpmVerifier()
    without_roots = TenantTrust(roots=(), allowed_ek_names=frozenset(), tiers=frozenset({"attested"}))
    claim = EndorsementEvidence(ek_public(rsa2048("ek").public_key()), AK)
    with pytest.raises(EvidenceRefused):
        verifier.check_chip(claim, without_roots, NOW)
    with pytest.raises(EvidenceRefused):
        verifier.make_challenge(Chip(b"name", "tpm", "rsa2048", claim.ek_public), b"no key", SECRET)
