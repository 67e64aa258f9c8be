"""`cloud.cli.hardware.ek_lists`: lists of endorsement keys, one a line or a column of a CSV file."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.cli.hardware import ek_lists
from cloud.cli.hardware.ek_lists import BadLine, ListError, parts, read_list
from protocol.endorsement import EkHash

A, B, C = ("a1" * 32, "b2" * 32, "c3" * 32)
NAME_A, NAME_B, NAME_C = (f"000b{each}" for each in (A, B, C))


def test_one_a_line_with_comments_repeats_and_bad_lines() -> None:
    text = f"# chips of the hall\r\n\r\n{NAME_A}\r\n{A.upper()}\r\n  sha256:{B}\r\nnothing\r\n{'ab' * 20}\r\n{C[:-1]}\r\n{C}"
    found = read_list(text.encode())
    assert found.identifiers == {NAME_A: 3, NAME_B: 5, NAME_C: 9}
    assert found.repeated == 1
    assert found.bad == (
        BadLine(6, "it is no number in hex"),
        BadLine(7, "it has 40 digits: a SHA-256 has 64, an EK name 68 (000b and a SHA-256); a SHA-1 is not accepted"),
        BadLine(8, "it has 63 digits: a SHA-256 has 64, an EK name 68 (000b and a SHA-256)"),
    )


@pytest.mark.parametrize(
    ("kind", "wanted"), [("public", NAME_A), ("spki", f"spki:{A}"), ("certificate", f"certificate:{A}")]
)
def test_what_a_hash_is_over(kind: EkHash, wanted: str) -> None:
    assert list(read_list(f"{A}\n{NAME_B}\nspki:{C}".encode(), kind).identifiers) == [wanted, NAME_B, f"spki:{C}"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("heading", "column"), [("EK Public Hash", ""), ("Fingerprint of the key", "fingerprint of the KEY")]
)
def test_a_column_of_a_csv_file(delimiter: str, heading: str, column: str) -> None:
    rows = [["Serial", heading, "Model"], ["1", A, "SLB"], ["2", f'"{B}"', '"a;b,c\td"'], ["3"], ["4", C, ""]]
    found = read_list("\n".join(delimiter.join(row) for row in rows).encode(), column=column)
    assert found.identifiers == {NAME_A: 2, NAME_B: 3, NAME_C: 5}
    assert found.bad == (BadLine(4, "it is no number in hex"),)


def test_a_csv_file_whose_column_is_not_known() -> None:
    text = f"serial,digest\n1,{A}\n"
    with pytest.raises(ListError, match=r"Name it with --column\. Its first line has: serial, digest"):
        read_list(text.encode())
    with pytest.raises(ListError, match="no column 'nothing'"):
        read_list(text.encode(), column="nothing")
    with pytest.raises(ListError, match="or several"):
        read_list(f"digest,digest\n{A},{B}\n".encode(), column="digest")


def test_keys_with_a_remark_behind_them_and_no_headings() -> None:
    assert list(read_list(f"{A},first\n{B},second\n{C}\n".encode()).identifiers) == [NAME_A, NAME_B, NAME_C]


@pytest.mark.parametrize(
    "raw",
    [
        codecs.BOM_UTF8 + f"{A}\n".encode(),
        codecs.BOM_UTF16_LE + f"{A}\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + f"{A}\n".encode("utf-16-be"),
        f"{A}\r".encode(),
    ],
)
def test_byte_order_marks_and_ends_of_lines(raw: bytes) -> None:
    assert read_list(raw).identifiers == {NAME_A: 1}


def test_an_empty_list() -> None:
    assert read_list(b"\n# nothing\n").identifiers == {}


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ek_lists, "FILE_BYTES_MAX", 10)
    with pytest.raises(ListError, match="more than 10 bytes"):
        read_list(b" " * 11)
    assert [len(part) for part in parts(dict.fromkeys(map(str, range(5)), 1), 2)] == [2, 2, 1]


@given(st.binary(max_size=400), st.sampled_from(["", "a"]))
def test_any_bytes_are_a_list_or_no_list(raw: bytes, column: str) -> None:
    try:
        found = read_list(raw, column=column)
    except ListError:
        return
    assert all(len(each) in (68, 69, 76) for each in found.identifiers)
