"""A stored chain: it is PEM for other tools, and its last line finds every change."""

from pathlib import Path

import pytest
from cryptography import x509

from node.disk.chain import decode_chain, encode_chain
from node.errors import StateDamaged
from tests.node.disk.test_identity import CHAIN


def test_other_tools_read_a_stored_chain_as_pem(tmp_path: Path) -> None:
    data = encode_chain(CHAIN)
    assert decode_chain(tmp_path, data) == CHAIN
    assert [one.serial_number for one in x509.load_pem_x509_certificates(data)] == [1, 2]


def test_a_changed_chain_is_damaged(tmp_path: Path) -> None:
    data = encode_chain(CHAIN)
    for changed in (b"", data[:-1], data.replace(b"M", b"N", 1), data + b"\n"):
        with pytest.raises(StateDamaged):
            decode_chain(tmp_path, changed)
    with pytest.raises(ValueError, match="at least the leaf"):
        encode_chain(())
