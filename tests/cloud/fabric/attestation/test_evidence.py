"""`cloud.fabric.attestation.evidence`: challenge and certified key.

The first half forges evidence with paper chips, one mutation for each step. Paper chips cannot show what a TPM refuses
to do. So the second half makes the attacker's keys in software TPMs.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPMS_ECC_POINT,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
    TPMU_PUBLIC_ID,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template

from cloud.clock import utc_now
from cloud.fabric.attestation.ek_roots import parse_trust_pem, trusted_roots
from cloud.fabric.attestation.ek_trust import Chip, TenantTrust, check_chip
from cloud.fabric.attestation.evidence import make_challenge, verify_key
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from lab.tpm import SoftTpm
from node.hwbind import endorsement, keys
from node.hwbind import evidence as node_evidence
from node.hwbind.errors import TpmFailed, TpmIntegrity
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from protocol.endorsement import TEMPLATES
from protocol.evidence import EndorsementEvidence, KeyEvidence, qualifying_data
from protocol.ids import ActivationId
from protocol.limits import CSR_BYTES_MAX
from tests.shared_chips import shared_chip
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import (
    ACTIVATION,
    AK_ATTRIBUTES,
    NODE_KEY_ATTRIBUTES,
    SECRET,
    PaperChip,
    Proof,
    p256,
)

pytestmark = pytest.mark.slow

OTHER_ACTIVATION = ActivationId("act_01jd8xk3v5e2r9qz7w4m6n8p0b")


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ak(attributes: int = AK_ATTRIBUTES, **form: object) -> PaperChip:
    """A chip whose AK has other attributes or another form. It attests with this AK."""
    return PaperChip(ak_public=forged.signing_public(p256("ak").public_key(), attributes, **form))  # type: ignore[arg-type]


def node_key(attributes: int = NODE_KEY_ATTRIBUTES, **form: object) -> PaperChip:
    """A chip that certifies a node key with other attributes or another form."""
    return PaperChip(node_public=forged.signing_public(p256("node").public_key(), attributes, **form))  # type: ignore[arg-type]


def beside_the_curve(public: bytes) -> bytes:
    return public[:-1] + bytes([public[-1] ^ 1])


def rsa_public(attributes: int) -> bytes:
    return forged.ek_public(forged.rsa2048("ek").public_key(), attributes=attributes)


def again(part: str, change: Callable[[bytes], bytes]) -> Proof:
    """A correct proof in which one bytes field of the key evidence is changed after signing."""
    proof = PaperChip().prove()
    return proof.with_key(**{part: change(getattr(proof.key, part))})


def grown(raw: bytes) -> bytes:
    return raw + b"\0"


def resized(offset: int, size: int) -> Callable[[bytes], bytes]:
    """Set the size field at `offset` to `size`."""
    return lambda raw: raw[:offset] + size.to_bytes(2, "big") + raw[offset + 2 :]


def quoted() -> Proof:
    """A quote by the AK in the place of the certification."""
    quote = forged.pcr_quote(p256("ak"), b"a challenge")
    return PaperChip().prove().with_key(attestation=quote.attestation, signature=quote.signature)


REFUSED: dict[str, tuple[Callable[[], Proof], int, str]] = {
    # The attestation key.
    "AK empty": (lambda: replace(PaperChip().prove(), ak_public=b""), 13, "evidence_refused"),
    "AK trailing byte": (
        lambda: replace(PaperChip().prove(), ak_public=grown(PaperChip().prove().ak_public)),
        13,
        "evidence_refused",
    ),
    "AK false size": (
        lambda: replace(PaperChip().prove(), ak_public=resized(-34, 33)(PaperChip().prove().ak_public)),
        13,
        "evidence_refused",
    ),
    "AK unrestricted": (lambda: ak(AK_ATTRIBUTES & ~forged.RESTRICTED).prove(), 14, "evidence_refused"),
    "AK without fixedTPM": (lambda: ak(AK_ATTRIBUTES & ~forged.FIXED_TPM).prove(), 14, "evidence_refused"),
    "AK without fixedParent": (lambda: ak(AK_ATTRIBUTES & ~forged.FIXED_PARENT).prove(), 14, "evidence_refused"),
    "AK imported": (lambda: ak(AK_ATTRIBUTES & ~forged.ORIGIN).prove(), 14, "evidence_refused"),
    "AK without userWithAuth": (lambda: ak(AK_ATTRIBUTES & ~forged.USER_WITH_AUTH).prove(), 14, "evidence_refused"),
    "AK under lock-out": (lambda: ak(AK_ATTRIBUTES & ~forged.NO_DA).prove(), 14, "evidence_refused"),
    "AK cannot sign": (lambda: ak(AK_ATTRIBUTES & ~forged.SIGN).prove(), 14, "evidence_refused"),
    "AK decrypts": (lambda: ak(AK_ATTRIBUTES | forged.DECRYPT).prove(), 14, "evidence_refused"),
    "AK signs X.509": (lambda: ak(AK_ATTRIBUTES | 1 << 19).prove(), 14, "evidence_refused"),
    "AK with a reserved attribute": (lambda: ak(AK_ATTRIBUTES | 1).prove(), 14, "evidence_refused"),
    "AK is the EK": (
        lambda: replace(PaperChip().prove(), ak_public=forged.endorsement().ek_public),
        14,
        "evidence_refused",
    ),
    "AK is RSA": (lambda: PaperChip(ak_public=rsa_public(AK_ATTRIBUTES)).prove(), 15, "evidence_refused"),
    "AK with SHA-1 name": (lambda: ak(name_algorithm=4).prove(), 15, "evidence_refused"),
    "AK with SHA-1 scheme": (lambda: ak(parameters="0010 00180004 0003 0010").prove(), 15, "evidence_refused"),
    "AK on P-384": (lambda: ak(parameters="0010 0018000b 0004 0010").prove(), 15, "evidence_refused"),
    "AK with a policy": (lambda: ak(policy=bytes(32)).prove(), 15, "evidence_refused"),
    "AK beside the curve": (
        lambda: replace(PaperChip().prove(), ak_public=beside_the_curve(PaperChip().prove().ak_public)),
        15,
        "evidence_refused",
    ),
    # The node key.
    "key trailing byte": (lambda: again("public", grown), 16, "evidence_refused"),
    "key false size": (lambda: again("public", resized(-34, 31)), 16, "evidence_refused"),
    "key restricted": (lambda: node_key(NODE_KEY_ATTRIBUTES | forged.RESTRICTED).prove(), 17, "evidence_refused"),
    "key without fixedTPM": (lambda: node_key(NODE_KEY_ATTRIBUTES & ~forged.FIXED_TPM).prove(), 17, "evidence_refused"),
    "key without fixedParent": (
        lambda: node_key(NODE_KEY_ATTRIBUTES & ~forged.FIXED_PARENT).prove(),
        17,
        "evidence_refused",
    ),
    "key imported": (lambda: node_key(NODE_KEY_ATTRIBUTES & ~forged.ORIGIN).prove(), 17, "evidence_refused"),
    "key under lock-out": (lambda: node_key(NODE_KEY_ATTRIBUTES & ~forged.NO_DA).prove(), 17, "evidence_refused"),
    "key decrypts": (lambda: node_key(NODE_KEY_ATTRIBUTES | forged.DECRYPT).prove(), 17, "evidence_refused"),
    "key is RSA": (lambda: PaperChip(node_public=rsa_public(NODE_KEY_ATTRIBUTES)).prove(), 18, "evidence_refused"),
    "key with any scheme": (lambda: node_key(parameters="0010 0010 0003 0010").prove(), 18, "evidence_refused"),
    "key with SHA-384 name": (lambda: node_key(name_algorithm=12).prove(), 18, "evidence_refused"),
    "key beside the curve": (lambda: again("public", beside_the_curve), 18, "evidence_refused"),
    # The attestation.
    "attestation trailing byte": (lambda: again("attestation", grown), 19, "evidence_refused"),
    "attestation cut": (lambda: again("attestation", lambda raw: raw[:-1]), 19, "evidence_refused"),
    "attestation false size": (lambda: again("attestation", resized(6, 0xFFFF)), 19, "evidence_refused"),
    "signature trailing byte": (lambda: again("signature", grown), 20, "evidence_refused"),
    "signature false size": (lambda: again("signature", resized(4, 31)), 20, "evidence_refused"),
    "signature by SHA-1": (lambda: again("signature", resized(2, 4)), 20, "evidence_refused"),
    "signature by RSA": (lambda: again("signature", resized(0, 0x14)), 20, "evidence_refused"),
    "signature of zeros": (
        lambda: again("signature", lambda _: bytes.fromhex("0018000b") + forged.sized(bytes(32)) * 2),
        21,
        "evidence_refused",
    ),
    "signed by another AK": (lambda: PaperChip(signer=p256("other ak")).prove(), 21, "evidence_refused"),
    "signed by the node key": (lambda: PaperChip(signer=p256("node")).prove(), 21, "evidence_refused"),
    "other magic": (lambda: PaperChip(magic=0xFF544348).prove(), 22, "evidence_refused"),
    "a certification that says it is a quote": (lambda: PaperChip(kind=forged.QUOTE).prove(), 19, "evidence_refused"),
    "a quote": (quoted, 23, "evidence_refused"),
    "another nonce": (lambda: PaperChip(extra_data=bytes(32)).prove(), 24, "evidence_refused"),
    "no nonce": (lambda: PaperChip(extra_data=b"").prove(), 24, "evidence_refused"),
    "another challenge's secret": (lambda: PaperChip(nonce_secret=bytes(32)).prove(), 24, "evidence_refused"),
    "another activation": (lambda: PaperChip(nonce_activation=OTHER_ACTIVATION).prove(), 24, "evidence_refused"),
    "another CSR": (lambda: PaperChip(nonce_csr=forged.request(p256("other"))).prove(), 24, "evidence_refused"),
    "replayed in another activation": (
        lambda: replace(PaperChip().prove(), activation=OTHER_ACTIVATION),
        24,
        "evidence_refused",
    ),
    "wrong name": (lambda: PaperChip(name=b"\x00\x0b" + bytes(32)).prove(), 25, "evidence_refused"),
    "no name": (lambda: PaperChip(name=b"\x00").prove(), 25, "evidence_refused"),
    "another key certified": (
        lambda: PaperChip(
            name=forged.name_of(forged.signing_public(p256("other").public_key(), NODE_KEY_ATTRIBUTES))
        ).prove(),
        25,
        "evidence_refused",
    ),
    # The certificate request.
    "CSR empty": (lambda: replace(PaperChip(csr=b"").prove(), csr=b""), 26, "csr_refused"),
    "CSR is none": (lambda: PaperChip(csr=b"\x30\x00").prove(), 26, "csr_refused"),
    "CSR trailing byte": (lambda: PaperChip(csr=forged.request(p256("node")) + b"\0").prove(), 26, "csr_refused"),
    "CSR oversized": (lambda: PaperChip(csr=bytes(CSR_BYTES_MAX + 1)).prove(), 26, "csr_refused"),
    "CSR of another key": (lambda: PaperChip(csr=forged.request(p256("software"))).prove(), 27, "csr_refused"),
    "CSR of the AK": (lambda: PaperChip(csr=forged.request(p256("ak"))).prove(), 27, "csr_refused"),
    "CSR with bad signature": (
        lambda: PaperChip(csr=forged.request_with_bad_signature(p256("node"))).prove(),
        28,
        "csr_refused",
    ),
    "CSR with SHA-384": (
        lambda: PaperChip(csr=forged.request(p256("node"), hashes.SHA384())).prove(),
        28,
        "csr_refused",
    ),
}


def verify(proof: Proof) -> bytes:
    return verify_key(proof.key, proof.ak_public, proof.secret, proof.activation, proof.csr).spki


def test_a_right_proof() -> None:
    assert verify(PaperChip().prove()) == spki(p256("node").public_key())


@pytest.mark.parametrize("modulus", [0, 1, 3, 2**2047, 2**2048 - 2])
def test_no_challenge_is_made_to_numbers_that_are_no_key(modulus: int) -> None:
    """No certificate vouches for the EK at the tier `tpm`, so the caller chooses the modulus."""
    public = TEMPLATES["rsa2048"].public(modulus)
    trust = TenantTrust(roots=(), allowed_ek_names=frozenset(), tiers=frozenset({"tpm"}))
    found = check_chip(EndorsementEvidence(ek_public=public, ak_public=b""), trust, utc_now())
    with pytest.raises(EvidenceRefused, match="not a key") as refused:
        make_challenge(found, PaperChip().prove().ak_public, SECRET)
    assert (refused.value.step, refused.value.code) == (4, "evidence_refused")


@pytest.mark.parametrize("mutation", REFUSED)
def test_forged_key_evidence(mutation: str) -> None:
    forge, step, code = REFUSED[mutation]
    with pytest.raises(EvidenceRefused) as refused:
        verify(forge())
    assert (refused.value.step, refused.value.code) == (step, code), refused.value.reason
    assert refused.value.reason


def test_the_mutations_walk_every_step() -> None:
    assert {step for _, step, _ in REFUSED.values()} == set(range(13, 29))


@pytest.mark.parametrize("mutation", [name for name, (_, step, _) in REFUSED.items() if step <= 15])
def test_no_challenge_is_made_to_a_forged_ak(mutation: str) -> None:
    forge, step, _ = REFUSED[mutation]
    public = forged.endorsement().ek_public
    chip = Chip(forged.name_of(public), "attested", "rsa2048", public)
    with pytest.raises(EvidenceRefused) as refused:
        make_challenge(chip, forge().ak_public, SECRET)
    assert refused.value.step == step


PROOF = PaperChip().prove()


@pytest.mark.parametrize("part", ["public", "attestation", "signature"])
@given(position=st.integers(0, 400), change=st.integers(1, 255))
def test_no_changed_byte_verifies(part: str, position: int, change: int) -> None:
    raw = bytearray(getattr(PROOF.key, part))
    raw[position % len(raw)] ^= change
    with pytest.raises(EvidenceRefused):
        verify(PROOF.with_key(**{part: bytes(raw)}))


@given(position=st.integers(0, 400), change=st.integers(1, 255))
def test_no_changed_byte_of_ak_request_or_secret_verifies(position: int, change: int) -> None:
    for part in ("ak_public", "csr", "secret"):
        raw = bytearray(getattr(PROOF, part))
        raw[position % len(raw)] ^= change
        with pytest.raises(EvidenceRefused):
            verify(replace(PROOF, **{part: bytes(raw)}))  # type: ignore[arg-type]


@given(parts=st.tuples(*[st.binary(max_size=200)] * 3))
def test_no_bytes_make_another_error(parts: tuple[bytes, bytes, bytes]) -> None:
    with pytest.raises(EvidenceRefused):
        verify(replace(PROOF, key=KeyEvidence(*parts)))


# On software TPMs.


class Machine:
    """A running software TPM, and the node's side of the exchange."""

    def __init__(self, soft: SoftTpm) -> None:
        self.tpm = Tpm(soft.tcti)
        self.ak = self.tpm.call(keys.create_ak)
        self.node_key = self.tpm.call(keys.create_node_key)
        self.csr = self.request(self.node_key)
        self.endorsement = self.tpm.call(partial(node_evidence.endorsement_evidence, ak=self.ak))

    def request(self, key: WrappedKey) -> bytes:
        return self.tpm.call(partial(keys.certificate_request, key=key))

    def answer(self, challenge: tuple[bytes, bytes], ak: WrappedKey | None = None) -> bytes:
        blob, secret = challenge
        return self.tpm.call(lambda esys: endorsement.activate_credential(esys, ak or self.ak, blob, secret))

    def evidence(
        self, qualifying: bytes, *, key: WrappedKey | None = None, ak: WrappedKey | None = None
    ) -> KeyEvidence:
        return self.tpm.call(
            lambda esys: node_evidence.key_evidence(esys, key or self.node_key, ak or self.ak, qualifying)
        )

    def create(self, attributes: str) -> WrappedKey:
        """A P-256 key with other attributes, under the same storage key."""
        template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=attributes)
        return self.tpm.call(lambda esys: keys._create(esys, template))


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine, TenantTrust]]:
    """Two machines with chips of one maker, and a tenant that trusts the maker."""
    directory: Path = tmp_path_factory.mktemp("verifier")
    first, second = (shared_chip(tmp_path_factory, directory / str(number), number) for number in range(2))
    with first as one, second as two:
        file = parse_trust_pem(one.ek_roots_pem.read_bytes() + one.ek_intermediates_pem.read_bytes())
        roots = trusted_roots([(der, "rsa2048") for der in (*file.roots, *file.intermediates)])
        machines = Machine(one), Machine(two)
        yield *machines, TenantTrust(roots=roots, allowed_ek_names=frozenset(), tiers=frozenset({"attested"}))
        for machine in machines:
            machine.tpm.close()


