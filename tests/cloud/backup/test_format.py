"""Rows keep every value exactly, whatever engine they come from."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.backup.format import (
    FileRecord,
    Manifest,
    RowsRecord,
    TableRecord,
    Trailer,
    decode_header,
    decode_manifest,
    decode_record,
    encode,
    encode_rows,
    row_decoder,
    seal_of,
)
from cloud.crypto.keyfile import ScryptCost
from cloud.storage.whole.shapes import Column, Kind, Shape

SHAPE = Shape(
    "sample",
    (
        Column("a", "text"),
        Column("b", "integer"),
        Column("c", "boolean"),
        Column("d", "bytes"),
        Column("e", "time"),
    ),
)
ROWS = st.tuples(
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    st.none() | st.binary(),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(ROWS, max_size=5))
def test_every_row_comes_back(rows: list[tuple[Any, ...]]) -> None:
    lines = encode_rows(rows).splitlines(keepends=True) if rows else []
    assert [line.endswith(b"\n") for line in lines] == [True] * len(rows)
    found = [row_decoder(SHAPE).decode(line) for line in lines]
    assert found == rows
    assert [[type(value) for value in row] for row in found] == [[type(value) for value in row] for row in rows]


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    moment = datetime(2026, 5, 4, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    (line,) = encode_rows([(None, None, None, None, moment)]).splitlines()
    assert row_decoder(SHAPE).decode(line)[4] == moment


@pytest.mark.parametrize(
    ("kind", "text"),
    [("text", "1"), ("integer", "true"), ("integer", '"1"'), ("boolean", "1"), ("bytes", "[1]"), ("time", '"today"')],
)
def test_a_value_of_another_type_is_refused(kind: Kind, text: str) -> None:
    decoder = row_decoder(Shape("sample", (Column("a", kind),)))
    with pytest.raises(msgspec.DecodeError):
        decoder.decode(f"[{text}]".encode())
    with pytest.raises(msgspec.DecodeError):
        decoder.decode(b"[null, null]")


def test_records_come_back() -> None:
    for record in (
        FileRecord("fabric/settings.toml", b"\0x"),
        TableRecord("fabric", SHAPE),
        RowsRecord(3),
        Trailer(files=1, tables={"fabric.node": 2}, sha256="00", seal=b"s"),
    ):
        assert decode_record(encode(record)) == record


def test_a_seal_depends_on_passphrase_salt_and_digest() -> None:
    manifest = Manifest(
        cascade_backup=1,
        header_sha256="",
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        parts="whole",
        trust_domain="x",
        pins=(),
        migrations={},
        not_included=(),
        salt=b"1" * 16,
        cost=ScryptCost(2, 1, 1),
    )
    other = msgspec.structs.replace(manifest, salt=b"2" * 16)
    seals = {seal_of(p, m, d) for p in (b"a", b"b") for m in (manifest, other) for d in ("00", "01")}
    assert len(seals) == 8
    with pytest.raises(ValueError, match="cost"):
        seal_of(b"a", msgspec.structs.replace(manifest, cost=ScryptCost(2**20, 8, 1)), "00")


@pytest.mark.parametrize("decode", [decode_header, decode_manifest, decode_record])
@pytest.mark.parametrize(
    "line", [b'{"type":"end","x":' + b"[" * 60_000, b'{"type":"end","\xff":1}'], ids=["deep", "bytes"]
)
def test_a_line_that_no_writer_makes_is_a_decode_error(decode: Any, line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(line)
