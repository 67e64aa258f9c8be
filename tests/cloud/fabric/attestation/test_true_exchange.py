"""A true exchange of a software TPM with a whole Fabric, and forgeries of it: each is one mutation with its own refusal.

The TPM makes everything once. A row changes one part. A part that must be signed again is signed by the TPM itself, as
an attacker with the machine could do. After each row, no row of Fabric's database has changed, and at the end the true
exchange still succeeds. `test_ek_trust.py`, `test_evidence.py` and `test_pcr_quotes.py` have rows that no TPM can make.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tpm2_pytss.constants import TPM2_ALG
from tpm2_pytss.types import TPMT_SIG_SCHEME

from cloud.fabric import errors, schemas
from cloud.fabric.attestation.tpm_structures import EvidenceRefused
from lab.postgres import located
from node.hwbind import endorsement, evidence, keys
from node.hwbind.errors import TpmIntegrity
from node.hwbind.keys import WrappedKey
from node.hwbind.tpm import Tpm
from protocol.endorsement import TEMPLATES
from protocol.evidence import EndorsementEvidence, KeyEvidence, PcrQuote, qualifying_data, quoted_data
from protocol.ids import ActivationId
from protocol.messages.activation import Activated, Challenge, ProveActivation, StartActivation
from protocol.problems import KINDS
from tests.cloud.fabric.support import ALICE, FINGERPRINT, World
from tests.shared_chips import shared_chip
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import NOW, maker

pytestmark = pytest.mark.slow

HEAD = len(TEMPLATES["rsa2048"].head)
Start = Callable[["Site"], StartActivation]
Prove = Callable[["Site"], ProveActivation]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    with shared_chip(tmp_path_factory, tmp_path_factory.mktemp("tpm") / "chip") as running:
        port = Tpm(running.tcti, command_seconds_max=10.0)
        yield port
        port.close()


@dataclass
class Site:
    """A machine with a TPM, a Fabric, and the true exchange between them up to the proof."""

    world: World
    tpm: Tpm
    code: str
    ak: WrappedKey
    other_ak: WrappedKey
    node_key: WrappedKey
    other_key: WrappedKey
    evidence: EndorsementEvidence
    challenge: Challenge | None = None
    proof: ProveActivation | None = None

    def start(self, **parts: Any) -> StartActivation:
        return StartActivation(self.code, msgspec.structs.replace(self.evidence, **parts), "1.0")

    @property
    def ek(self) -> rsa.RSAPublicKey:
        modulus = int.from_bytes(self.evidence.ek_public[HEAD + 2 :], "big")
        return rsa.RSAPublicNumbers(65537, modulus).public_key()

    @property
    def true(self) -> tuple[Challenge, ProveActivation]:
        assert self.challenge is not None
        assert self.proof is not None
        return self.challenge, self.proof

    async def begin(self) -> None:
        """Get the challenge and answer it truly."""
        self.challenge = challenge = await self.world.parts.nodes.activations.start(self.start())
        secret = self.tpm.call(
            lambda esys: endorsement.activate_credential(
                esys, self.ak, challenge.credential_blob, challenge.encrypted_secret, challenge.ek_name
            )
        )
        csr = self.tpm.call(lambda esys: keys.certificate_request(esys, self.node_key))
        qualifying = qualifying_data(secret, challenge.activation, csr)
        key, quote = self.certify(qualifying), self.quote(qualifying)
        self.proof = ProveActivation(secret, csr, key, FINGERPRINT, pcr_quote=quote)

    def certify(self, qualifying: bytes, key: WrappedKey | None = None, ak: WrappedKey | None = None) -> KeyEvidence:
        return self.tpm.call(lambda esys: evidence.key_evidence(esys, key or self.node_key, ak or self.ak, qualifying))

    def quote(self, challenge: bytes, ak: WrappedKey | None = None) -> PcrQuote:
        return self.tpm.call(lambda esys: evidence.pcr_quote(esys, ak or self.ak, challenge))

    def proved(self, **parts: Any) -> ProveActivation:
        return msgspec.structs.replace(self.true[1], **parts)

    def keyed(self, **parts: bytes) -> ProveActivation:
        return self.proved(key=msgspec.structs.replace(self.true[1].key, **parts))

    def over(self, *, secret: bytes = b"", activation: str = "", csr: bytes = b"") -> bytes:
        """The extra data of the true proof, with one part replaced."""
        challenge, proof = self.true
        return qualifying_data(secret or proof.secret, activation or challenge.activation, csr or proof.csr)

    def requesting(self, csr: bytes) -> ProveActivation:
        """The proof with another certificate request, for which the TPM certifies the node key again."""
        qualifying = self.over(csr=csr)
        return self.proved(csr=csr, key=self.certify(qualifying), pcr_quote=self.quote(qualifying))

    def signed_by(self, key: WrappedKey, message: bytes) -> bytes:
        """`TPMT_SIGNATURE` of any bytes, by an unrestricted key in the TPM."""
        der = self.tpm.call(lambda esys: keys.sign(esys, key, message))
        r, s = decode_dss_signature(der)
        return bytes.fromhex("0018000b") + forged.sized(r.to_bytes(32, "big")) + forged.sized(s.to_bytes(32, "big"))


@pytest.fixture
def site(world: World, tpm: Tpm, anyio_backend: str) -> Site:
    ak, other_ak = tpm.call(keys.create_ak), tpm.call(keys.create_ak)
    node_key, other_key = tpm.call(keys.create_node_key), tpm.call(keys.create_node_key)
    sent = tpm.call(lambda esys: evidence.endorsement_evidence(esys, ak))
    plain = msgspec.structs.replace(sent, others=(), intermediates=())
    made = Site(world, tpm, "", ak, other_ak, node_key, other_key, plain)
    # The maker of the tests certifies the EK of the chip, so that dates do not depend on today.
    made.evidence = msgspec.structs.replace(plain, ek_certificate=maker().certify(made.ek))
    return made


def at(offset: int, replacement: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:offset] + replacement + raw[offset + len(replacement) :]


def flipped(raw: bytes, offset: int = -1) -> bytes:
    changed = bytearray(raw)
    changed[offset] ^= 1
    return bytes(changed)


def ek(change: Callable[[bytes], bytes]) -> Start:
    return lambda site: site.start(ek_public=change(site.evidence.ek_public))


def ak(change: Callable[[bytes], bytes]) -> Start:
    return lambda site: site.start(ak_public=change(site.evidence.ak_public))


def certified(**parts: Any) -> Start:
    return lambda site: site.start(ek_certificate=maker().certify(site.ek, **parts))


def attributes(value: int) -> Callable[[bytes], bytes]:
    return at(4, value.to_bytes(4, "big"))


def ecc_ek(_: Site) -> bytes:
    return forged.ecc_ek_public(forged.p256("ECC EK").public_key())


def of_certificate(change: Callable[[bytes], bytes | None]) -> Start:
    return lambda site: site.start(ek_certificate=change(site.evidence.ek_certificate or b""))


AKA, NKA, EKA = forged.AK_ATTRIBUTES, forged.NODE_KEY_ATTRIBUTES, forged.EK_ATTRIBUTES

STARTS: dict[str, tuple[Start, str, int, str]] = {
    "EK: a byte behind it": (ek(lambda raw: raw + b"\0"), "evidence_refused", 1, "not a TPMT_PUBLIC"),
    "EK: cut short": (ek(lambda raw: raw[:-1]), "evidence_refused", 1, "ends early"),
    "EK: ECC": (lambda site: site.start(ek_public=ecc_ek(site)), "evidence_refused", 2, "type ecc_p256"),
    "EK: not restricted": (ek(attributes(EKA & ~forged.RESTRICTED)), "evidence_refused", 3, "restricted is missing"),
    "EK: may sign": (ek(attributes(EKA | forged.SIGN)), "evidence_refused", 3, "sign is set"),
    "EK: not bound to its TPM": (ek(attributes(EKA & ~forged.FIXED_TPM)), "evidence_refused", 3, "fixedTPM is missing"),
    "EK: another policy": (ek(at(12, b"\0")), "evidence_refused", 4, "default template"),
    "EK: another exponent": (ek(at(HEAD - 4, b"\0\0\0\3")), "evidence_refused", 4, "default template"),
    "EK: of another chip": (
        lambda site: site.start(ek_public=forged.ek_public(forged.rsa2048("other").public_key())),
        "evidence_refused", 6, "another key than the EK",
    ),
    "certificate: of another chip": (
        lambda site: site.start(ek_certificate=maker().certify(forged.rsa2048("other").public_key())),
        "evidence_refused", 6, "another key than the EK",
    ),
    "certificate: of an ECC EK": (
        lambda site: site.start(ek_certificate=maker().certify(forged.p256("ECC EK").public_key())),
        "evidence_refused", 6, "another kind of key",
    ),
    "certificate: of a CA": (certified(ca=True), "evidence_refused", 7, "is a CA certificate"),
    "certificate: may sign certificates": (certified(may_sign=True), "evidence_refused", 7, "is a CA certificate"),
    "certificate: of a signing key": (
        certified(usage=forged.key_usage(digital_signature=True)), "evidence_refused", 7, "signing key",
    ),
    "certificate: no purpose": (certified(purposes=()), "evidence_refused", 7, "lacks the extended key usage"),
    "certificate: unknown critical extension": (
        certified(extra=[forged.UNKNOWN_EXTENSION]), "evidence_refused", 7, "unknown critical extension",
    ),
    "certificate: withheld": (of_certificate(lambda _: None), "tier_refused", 12, "gave no endorsement certificate"),
    "certificate: no DER": (of_certificate(lambda _: b"nothing"), "tier_refused", 5, "cannot be read"),
    "certificate: TPM 1.2 header": (
        of_certificate(lambda der: b"\x10\x01\x00" + der), "tier_refused", 5, "cannot be read",
    ),
    "certificate: too long": (of_certificate(lambda der: der + bytes(4096)), "tier_refused", 5, "more than 4096 bytes"),
    "certificate: ended": (certified(not_after=NOW - timedelta(days=1)), "tier_refused", 8, "is valid from"),
    "certificate: not begun": (certified(not_before=NOW + timedelta(days=1)), "tier_refused", 8, "is valid from"),
    "certificate: another maker's": (
        lambda site: site.start(ek_certificate=maker("Other").certify(site.ek)),
        "tier_refused", 9, "issuer is not among",
    ),
    "certificate: another maker's, its CAs sent along": (
        lambda site: site.start(
            ek_certificate=maker("Other").certify(site.ek),
            intermediates=(maker("Other").root.der, maker("Other").intermediate.der),
        ),
        "tier_refused", 10, "no path",
    ),
    "certificate: of a namesake of the maker": (
        lambda site: site.start(ek_certificate=forged.Maker.new().certify(site.ek)), "tier_refused", 10, "no path",
    ),
    "certificate: signature changed": (of_certificate(flipped), "tier_refused", 10, "no path"),
    "AK: a byte behind it": (ak(lambda raw: raw + b"\0"), "evidence_refused", 13, "attestation key is not a TPMT"),
    "AK: not restricted": (ak(attributes(AKA & ~forged.RESTRICTED)), "evidence_refused", 14, "restricted is missing"),
    "AK: may decrypt": (ak(attributes(AKA | forged.DECRYPT)), "evidence_refused", 14, "decrypt is set"),
    "AK: may be duplicated": (ak(attributes(AKA & ~forged.FIXED_TPM)), "evidence_refused", 14, "fixedTPM is missing"),
    "AK: made outside": (ak(attributes(AKA & ~forged.ORIGIN)), "evidence_refused", 14, "sensitiveDataOrigin is missing"),
    "AK: the node key": (lambda site: site.start(ak_public=site.node_key.public), "evidence_refused", 14, "restricted"),
    "AK: the EK": (lambda site: site.start(ak_public=site.evidence.ek_public), "evidence_refused", 14, "decrypt is set"),
    "AK: another hash in its name": (ak(at(2, b"\0\x0c")), "evidence_refused", 15, "not ECC P-256 with SHA-256"),
    "AK: another scheme": (ak(at(12, b"\0\x1a")), "evidence_refused", 13, "TPMT_PUBLIC"),
    "AK: no point of the curve": (ak(flipped), "evidence_refused", 15, "not on the curve"),
}  # fmt: skip

PROOFS: dict[str, tuple[Prove, str, int, str]] = {
    "node key: a byte behind it": (
        lambda site: site.keyed(public=site.true[1].key.public + b"\0"), "evidence_refused", 16, "node key is not a TPMT",
    ),
    "node key: restricted": (
        lambda site: site.keyed(public=attributes(NKA | forged.RESTRICTED)(site.node_key.public)),
        "evidence_refused", 17, "restricted is set",
    ),
    "node key: may be duplicated": (
        lambda site: site.keyed(public=attributes(NKA & ~forged.FIXED_PARENT)(site.node_key.public)),
        "evidence_refused", 17, "fixedParent is missing",
    ),
    "node key: made outside": (
        lambda site: site.keyed(public=attributes(NKA & ~forged.ORIGIN)(site.node_key.public)),
        "evidence_refused", 17, "sensitiveDataOrigin is missing",
    ),
    "node key: another hash in its name": (
        lambda site: site.keyed(public=at(2, b"\0\x0c")(site.node_key.public)),
        "evidence_refused", 18, "not ECC P-256 with SHA-256",
    ),
    "node key: no point of the curve": (
        lambda site: site.keyed(public=flipped(site.node_key.public)), "evidence_refused", 18, "not on the curve",
    ),
    "attestation: cut short": (
        lambda site: site.keyed(attestation=site.true[1].key.attestation[:-1]),
        "evidence_refused", 19, "not a TPMS_ATTEST",
    ),
    "signature: not ECDSA": (
        lambda site: site.keyed(signature=at(0, b"\0\x14")(site.true[1].key.signature)),
        "evidence_refused", 20, "not a TPMT_SIGNATURE",
    ),
    "signature: changed": (
        lambda site: site.keyed(signature=flipped(site.true[1].key.signature)),
        "evidence_refused", 21, "did not sign",
    ),
    "attestation: its clock changed": (
        lambda site: site.keyed(attestation=flipped(site.true[1].key.attestation, 76)),
        "evidence_refused", 21, "did not sign",
    ),
    "attestation: by another AK of the TPM": (
        lambda site: site.proved(key=site.certify(site.over(), ak=site.other_ak)), "evidence_refused", 21, "did not sign",
    ),
    "attestation: signed by the node key": (
        lambda site: site.keyed(signature=site.signed_by(site.node_key, site.true[1].key.attestation)),
        "evidence_refused", 21, "did not sign",
    ),
    "attestation: a quote": (
        lambda site: site.keyed(**quote_as_key(site)), "evidence_refused", 23, "not made by TPM2_Certify",
    ),
    "attestation: for another secret": (
        lambda site: site.proved(key=site.certify(site.over(secret=bytes(32)))),
        "evidence_refused", 24, "another challenge",
    ),
    "attestation: for another activation": (
        lambda site: site.proved(key=site.certify(site.over(activation=forged.ACTIVATION))),
        "evidence_refused", 24, "another challenge",
    ),
    "attestation: for another request": (
        lambda site: site.proved(key=site.certify(site.over(csr=b"another"))), "evidence_refused", 24, "another challenge",
    ),
    "attestation: about another key of the TPM": (
        lambda site: site.proved(
            key=msgspec.structs.replace(site.certify(site.over(), site.other_key), public=site.node_key.public)
        ),
        "evidence_refused", 25, "about another key",
    ),
    "request: of another key, not bound": (
        lambda site: site.proved(csr=forged.request(forged.p256("mine"))), "evidence_refused", 24, "another challenge",
    ),
    "request: no PKCS#10": (lambda site: site.requesting(b"\x30\0"), "csr_refused", 26, "cannot be read"),
    "request: of a key in software": (
        lambda site: site.requesting(forged.request(forged.p256("mine"))), "csr_refused", 27, "another key",
    ),
    "request: of another key of the TPM": (
        lambda site: site.requesting(request_of(site, site.other_key)), "csr_refused", 27, "another key",
    ),
    "request: signature changed": (
        lambda site: site.requesting(flipped(site.true[1].csr)), "csr_refused", 28, "not signed by its key",
    ),
    "quote: none": (lambda site: site.proved(pcr_quote=msgspec.UNSET), "quote_refused", 0, "sent no quote"),
    "quote: the TPM made none": (
        lambda site: site.proved(pcr_quote=PcrQuote(fault="no bank")), "quote_refused", 0, "cannot make a quote: no bank",
    ),
    "quote: cut short": (lambda site: site.proved(pcr_quote=quoted(site, attestation=-1)), "quote_refused", 0, "29"),
    "quote: signature cut short": (
        lambda site: site.proved(pcr_quote=quoted(site, signature=-1)), "quote_refused", 0, "step 30",
    ),
    "quote: by another AK of the TPM": (
        lambda site: site.proved(pcr_quote=site.quote(site.over(), site.other_ak)), "quote_refused", 0, "step 31",
    ),
    "quote: signed by the node key": (
        lambda site: site.proved(pcr_quote=resigned(site)), "quote_refused", 0, "step 31",
    ),
    "quote: the certification": (lambda site: site.proved(pcr_quote=key_as_quote(site)), "quote_refused", 0, "step 33"),
    "quote: of an earlier challenge": (
        lambda site: site.proved(pcr_quote=site.quote(b"an earlier one")), "quote_refused", 0, "step 34",
    ),
    "quote: of one PCR": (lambda site: site.proved(pcr_quote=of_pcrs(site, "sha256:7")), "quote_refused", 0, "step 35"),
    "quote: of another bank": (
        lambda site: site.proved(pcr_quote=of_pcrs(site, "sha1:0,1,2,3,4,5,6,7")), "quote_refused", 0, "step 35",
    ),
    "quote: other values": (lambda site: site.proved(pcr_quote=other_values(site)), "quote_refused", 0, "step 36"),
}  # fmt: skip


def quote_of(site: Site) -> PcrQuote:
    quote = site.true[1].pcr_quote
    assert isinstance(quote, PcrQuote)
    return quote


def quote_as_key(site: Site) -> dict[str, bytes]:
    return {"attestation": quote_of(site).attestation, "signature": quote_of(site).signature}


def key_as_quote(site: Site) -> PcrQuote:
    key = site.true[1].key
    return msgspec.structs.replace(quote_of(site), attestation=key.attestation, signature=key.signature)


def quoted(site: Site, **ends: int) -> PcrQuote:
    """The quote with fields cut at these ends."""
    quote = quote_of(site)
    return msgspec.structs.replace(quote, **{name: getattr(quote, name)[:end] for name, end in ends.items()})


def resigned(site: Site) -> PcrQuote:
    quote = quote_of(site)
    return msgspec.structs.replace(quote, signature=site.signed_by(site.node_key, quote.attestation))


def other_values(site: Site) -> PcrQuote:
    quote = quote_of(site)
    return msgspec.structs.replace(quote, values=(b"\xff" * 32, *quote.values[1:]))


def of_pcrs(site: Site, pcrs: str) -> PcrQuote:
    """A quote of other PCRs, with the values of the true one."""

    def quote(esys: Any) -> PcrQuote:
        with keys.loaded(esys, site.ak) as (handle,):
            attestation, signature = esys.quote(
                handle, pcrs, quoted_data(site.over()), TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
            )
        return PcrQuote(bytes(attestation), bytes(signature.marshal()), quote_of(site).values)

    return site.tpm.call(quote)


def request_of(site: Site, key: WrappedKey) -> bytes:
    return site.tpm.call(lambda esys: keys.certificate_request(esys, key))


def database(folder: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with closing(sqlite3.connect(f"file:{located(folder, 'fabric')}?mode=ro", uri=True)) as found:
        names = [row[0] for row in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(repr, found.execute(f'SELECT * FROM "{name}"'))) for name in names}  # noqa: S608  (names of our own tables)


async def refusal_of(act: Awaitable[object]) -> tuple[str, int, str]:
    """Code, step (0 if none) and text of a refusal. The code has a next step."""
    try:
        await act
    except errors.Refused as refused:
        cause = refused.__cause__
        code = errors.CODES[type(refused)]
        assert KINDS[code].next
        return code, cause.step if isinstance(cause, EvidenceRefused) else 0, refused.detail
    return "accepted", 0, ""


async def test_each_forgery_of_a_true_exchange_has_its_own_refusal(site: Site, databases: Path) -> None:
    world, wrong = site.world, []
    site.code = (await world.code()).secret
    policy = schemas.SetPcrPolicy("require")
    await world.parts.operators.pcr_policies.set_policy(ALICE, world.tenant, policy)
    before = database(databases)
    for name, (forge, *expected) in STARTS.items():
        code, step, text = await refusal_of(world.parts.nodes.activations.start(forge(site)))
        if [code, step] != expected[:2] or str(expected[2]) not in text or database(databases) != before:
            wrong.append((name, code, step, text, expected))
    await site.begin()
    challenge, proof = site.true
    before = database(databases)
    for name, (prove, *expected) in PROOFS.items():
        act = world.parts.nodes.activations.prove(challenge.activation, prove(site), name)
        code, step, text = await refusal_of(act)
        if [code, step] != expected[:2] or str(expected[2]) not in text or database(databases) != before:
            wrong.append((name, code, step, text, expected))
    assert wrong == []
    assert len(STARTS) + len(PROOFS) >= 60
    activated = await world.parts.nodes.activations.prove(challenge.activation, proof, "the true one")
    assert isinstance(activated, Activated)
    generation = await world.generation(activated.node, activated.generation)
    assert (len(generation.pcr_values), generation.pcr_fault) == (8, "")
    assert database(databases) != before


async def test_replays_and_wrong_answers_are_refused_and_counted(site: Site) -> None:
    """A wrong answer changes one row, because three of them end the challenge. A replay changes no more than that."""
    world, prove = site.world, site.world.parts.nodes.activations.prove
    site.code = (await world.code(seats=2)).secret
    await site.begin()
    first, proof = site.true
    await site.begin()
    second, _ = site.true
    replayed = await refusal_of(prove(second.activation, proof, "a replay at another activation"))
    assert (replayed[0], "tries left: 2" in replayed[2]) == ("challenge_failed", True)
    late = await refusal_of(prove(ActivationId("act_01jd8xk3v5e2r9qz7w4m6n8p0b"), proof, "at no activation"))
    assert late[0] == "not_found"
    await prove(first.activation, proof, "the true one")
    again = await refusal_of(prove(first.activation, proof, "other bytes"))
    assert again[0] == "activation_closed"
    world.clock.forward(timedelta(minutes=10))
    assert (await refusal_of(prove(second.activation, proof, "too late")))[0] == "challenge_expired"


async def test_software_that_says_it_is_a_tpm(site: Site) -> None:
    """Keys in software can have every attribute on paper. Only the TPM of the EK releases the secret of a challenge."""
    world = site.world
    site.code = (await world.code()).secret
    own = forged.rsa2048("software EK").public_key()
    claimed = await refusal_of(
        world.parts.nodes.activations.start(site.start(ek_public=forged.ek_public(own), ek_certificate=None))
    )
    assert claimed[:2] == ("tier_refused", 12)
    software_ak = forged.signing_public(forged.p256("software AK").public_key(), forged.AK_ATTRIBUTES)
    challenge = await world.parts.nodes.activations.start(site.start(ak_public=software_ak))
    with pytest.raises(TpmIntegrity):
        site.tpm.call(
            lambda esys: endorsement.activate_credential(
                esys, site.ak, challenge.credential_blob, challenge.encrypted_secret, challenge.ek_name
            )
        )
