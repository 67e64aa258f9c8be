"""`tools.packages.depends`: versions of the C library in the output of objdump."""

import pytest

from tools.packages import depends


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000 g DF *UND* 0000 (GLIBC_2.2.5) free\n0000 (GLIBC_2.34) pthread_create", (2, 34)),
        ("0000 (GLIBC_2.4) a\n0000 (GLIBC_2.14) b", (2, 14)),
        ("0000 (GCC_3.0) _Unwind_Resume", (0, 0)),
    ],
)
def test_the_newest_version_counts_as_a_number(text: str, expected: tuple[int, int]) -> None:
    assert depends.newest_glibc(text) == expected