@pytest.fixture
def machine(makers: tuple[Machine, Machine, TenantTrust]) -> Machine:
    return makers[0]


@pytest.fixture
def stranger(makers: tuple[Machine, Machine, TenantTrust]) -> Machine:
    return makers[1]


@pytest.fixture
def trust(makers: tuple[Machine, Machine, TenantTrust]) -> TenantTrust:
    return makers[2]


@pytest.fixture
def chip(machine: Machine, trust: TenantTrust) -> Chip:
    return check_chip(machine.endorsement, trust, utc_now())


def refused_step(work: Callable[[], object]) -> int:
    with pytest.raises(EvidenceRefused) as refused:
        work()
    return refused.value.step


def test_a_whole_exchange(machine: Machine, chip: Chip) -> None:
    assert (chip.tier, chip.ek_name) == ("attested", forged.name_of(machine.endorsement.ek_public))
    released = machine.answer(make_challenge(chip, machine.ak.public, SECRET))
    assert released == SECRET
    evidence = machine.evidence(qualifying_data(released, ACTIVATION, machine.csr))
    key = verify_key(evidence, machine.ak.public, SECRET, ACTIVATION, machine.csr)
    assert key.spki == spki(machine.node_key.public_key())


def test_the_library_s_entropy_makes_every_challenge_another(machine: Machine, chip: Chip) -> None:
    one, two = (make_challenge(chip, machine.ak.public, SECRET) for _ in range(2))
    assert one[0] != two[0]
    assert one[1] != two[1]
    assert SECRET not in one[0] + one[1]
    assert machine.answer(one) == machine.answer(two) == SECRET


