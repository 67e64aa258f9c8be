"""`cloud.cli.hardware.pem_parts`: a file of any form becomes parts that one request can carry."""

from hypothesis import given
from hypothesis import strategies as st

from cloud.cli.hardware.pem_parts import PART_BYTES_MAX, Block, blocks, parts, text_of
from cloud.fabric.attestation.ek_roots import TRUST_CERTIFICATES_MAX, TRUST_PEM_BYTES_MAX, parse_trust_pem
from tests.simulators.forged_evidence import maker

ROOT = maker().root.pem.decode()


def test_blocks_keep_their_lines_and_lose_the_text_between_them() -> None:
    text = f"one\r\n{ROOT}\ntwo\n\n-----BEGIN CERTIFICATE-----\nAAAA"
    assert list(blocks(text)) == [Block(2, ROOT), Block(ROOT.count("\n") + 5, "-----BEGIN CERTIFICATE-----\nAAAA\n")]


def test_a_file_in_der_is_one_certificate() -> None:
    found = parse_trust_pem(text_of(maker().root.der).encode())
    assert found.roots == (maker().root.der,)


def test_a_text_that_begins_with_a_digit_is_no_der() -> None:
    assert list(blocks(text_of(f"0 s:CN = Maker\n{ROOT}".encode()))) == [Block(2, ROOT)]


def test_a_part_fits_a_request() -> None:
    found = [Block(1, "x" * 1500)] * 100
    sent = list(parts(iter(found)))
    assert [block for part in sent for block in part] == found
    for part in sent:
        assert sum(len(block.text) for block in part) <= PART_BYTES_MAX < TRUST_PEM_BYTES_MAX * 0.8
        assert len(part) <= TRUST_CERTIFICATES_MAX


@given(st.lists(st.sampled_from(["-----BEGIN ", "-----END ", "-----", "CERTIFICATE", "\n", "A", ROOT]), max_size=30))
def test_any_text_is_read_as_the_server_reads_it(pieces: list[str]) -> None:
    found = list(blocks("".join(pieces)))
    assert len(found) == "".join(pieces).count("-----BEGIN ")
    if found:
        whole = parse_trust_pem("".join(pieces).encode())
        again = parse_trust_pem("".join(block.text for block in found).encode())
        assert (whole.roots, len(whole.refused)) == (again.roots, len(again.refused))
