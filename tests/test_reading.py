"""Files are read as they are, or refused with file, column, row and rule."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated

import pandera.polars as pa
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.errors import DataError
from mlops_assets.reading import strict_csv, verified_parquet


class Row(pa.DataFrameModel):
    id: str
    n: int
    x: float = pa.Field(nullable=True)
    ok: bool
    at: Annotated[pl.Datetime, "us", "UTC"]


HEAD = "id,n,x,ok,at\n"
GOOD = "007,9007199254740993,1.5,true,2024-01-01T05:00:00+01:00\n008,2,,false,2024-01-01 04:00:00.25Z\n"


@pytest.fixture
def csv(tmp_path):
    def write(text: str | bytes):
        file = tmp_path / "rows.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def refused(file, columns=Row) -> str:
    with pytest.raises(DataError, match="Hint:") as error:
        strict_csv(file, columns)
    assert str(file) in error.value.message
    return error.value.message


def test_values_have_the_declared_type_exactly(csv) -> None:
    rows = strict_csv(csv(HEAD + GOOD), Row)
    assert rows.schema == {"id": pl.String, "n": pl.Int64, "x": pl.Float64, "ok": pl.Boolean, "at": pl.Datetime("us", "UTC")}
    assert rows.rows() == [
        ("007", 2**53 + 1, 1.5, True, datetime(2024, 1, 1, 4, tzinfo=UTC)),
        ("008", 2, None, False, datetime(2024, 1, 1, 4, 0, 0, 250_000, tzinfo=UTC)),
    ]
    assert strict_csv(csv("a,b,c\n1,2024-05-06,2024-01-01T00:00\n"), {"c": pl.Datetime("us"), "b": pl.Date}).columns == ["c", "b"]


def test_a_type_that_flips_in_row_30001_is_named(csv) -> None:
    text = "id,n\n" + "".join(f"a{i},{i}\n" for i in range(30_000)) + "a30000,thirty thousand\n" + "b,1\n" * 5
    assert "column 'n' of row 30001 is 'thirty thousand', which is not of type Int64 (1 such row(s))" in refused(
        csv(text), {"id": str, "n": int}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "id,n,x,ok,at\n1,0012,1,true,2024-01-01T00:00Z\n",
            "column 'n' of row 1 is '0012', a number with a leading zero, which would be lost",
        ),
        ("id,n,x,ok,at\n1,12.0,1,true,2024-01-01T00:00Z\n", "column 'n' of row 1 is '12.0', which is not of type Int64"),
        (
            "id,n,x,ok,at\n1,99999999999999999999,1,true,2024-01-01T00:00Z\n",
            "column 'n' of row 1 is '99999999999999999999', which is not of type Int64",
        ),
        ("id,n,x,ok,at\n1,1,1;5,true,2024-01-01T00:00Z\n", "column 'x' of row 1 is '1;5', which is not of type Float64"),
        ("id,n,x,ok,at\n1,1,1,perhaps,2024-01-01T00:00Z\n", "column 'ok' of row 1 is 'perhaps', which is not of type Boolean"),
        (
            HEAD + GOOD + "1,1,1,true,2024-01-01T00:00\n",
            "column 'at' of row 3 is '2024-01-01T00:00', a time without a time zone among those with one",
        ),
        (HEAD + "1,1,1,true,2024-13-01T00:00Z\n", "column 'at' of row 1 is '2024-13-01T00:00Z', which is not of type Datetime"),
        ("id,n,x,ok,at,n\n1,1,1,true,2024-01-01T00:00Z,2\n", "has two columns named 'n'"),
        ("id,n,x,ok,when\n1,1,1,true,2024-01-01T00:00Z\n", "has no column 'at'"),
        (HEAD + GOOD + "1,1,1,true\n1,1,1,true,2024-01-01T00:00Z,9\n", "row 3 has 4 fields, the header 5"),
        ("", "has no column 'id'"),
        ((HEAD + GOOD).encode() + "é,1,1,true,2024-01-01T00:00Z\n".encode("latin1"), "is not UTF-8: line 4 holds the byte 0xe9"),
    ],
)
def test_what_is_not_as_declared_is_refused_with_its_place(csv, text, words) -> None:
    assert words in refused(csv(text))


def test_a_renamed_column_is_guessed(csv) -> None:
    with pytest.raises(DataError, match="did you mean 'visitor'"):
        strict_csv(csv("visitor,n\na,1\n"), {"visitors": str})


def test_zones_may_not_be_mixed_the_other_way_round_either(csv) -> None:
    file = csv("at\n2024-01-01T00:00\n2024-01-01T00:00Z\n")
    assert "row 2 is '2024-01-01T00:00Z', a time with a time zone among those without" in refused(file, {"at": pl.Datetime("us")})


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1), st.none() | st.integers(-(2**63), 2**63 - 1)
        ),
        min_size=1,
    )
)
def test_text_and_whole_numbers_come_back_as_they_were_written(tmp_path_factory, rows) -> None:
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.Int64}, orient="row")
    frame.write_csv(file, quote_style="non_numeric")
    assert strict_csv(file, {"a": str, "b": int}).equals(frame)


FRAME = pl.DataFrame({"a": range(5000), "b": [str(i) for i in range(5000)]})


@pytest.fixture
def parquet(tmp_path):
    file = tmp_path / "rows.parquet"
    pq.write_table(FRAME.to_arrow(), file, write_page_checksum=True, compression="none")
    return file


def flip(file, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x01
    file.write_bytes(data)


def test_a_flipped_bit_that_others_read_in_silence_is_found_by_page_checksums(parquet) -> None:
    assert verified_parquet(parquet).equals(FRAME)
    flip(parquet, parquet.read_bytes().index((2500).to_bytes(8, "little")))
    assert not pl.read_parquet(parquet).equals(FRAME)  # no error, another value
    assert not pl.DataFrame(pq.read_table(parquet)).equals(FRAME)
    with pytest.raises(DataError, match=r"rows.parquet' is damaged or truncated: .*checksum"):
        verified_parquet(parquet)


def test_a_truncated_file_and_one_without_any_checksum_are_refused(parquet, tmp_path) -> None:
    whole = parquet.read_bytes()
    parquet.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged or truncated"):
        verified_parquet(parquet)
    bare = tmp_path / "bare.parquet"
    FRAME.write_parquet(bare)
    with pytest.raises(
        DataError,
        match=r"column 'a' carries no page checksums, and there is no 'bare.parquet.sha256'\nHint: write it with write_page_checksum=True",
    ):
        verified_parquet(bare)


def test_a_sidecar_is_enough(tmp_path) -> None:
    bare = tmp_path / "bare.parquet"
    FRAME.write_parquet(bare)
    digest = hashlib.sha256(bare.read_bytes()).hexdigest()
    assert verified_parquet(bare, sha256=digest.upper()).equals(FRAME)
    (tmp_path / "bare.parquet.sha256").write_text(f"{digest}  bare.parquet\n")
    assert verified_parquet(bare).equals(FRAME)
    flip(bare, 1000)
    with pytest.raises(DataError, match=r"bare.parquet' is damaged: its sha256 is .{12}…, not"):
        verified_parquet(bare)