def test_another_chip_does_not_answer(stranger: Machine, chip: Chip) -> None:
    """The emulator answers with failure (0x101) if the encrypted secret is larger than its modulus."""
    for _ in range(8):
        with pytest.raises((TpmIntegrity, TpmFailed)):
            stranger.answer(make_challenge(chip, stranger.ak.public, SECRET))


def test_another_ak_of_the_chip_does_not_answer(machine: Machine, chip: Chip) -> None:
    other = machine.tpm.call(keys.create_ak)
    with pytest.raises(TpmIntegrity):
        machine.answer(make_challenge(chip, machine.ak.public, SECRET), other)


def test_a_key_in_another_chip(machine: Machine, stranger: Machine) -> None:
    """A relay attack: one chip answers the challenge, and another chip certifies its key."""
    evidence = stranger.evidence(qualifying_data(SECRET, ACTIVATION, stranger.csr))
    assert refused_step(lambda: verify_key(evidence, machine.ak.public, SECRET, ACTIVATION, stranger.csr)) == 21


def test_the_certificate_of_another_chip(machine: Machine, stranger: Machine, trust: TenantTrust) -> None:
    evidence = EndorsementEvidence(
        ek_public=stranger.endorsement.ek_public,
        ak_public=stranger.ak.public,
        ek_certificate=machine.endorsement.ek_certificate,
    )
    assert refused_step(lambda: check_chip(evidence, trust, utc_now())) == 6


