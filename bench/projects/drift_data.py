"""The rows of the drift benchmark: names need nothing but the standard library, because peers' environments read them."""

from __future__ import annotations

from pathlib import Path

CATEGORIES = {"carrier": 8, "origin": 10, "dest": 40, "kind": 3, "tail": 20}  # name → how many values it has
TIME, DAYS = "at", 60  # the reference spans these days; the current window is the day after
SHIFTED, WIDER, SKEWED, ZEROS, NEW, SWAPPED, NULLS = "number1", "number5", "number8", "number11", "origin", "carrier", "number14"
PLANTED = (SHIFTED, WIDER, SKEWED, ZEROS, NEW, SWAPPED, NULLS)
CHUNK = 500_000  # rows written at once


def name_columns(columns: int) -> tuple[list[str], list[str]]:
    """Return the names of the numbers and of the categories, a quarter of all columns."""
    categories = [f"{name}{k or ''}" for k in range(-(-columns // 20)) for name in CATEGORIES][: columns // 4]
    return [f"number{i}" for i in range(columns - len(categories))], categories


def find_file(folder: Path, which: str) -> Path:
    """Return where the rows ``reference`` or ``current`` lie."""
    return folder / f"{which}.parquet"


def read_pandas(folder: Path, which: str, columns: int):
    """Return the rows as a pandas frame of the columns that are compared."""
    import pandas as pd

    numbers, categories = name_columns(columns)
    return pd.read_parquet(find_file(folder, which), columns=numbers + categories)


def write_rows(folder: Path, which: str, rows: int, columns: int) -> None:
    """Write the rows ``reference`` or ``current``, chunk by chunk."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    faulty = which == "current"
    writer, random = None, np.random.default_rng([19, faulty])
    for first in range(0, rows, CHUNK):
        table = pa.table(_draw_rows(random, range(first, min(first + CHUNK, rows)), rows, columns, faulty=faulty))
        writer = writer or pq.ParquetWriter(find_file(folder, which), table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _draw_rows(random, chunk: range, rows: int, columns: int, *, faulty: bool):
    """Return columns of one chunk: five kinds of numbers in turns, one in three with nulls, and categories of falling frequency."""
    import numpy as np
    import pyarrow as pa

    size, (numbers, categories) = len(chunk), name_columns(columns)
    # Times rise from the reference's first day to its last; the current window is one day.
    day = 86_400_000_000
    seconds = np.arange(chunk.start, chunk.stop) * ((1 if faulty else DAYS) * day) // rows + (DAYS * day if faulty else 0)
    drawn = {TIME: pa.array(seconds, pa.timestamp("us"))}
    for i, name in enumerate(numbers):
        values = _draw_numbers(random, i % 5, size, name if faulty else "")
        nulls = random.random(size) < (0.2 if faulty and name == NULLS else 0.02)
        drawn[name] = pa.array(values, mask=nulls if i % 3 == 2 else None)
    for name in categories:
        count = CATEGORIES[name.rstrip("0123456789")]
        shares = 1 / (np.arange(count) + 2)
        values = random.choice(count, size, p=shares / shares.sum())
        if faulty and name == SWAPPED:  # the most frequent one and the rarest one
            values = np.where(values == 0, count - 1, np.where(values == count - 1, 0, values))
        if faulty and name == NEW:
            values = np.where(random.random(size) < 0.2, count, values)
        words = pa.array([f"{name}-{value}" for value in range(count + 1)])
        drawn[name] = pa.DictionaryArray.from_arrays(values.astype("int32"), words).cast(pa.string())
    return drawn


def _draw_numbers(random, kind: int, size: int, faulty: str):
    import numpy as np

    values = (
        random.gamma(2.0, 3.0, size),
        random.normal(10, 4, size) + 4 * (faulty == SHIFTED),
        random.poisson(30, size).astype(float),
        np.exp(random.normal(0, 0.6, size) * (1.5 if faulty == SKEWED else 1)),
        random.random(size),
    )[kind]
    if faulty == WIDER:
        values *= 1.6
    if kind == 1:  # as of rain, many are zero
        values = np.where(random.random(size) < (0.6 if faulty == ZEROS else 0.3), 0.0, values)
    return values
