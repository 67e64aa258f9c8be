"""Each fuzz target handles its corpus and 3,000 seeded mutations of it without an undocumented error.

These tests do not measure coverage and take a second. The long run is `make drills PART=fuzz`.
"""

import random

import pytest

from cloud.cli.hardware.pem_parts import text_of
from cloud.fabric.attestation.ek_roots import parse_trust_pem
from protocol.maker_certificates import exact_certificate, read_certificate
from tests.fuzz.targets import INPUT_BYTES_MAX, TARGETS, chip_of

pytestmark = pytest.mark.slow

ROUNDS = 3_000


def mutate(data: bytes, choose: random.Random) -> bytes:
    """Apply one to four small changes: a bit or a byte changed, bytes removed, doubled or inserted, the end cut off."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(changed) + 1)
        size = choose.choice((1, 1, 2, 4, 16, 64))
        kind = choose.randrange(6)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << choose.randrange(8)
        elif kind == 1 and changed:
            changed[at % len(changed)] = choose.choice((0, 1, 0x7F, 0x80, 0x82, 0x84, 0xFF))
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = changed[at : at + size] or b"\x00"
        elif kind == 4:
            changed[at:at] = choose.randbytes(size)
        else:
            del changed[at:]
    return bytes(changed[:INPUT_BYTES_MAX])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_input_ends_in_an_undocumented_error(name: str) -> None:
    target = TARGETS[name]
    corpus = target.corpus()
    assert corpus
    for data in corpus:
        target.run(data)
    choose = random.Random(name)
    for _ in range(ROUNDS):
        target.run(mutate(choose.choice(corpus), choose))


def test_the_seeds_are_good_inputs() -> None:
    """Mutations of a refused input would rarely pass the parser's first check."""
    from cloud.breakwater.pkix import ocsp
    from cloud.breakwater.pkix.csr import NODE_CURVES, open_csr

    assert open_csr(next(TARGETS["csr"].seeds()), NODE_CURVES).spki_der
    for seed in TARGETS["ocsp"].seeds():
        assert ocsp.parse_request(seed).serial
    chips = [chip_of(seed) for seed in TARGETS["evidence"].seeds()]
    assert [(chip.tier, chip.ek_type) for chip in chips] == [("attested", "rsa2048"), ("attested", "ecc_p256")]
    for seed in TARGETS["certificate"].seeds():
        assert read_certificate(exact_certificate(seed)).signature
    assert all(parse_trust_pem(text_of(seed).encode()).roots for seed in TARGETS["bundle"].seeds())