OURS = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"


@pytest.mark.parametrize(
    "attributes",
    [OURS, "sensitivedataorigin|userwithauth|noda|sign|restricted", f"{OURS}|restricted|stclear"],
)
def test_other_attestation_keys_get_no_challenge(machine: Machine, chip: Chip, attributes: str) -> None:
    forger = machine.create(attributes)
    assert refused_step(lambda: make_challenge(chip, forger.public, SECRET)) == 14


@pytest.mark.parametrize(
    "attributes",
    [f"{OURS}|restricted", "sensitivedataorigin|userwithauth|noda|sign", f"{OURS}|stclear", OURS.replace("|noda", "")],
)
def test_other_keys_truly_certified(machine: Machine, attributes: str) -> None:
    other = machine.create(attributes)
    evidence = machine.evidence(qualifying_data(SECRET, ACTIVATION, machine.csr), key=other)
    assert refused_step(lambda: verify_key(evidence, machine.ak.public, SECRET, ACTIVATION, machine.csr)) == 17


@pytest.mark.parametrize(
    ("secret", "activation"), [(bytes(32), ACTIVATION), (SECRET, OTHER_ACTIVATION)], ids=["secret", "activation"]
)
def test_an_attestation_of_an_earlier_challenge(machine: Machine, secret: bytes, activation: ActivationId) -> None:
    evidence = machine.evidence(qualifying_data(secret, activation, machine.csr))
    assert refused_step(lambda: verify_key(evidence, machine.ak.public, SECRET, ACTIVATION, machine.csr)) == 24


