"""Seeds of a training, and detection of unseeded random draws."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEED_NAMES = frozenset({"random_state", "seed", "random_seed", "bagging_seed", "feature_fraction_seed", "data_random_seed"})
_PLAIN = (int, float, str, bool, type(None))


def find_seeds(estimator: Any) -> dict[str, Any]:  # noqa: ANN401  (any estimator)
    """Return parameter name → seed of an estimator and its parts, sorted by name; a generator object is returned as the name of its type.

    Parameters
    ----------
    estimator
        An estimator whose parameters ``get_params`` returns, as in scikit-learn. No seeds are found in any other object.
    """
    get_params = getattr(estimator, "get_params", None)
    params = get_params(deep=True) if get_params else {}
    return {name: _to_plain(value) for name, value in sorted(params.items()) if name.split("__")[-1] in _SEED_NAMES}


def _to_plain(value: Any) -> Any:  # noqa: ANN401  (what JSON can hold)
    return int(value) if isinstance(value, np.integer) else value if isinstance(value, _PLAIN) else type(value).__name__


class GlobalDraws:
    """The global random generators, ``python`` and ``numpy``, that a block drew from; ``drawn`` is set when the block ends."""

    def __init__(self) -> None:
        self.drawn: tuple[str, ...] = ()


@contextmanager
def seed_globals(fingerprint: str) -> Iterator[GlobalDraws]:
    """Seed the global generators from the fingerprint, watch them, and restore their state afterwards.

    Code without a seed (``random_state=None``, ``numpy.random.shuffle``) draws from the global generators, so it gets equal numbers for
    equal fingerprints. A generator that the operating system seeds, such as ``numpy.random.default_rng()``, is not covered.

    Parameters
    ----------
    fingerprint
        Hexadecimal text; see :func:`derive_seed`.
    """
    before, draws = (random.getstate(), np.random.get_state()), GlobalDraws()  # noqa: NPY002  (the global one is meant)
    try:
        random.seed(derive_seed(fingerprint))
        np.random.seed(derive_seed(fingerprint))  # noqa: NPY002
        initial = {"python": _python_state(), "numpy": _numpy_state()}
        yield draws
        final = {"python": _python_state(), "numpy": _numpy_state()}
        draws.drawn = tuple(sorted(name for name in initial if initial[name] != final[name]))
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def derive_seed(fingerprint: str) -> int:
    """Return the seed of the global generators for a training: the first 32 bits of the fingerprint."""
    return int(fingerprint[:8], 16)


def _python_state() -> Any:  # noqa: ANN401
    return random.getstate()


def _numpy_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return state["state"]["key"].tobytes(), int(state["state"]["pos"])
