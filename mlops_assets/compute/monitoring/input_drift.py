"""Drift of texts: the distance between the sentence vectors of two samples, with a permutation test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

PERMUTATIONS = 999


def compare_samples(sample: np.ndarray, reference: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Return the distance of two samples of vectors, and its p-value by a permutation test.

    The distance is the share of the total variance that lies between the two means, from 0 to 1. Both samples have equal weight, and the
    share that is expected by chance is subtracted.

    Parameters
    ----------
    sample, reference
        A vector in each row.
    seed
        The seed of the permutations.
    """
    rows, first = np.vstack([sample, reference]), len(sample)
    centred = rows - rows.mean(axis=0)
    variance = float((centred**2).sum(axis=1).mean())
    if variance == 0:
        return 0.0, 1.0
    generator = np.random.default_rng(seed)
    members = np.zeros((PERMUTATIONS + 1, len(rows)))
    members[0, :first] = 1
    for row in members[1:]:
        row[generator.permutation(len(rows))[:first]] = 1
    weights = members / first - (1 - members) / (len(rows) - first)
    shares = ((weights @ centred) ** 2).sum(axis=1) / 4 / variance
    p_value = float((shares >= shares[0] - 1e-12).mean())
    return max(0.0, float(shares[0] - shares[1:].mean())), p_value


def embed_texts(texts: Sequence[str]) -> np.ndarray:
    """Return the sentence vector of each text, shape (texts, dimensions).

    Parameters
    ----------
    texts
        The texts; tokens after the first 128 of each are ignored.
    """
    from mlops_assets.compute.groundedness.embeddings import embed_sentence

    return np.stack([embed_sentence(text).vector for text in texts])