def test_a_request_for_a_software_key(machine: Machine) -> None:
    csr = forged.request(p256("software"))
    evidence = machine.evidence(qualifying_data(SECRET, ACTIVATION, csr))
    assert refused_step(lambda: verify_key(evidence, machine.ak.public, SECRET, ACTIVATION, csr)) == 27


def test_a_software_key_cannot_be_attested_by_a_restricted_key(machine: Machine) -> None:
    """The TPM gives no ticket for outside data that begin with TPM_GENERATED_VALUE, and signs only with a ticket."""
    public = forged.signing_public(p256("software").public_key(), NODE_KEY_ATTRIBUTES)
    csr = forged.request(p256("software"))
    statement = forged.attestation(forged.name_of(public), qualifying_data(SECRET, ACTIVATION, csr))

    def sign(esys: ESAPI) -> int:
        digest, ticket = esys.hash(statement, TPM2_ALG.SHA256, ESYS_TR.OWNER)
        with keys.loaded(esys, machine.ak) as (handle,):
            try:
                esys.sign(handle, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)
            except TSS2_Exception as error:
                return int(error.rc)
        return 0

    assert machine.tpm.call(sign) == 0x3E0  # TPM_RC_TICKET, third parameter


def test_a_software_key_attested_by_an_unrestricted_key(machine: Machine, chip: Chip) -> None:
    """An unrestricted key signs any data. So it gets no challenge, and its attestation is refused."""
    forger = machine.create(OURS)
    public = forged.signing_public(p256("software").public_key(), NODE_KEY_ATTRIBUTES)
    csr = forged.request(p256("software"))
    statement = forged.attestation(forged.name_of(public), qualifying_data(SECRET, ACTIVATION, csr))

    def sign(esys: ESAPI) -> bytes:
        digest, _ = esys.hash(statement, TPM2_ALG.SHA256, ESYS_TR.OWNER)
        ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        with keys.loaded(esys, forger) as (handle,):
            return bytes(esys.sign(handle, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket).marshal())

    evidence = KeyEvidence(public=public, attestation=statement, signature=machine.tpm.call(sign))
    assert refused_step(lambda: verify_key(evidence, forger.public, SECRET, ACTIVATION, csr)) == 14
    assert refused_step(lambda: make_challenge(chip, forger.public, SECRET)) == 14
    # The public with overwritten attributes has another name than the key in the TPM.
    dressed = forger.public[:4] + AK_ATTRIBUTES.to_bytes(4, "big") + forger.public[8:]
    with pytest.raises(TpmIntegrity):
        machine.answer(make_challenge(chip, dressed, SECRET), forger)


