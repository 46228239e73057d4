"""ADWIN finds an increase of the mean as a plain search over all splits does, rarely without one, and in bounded time and space."""

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from mlops_assets.compute.monitoring.adwin import MAX_CHUNKS, Adwin, split_losses

DELTA, FEW = 0.002, 6


def live(losses: np.ndarray, window: int = 100, chunks: int = 16) -> tuple[Adwin, list[int]]:
    """Return the last state, and the numbers of rows after which the error counted as increased."""
    state, increased = Adwin(DELTA), []
    for start in range(0, len(losses), window):
        part = losses[start : start + window]
        state = state.advance(split_losses(part, np.arange(start, start + len(part)) * 1_000_000, chunks))
        if state.increased:
            increased.append(start + len(part))
    return state, increased


def flip(rng: np.random.Generator, *parts: tuple[int, float]) -> np.ndarray:
    return np.concatenate([(rng.random(rows) < rate).astype(float) for rows, rate in parts])


def estimate_effect(*sides: list[float]) -> float:
    """Return the design effect of single rows, in plain Python."""
    sides = [[x - sum(side) / len(side) for x in side] for side in sides]
    squares = sum(x * x for side in sides for x in side)
    correlation = sum(x * y for side in sides for x, y in pairwise(side)) / squares
    correlation = min(0.9, max(0.0, correlation))
    return (1 + FEW / sum(map(len, sides))) * (1 + correlation) / (1 - correlation)


def search_all_splits(losses: list[float]) -> int | None:
    """Return the clearest split of a list by the bound of the paper for dependent rows, in plain Python."""
    n, best, found = len(losses), 0.0, None
    mean = sum(losses) / n
    variance = sum((x - mean) ** 2 for x in losses) / n
    for cut in range(1, n):
        old, new = losses[:cut], losses[cut:]
        effect = estimate_effect(old, new)
        share = effect * (1 / len(old) + 1 / len(new))
        tests = math.log(2 * math.log(max(n / effect, 3)) / DELTA)
        bound = math.sqrt(2 * share * variance * tests) + 2 / 3 * share * tests
        excess = abs(sum(old) / len(old) - sum(new) / len(new)) - bound
        if excess > best:
            best, found = excess, cut
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_window_is_cut_where_a_search_over_all_splits_cuts(seed):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.random(90) * 0.3, rng.random(70) * 0.5 + 0.5, rng.random(60) * 0.2])
    state, kept, cuts = Adwin(DELTA), list[float](), 0
    for start in range(0, len(losses), 10):
        part = losses[start : start + 10]
        state = state.advance(split_losses(part, np.arange(start, start + 10), 10))
        kept += part.tolist()
        while (cut := search_all_splits(kept)) is not None:
            kept, cuts = kept[cut:], cuts + 1
        assert state.window.rows == len(kept)
        assert state.window.mean == pytest.approx(sum(kept) / len(kept))
    assert cuts >= 2


def test_no_stream_without_a_change_is_called_worse():
    rng = np.random.default_rng(0)
    assert [live(flip(rng, (10_000, 0.1)))[1] for _ in range(30)] == [[]] * 30


def correlate(rng: np.random.Generator, rows: int, correlation: float) -> np.ndarray:
    """Return numbers of an autoregressive process of order 1 with a variance of 1."""
    numbers, noise = np.empty(rows), rng.normal(size=rows) * math.sqrt(1 - correlation**2)
    noise[0] = rng.normal()
    for row in range(rows):
        numbers[row] = noise[row] + (correlation * numbers[row - 1] if row else 0.0)
    return numbers


@pytest.mark.parametrize("correlation", [0.7, 0.95])
def test_neighbours_with_similar_errors_are_no_increase_and_a_doubling_is_found(correlation):
    for seed in range(8):
        errors = np.abs(correlate(np.random.default_rng(seed), 8_000, correlation))
        errors[5_000:] *= 2
        _, increased = live(np.clip(errors / 1.96, 0, 1), window=24)
        assert 5_000 < increased[0] < 8_000, seed
        assert increased[-1] == 8_000


def test_an_increase_from_ten_to_fifteen_percent_is_found_after_about_1200_rows():
    delays = []
    for seed in range(20):
        state, increased = live(flip(np.random.default_rng(seed), (10_000, 0.1), (4_000, 0.15)))
        delays.append(increased[0] - 10_000)
        assert increased[-1] == 14_000, "an increase lasts"
        assert state.before.mean == pytest.approx(0.1, abs=0.01)
        assert abs((state.before.until - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1) - 10_000) < 2_000
    assert min(delays) > 0
    assert 600 < float(np.mean(delays)) < 1_400


def test_an_increase_ends_with_the_return_to_the_former_error():
    rng = np.random.default_rng(1)
    _, increased = live(flip(rng, (5_000, 0.1), (4_000, 0.3), (6_000, 0.1)))
    assert 5_000 < increased[0] < 5_800
    assert 9_000 <= increased[-1] < 9_800
    _, again = live(flip(rng, (5_000, 0.1), (4_000, 0.3), (6_000, 0.1), (3_000, 0.3)))
    assert again[-1] == 18_000


def test_an_increase_that_lasts_is_reported_without_a_gap():
    for seed in range(12):
        _, increased = live(flip(np.random.default_rng(seed), (2_000, 0.1), (8_000, 0.16)))
        assert increased == list(range(increased[0], 10_001, 100)), seed


def test_an_increase_after_an_increase_that_ended_counts_from_the_newest_level():
    rates = ((20_000, 0.1), (2_000, 0.3), (10_000, 0.05), (10_000, 0.09))
    state, increased = live(flip(np.random.default_rng(0), *rates), window=500)
    assert 20_000 < increased[0] < 21_000
    assert [rows for rows in increased if 23_000 < rows <= 32_000] == []
    assert 32_000 < next(rows for rows in increased if rows > 23_000) < 35_000
    assert increased[-1] == 42_000
    assert state.before.mean == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("rates", [(0.3, 0.1), (0.3, 0.2, 0.1), (0.0, 0.0)])
def test_an_error_that_falls_or_stays_is_never_worse(rates):
    assert live(flip(np.random.default_rng(2), *((4_000, rate) for rate in rates)))[1] == []


def test_an_increase_after_a_decrease_counts_from_the_lower_error():
    state, increased = live(flip(np.random.default_rng(3), (4_000, 0.3), (4_000, 0.1), (4_000, 0.2)))
    assert 8_000 < increased[0] < 9_500
    assert state.before.mean == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("window", [1, 32, 5_000])
def test_the_state_stays_small_and_keeps_every_row(window):
    losses = flip(np.random.default_rng(4), (20_000, 0.2))
    state, _ = live(losses[: 2_000 if window == 1 else None], window)
    assert len(state.window) <= MAX_CHUNKS + 16
    assert (state.window.rows, state.window.total) == (
        len(losses[: 2_000 if window == 1 else None]),
        pytest.approx(losses[: state.window.rows].sum()),
    )


def test_rows_of_one_time_are_in_one_chunk_in_any_order():
    rng = np.random.default_rng(5)
    losses, times = rng.random(1_000), np.repeat(np.arange(100), 10) * 1_000_000
    order = rng.permutation(1_000)
    first, second = split_losses(losses, times, 16), split_losses(losses[order], times[order], 16)
    assert first.starts.tolist() == second.starts.tolist()
    assert first.counts.tolist() == second.counts.tolist()
    assert first.sums == pytest.approx(second.sums)
    assert (first.counts % 10 == 0).all()
