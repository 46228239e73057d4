"""Text columns: compared by the length of their texts and by their words.

Each text of a window is new, so a text column cannot be compared by value. It is compared by measures: numbers of each text, and the
words of all texts. A profile stores frequent words only, and no text.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIN_DISTINCT = 0.5  # the share of distinct values from which a column is text, rather than a category
MIN_WORDS = 3  # of the median text
MAX_TEXTS = 50_000  # of a reference; of more, an even sample is measured
MAX_WORDS = 500_000  # of the measured texts of a reference; of longer texts, fewer are measured
MIN_TEXTS = 5  # that have a word of the vocabulary. These are texts, not persons: a name in five texts of one person is stored
MAX_VOCABULARY = 3_000
MIN_SHARE, WORD_GROUPS = (
    0.002,
    50,
)  # the share of a word that is compared by itself; all others are compared in groups, so that none is rare
MAX_MOVED_WORDS = 10  # of a report
CHARACTERS, WORD_COUNT, UNKNOWN_WORDS, WORDS = "characters", "number of words", "words not in the reference, %", "words"
OTHER_WORDS, WORD_GROUP = "words not in the vocabulary", "words of group "  # no word contains a space
_PATTERN = r"\p{L}+(?:['’]\p{L}+)*"  # of a word: letters, so that no number is one
_ROW, _WINDOW, _WORD, _COUNT, _TEXTS, _INSIDE = "row", "window", "word", "count", "texts", "inside"
_MAX_SAMPLED = 2_000


@dataclass(frozen=True, eq=False)
class Measure:
    """A measure by which a text column is compared in place of its values.

    Parameters
    ----------
    values
        Numbers or categories.
    rows
        The row of the column that each value belongs to, shape (values,): ascending from 0.
    """

    values: pl.Series
    rows: np.ndarray


def is_text(column: pl.Series) -> bool:
    """Return whether a column is text: half of its values or more are distinct, and the median value has three words or more."""
    if column.dtype != pl.String:
        return False
    present = column.drop_nulls()
    if not len(present):
        return False
    sample = present.gather_every(-(-len(present) // _MAX_SAMPLED))
    median = sample.str.count_matches(_PATTERN).median()
    return isinstance(median, float) and median >= MIN_WORDS and present.n_unique() >= MIN_DISTINCT * len(present)


def count_words(texts: pl.Series) -> int:
    """Return the number of words of all texts."""
    return int(texts.cast(pl.String).str.count_matches(_PATTERN).sum() or 0)


@dataclass(frozen=True)
class WordShare:
    """The share of a word among all words, in the reference and in a window."""

    word: str
    reference: float
    current: float


def list_vocabulary(texts: pl.Series, windows: np.ndarray | None) -> tuple[dict[str, float], dict[str, Measure]]:
    """Return the vocabulary of a reference, word → share of all words, and the measures of its texts by name.

    Parameters
    ----------
    texts
        The texts of the reference.
    windows
        The window of each text, shape (texts,). A word of a text is known if it is frequent enough in other windows: so new words are
        as frequent in the reference as in a later window. None when each text is a window.
    """
    split, groups = _split_words(texts), np.arange(len(texts)) if windows is None else windows
    split = split.with_columns(pl.Series(_WINDOW, groups[split[_ROW].to_numpy()]))
    by_window = split.drop_nulls(_WORD).group_by(_WORD, _WINDOW).agg(pl.len().alias(_COUNT), pl.col(_ROW).n_unique().alias(_INSIDE))
    total = by_window.group_by(_WORD).agg(pl.col(_INSIDE).sum().alias(_TEXTS), pl.col(_COUNT).sum())
    words = max(int(total[_COUNT].sum()), 1)
    frequent = total.filter(pl.col(_TEXTS) >= MIN_TEXTS).sort([_TEXTS, _WORD], descending=[True, False]).head(MAX_VOCABULARY)
    vocabulary = {word: float(f"{count / words:.4g}") for word, count in frequent.select(_WORD, _COUNT).iter_rows()}
    elsewhere = by_window.join(frequent, on=_WORD).filter(pl.col(_TEXTS) - pl.col(_INSIDE) >= MIN_TEXTS).select(_WORD, _WINDOW)
    found = split.join(elsewhere.with_columns(known=True), on=[_WORD, _WINDOW], how="left", maintain_order="left")["known"]
    return vocabulary, _measure(texts, split, found.fill_null(value=False), vocabulary)


def measure_texts(texts: pl.Series, vocabulary: Mapping[str, float]) -> tuple[dict[str, Measure], tuple[WordShare, ...]]:
    """Return the measures of the texts of a window by name, and the words of the vocabulary whose shares changed most.

    Parameters
    ----------
    texts
        The texts.
    vocabulary
        The words of the reference, from :func:`list_vocabulary`.

    Returns
    -------
    dict of str to Measure
        For each text: characters, number of words, and the percentage of words that the vocabulary lacks, null without a word. For all
        texts: each word as a category, which is the word itself if it is frequent and a group of words otherwise.
    tuple of WordShare
        At most :data:`MAX_MOVED_WORDS`, the largest change first.
    """
    split = _split_words(texts)
    present = split.drop_nulls(_WORD)[_WORD]
    counts = dict(present.value_counts().iter_rows())
    shares = [WordShare(word, before, counts.get(word, 0) / max(len(present), 1)) for word, before in vocabulary.items()]
    moved = sorted(shares, key=lambda share: -abs(share.current - share.reference))[:MAX_MOVED_WORDS]
    known = split[_WORD].is_in(pl.Series(list(vocabulary), dtype=pl.String).implode())
    return _measure(texts, split, known, vocabulary), tuple(moved)


def explain_words(words: Sequence[WordShare]) -> str:
    """Return the shares of the three words that changed most."""
    moved = [f"{word.word} {word.reference:.1%} → {word.current:.1%}" for word in words[:3]]
    return f"share in the reference → in the window: {', '.join(moved)}" if moved else "the reference has no frequent words"


def _split_words(texts: pl.Series) -> pl.DataFrame:
    """Return each word in lower case with the row of its text; a text without words has one null, so that each row is present."""
    words = texts.cast(pl.String).str.to_lowercase().str.extract_all(_PATTERN)
    filled = pl.when(pl.col(_WORD).list.len() > 0).then(_WORD)  # explode may drop empty lists, and keeps nulls
    return pl.DataFrame({_ROW: np.arange(len(texts)), _WORD: words}).with_columns(filled).explode(_WORD)


def _measure(texts: pl.Series, split: pl.DataFrame, known: pl.Series, vocabulary: Mapping[str, float]) -> dict[str, Measure]:
    every, rows = texts.cast(pl.String), np.arange(len(texts))
    present = split.with_columns(known.alias("known")).drop_nulls(_WORD)
    by_row = present.group_by(_ROW).agg(pl.len().alias(_COUNT), (~pl.col("known")).mean().alias("unknown"))
    numbers = pl.DataFrame({_ROW: rows}).join(by_row, on=_ROW, how="left", maintain_order="left")
    count = pl.select(pl.when(every.is_not_null()).then(numbers[_COUNT].fill_null(0))).to_series()
    return {
        CHARACTERS: Measure(every.str.len_chars(), rows),
        WORD_COUNT: Measure(count, rows),
        UNKNOWN_WORDS: Measure(100 * numbers["unknown"], rows),
        WORDS: Measure(_categorise(split[_WORD], vocabulary), split[_ROW].to_numpy()),
    }


def _categorise(words: pl.Series, vocabulary: Mapping[str, float]) -> pl.Series:
    """Return the category of each word; null for null."""
    categories = {
        word: word if share >= MIN_SHARE else f"{WORD_GROUP}{zlib.crc32(word.encode()) % WORD_GROUPS}" for word, share in vocabulary.items()
    }
    named = words.replace_strict(categories, default=OTHER_WORDS, return_dtype=pl.String) if categories else pl.lit(OTHER_WORDS)
    return pl.select(pl.when(words.is_not_null()).then(named)).to_series()