def test_a_software_ak_does_not_release_the_secret(machine: Machine, chip: Chip) -> None:
    """A TPM loads only the public part of a software key with an AK's attributes, and releases no secret to it."""
    public = forged.signing_public(p256("software ak").public_key(), AK_ATTRIBUTES)
    blob, secret = make_challenge(chip, public, SECRET)

    def release(esys: ESAPI) -> int:
        area, _ = TPMT_PUBLIC.unmarshal(public)
        handle = esys.load_external(TPM2B_PUBLIC(publicArea=area), hierarchy=ESYS_TR.NULL)
        try:
            with (
                endorsement._endorsement_key(esys, "rsa2048", endorsement.read_store(esys)) as (ek, ek_area, _),
                endorsement._endorsement_authorisation(esys, ek_area) as session,
            ):
                esys.activate_credential(
                    handle,
                    ek,
                    TPM2B_ID_OBJECT.unmarshal(blob)[0],
                    TPM2B_ENCRYPTED_SECRET.unmarshal(secret)[0],
                    session1=ESYS_TR.PASSWORD,
                    session2=session,
                )
            return 0
        except TSS2_Exception as error:
            return int(error.rc)
        finally:
            esys.flush_context(handle)

    assert machine.tpm.call(release) == 0x12F  # TPM_RC_AUTH_UNAVAILABLE


