"""The qualifying data of TPM2_Certify: each part changes it."""

import pytest

from protocol.evidence import qualifying_data


def test_qualifying_data_depends_on_each_part() -> None:
    parts = (b"s" * 32, "act_1", b"csr")
    whole = qualifying_data(*parts)
    assert len(whole) == 32
    assert whole != qualifying_data(b"t" * 32, "act_1", b"csr")
    assert whole != qualifying_data(b"s" * 32, "act_2", b"csr")
    assert whole != qualifying_data(b"s" * 32, "act_1", b"csR")
    with pytest.raises(ValueError, match="32 bytes"):
        qualifying_data(b"s" * 31, "act_1", b"csr")
