"""`cloud.fabric.attestation.tpm_structures`: the TSS accepts the same structures, with the same bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.types import TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE

from cloud.fabric.attestation.tpm_structures import (
    StructureError,
    attribute_fault,
    p256_key,
    read_attestation,
    read_public,
    read_signature,
)
from tests.simulators import forged_evidence as forged

PROOF = forged.PaperChip().prove()
SAMPLES = [
    (TPMT_PUBLIC, read_public, PROOF.key.public),
    (TPMT_PUBLIC, read_public, PROOF.ak_public),
    (TPMT_PUBLIC, read_public, forged.endorsement().ek_public),
    (TPMT_PUBLIC, read_public, forged.ecc_ek_public(forged.p256("ek").public_key())),
    (TPMS_ATTEST, read_attestation, PROOF.key.attestation),
    (TPMT_SIGNATURE, read_signature, PROOF.key.signature),
]


@pytest.mark.parametrize(("kind", "read", "raw"), SAMPLES, ids=range(len(SAMPLES)))
def test_the_samples_are_the_tss_s_own_spelling(kind: Any, read: Any, raw: bytes) -> None:
    value, used = kind.unmarshal(raw)
    assert used == len(raw)
    assert bytes(value.marshal()) == raw
    read(raw)


@pytest.mark.parametrize(("kind", "read", "raw"), SAMPLES, ids=range(len(SAMPLES)))
def test_every_part_of_a_structure_is_refused(kind: Any, read: Any, raw: bytes) -> None:
    for length in range(len(raw)):
        with pytest.raises(StructureError):
            read(raw[:length])
    with pytest.raises(StructureError):
        read(raw + b"\0")


@given(sample=st.sampled_from(SAMPLES), position=st.integers(0, 400), change=st.integers(1, 255))
def test_a_changed_byte_is_read_only_as_the_tss_reads_it(
    sample: tuple[Any, Any, bytes], position: int, change: int
) -> None:
    """Values that the TSS does not know (algorithms, reserved attributes) are left out. Later checks refuse them."""
    kind, read, raw = sample
    changed = bytearray(raw)
    changed[position % len(raw)] ^= change
    try:
        read(bytes(changed))
        value, used = kind.unmarshal(bytes(changed))
    except (StructureError, TSS2_Exception):
        return
    assert used == len(changed)
    assert bytes(value.marshal()) == bytes(changed)


@given(raw=st.binary(max_size=600))
def test_no_bytes_make_another_error(raw: bytes) -> None:
    for read in (read_public, read_attestation, read_signature):
        try:
            read(raw)
        except StructureError:
            continue


def test_a_point_beside_the_curve() -> None:
    with pytest.raises(StructureError, match="not on the curve"):
        p256_key((bytes(32), bytes(32)))
    with pytest.raises(StructureError, match="longer"):
        p256_key((bytes(33), bytes(32)))


def test_a_point_that_begins_with_zeros_keeps_them_or_not() -> None:
    key = next(
        key
        for key in (forged.p256(f"short {number}").public_key() for number in range(10_000))
        if key.public_numbers().x < 1 << 248
    )
    numbers = key.public_numbers()
    y = numbers.y.to_bytes(32, "big")
    assert p256_key((numbers.x.to_bytes(32, "big"), y)) == key
    assert p256_key((numbers.x.to_bytes(31, "big"), y)) == key


def test_attributes_by_name() -> None:
    assert attribute_fault(0x50472, 0x50472) is None
    assert attribute_fault(0x40472, 0x50472) == "restricted is missing"
    assert attribute_fault(0x70470, 0x50472) == "fixedTPM is missing, decrypt is set"
    assert attribute_fault(0x50473, 0x50472) == "a reserved attribute is set"