def test_one_of_the_many_eks_of_a_chip(machine: Machine, trust: TenantTrust) -> None:
    """With another `unique` the chip makes another EK. That EK answers challenges too, but has no certificate."""

    def vary(esys: ESAPI) -> bytes:
        _, template = create_ek_template("EK-RSA2048", NVReadEK(esys))
        template.publicArea.unique = TPMU_PUBLIC_ID(rsa=b"\x01" + bytes(255))
        return created(esys, template)

    public = machine.tpm.call(vary)
    assert public != machine.endorsement.ek_public
    certified = EndorsementEvidence(public, machine.ak.public, machine.endorsement.ek_certificate)
    bare = EndorsementEvidence(public, machine.ak.public)
    assert refused_step(lambda: check_chip(certified, trust, utc_now())) == 6
    assert refused_step(lambda: check_chip(bare, trust, utc_now())) == 12
    lenient = TenantTrust(trust.roots, frozenset(), frozenset({"attested", "tpm"}))
    assert check_chip(bare, lenient, utc_now()).tier == "tpm"


def test_an_ecc_ek_of_the_chip(machine: Machine, trust: TenantTrust) -> None:
    def make(esys: ESAPI) -> bytes:
        _, template = create_ek_template("EK-ECC256", NVReadEK(esys))
        template.publicArea.unique = TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=bytes(32), y=bytes(32)))
        return created(esys, template)

    public = machine.tpm.call(make)
    evidence = EndorsementEvidence(public, machine.ak.public, machine.endorsement.ek_certificate)
    assert refused_step(lambda: check_chip(evidence, trust, utc_now())) == 2
    # If this type identifies the maker's chips, the EK answers a challenge like any other EK.
    chip = Chip(forged.name_of(public), "attested", "ecc_p256", public)
    blob, secret = make_challenge(chip, machine.ak.public, SECRET)
    released = machine.tpm.call(
        lambda esys: endorsement.activate_credential(esys, machine.ak, blob, secret, chip.ek_name)
    )
    assert released == SECRET


def created(esys: ESAPI, template: TPM2B_PUBLIC) -> bytes:
    """`TPMT_PUBLIC` of a primary key in the endorsement hierarchy. The key is flushed at once."""
    handle, public, *_ = esys.create_primary(None, template, primary_handle=ESYS_TR.ENDORSEMENT)
    esys.flush_context(handle)
    return bytes(public.publicArea.marshal())
