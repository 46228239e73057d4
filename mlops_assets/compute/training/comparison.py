"""Compare a reproduced training with its record: inputs in causal order, then predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IDENTICAL, EQUIVALENT, DIFFERENT = "IDENTICAL", "EQUIVALENT", "DIFFERENT"
CAUSES = ("data", "row_order", "split", "code", "params", "seeds", "packages")
CIRCUMSTANCES = ("threads", "hardware")
TOLERANCE = {"absolute": 1e-6, "relative": 1e-5}  # of each probe prediction and of each metric
_ABSENT = "absent"


@dataclass(frozen=True)
class RecordChange:
    """A field of the record whose value differs in the reproduced training.

    Parameters
    ----------
    field
        Such as ``packages.scikit-learn``.
    was, now
        The recorded value, and the value in the reproduced training.
    cause
        Whether the field is one of ``CAUSES``, which determine the trained model. Threads, hardware and results are not causes.
    """

    field: str
    was: Any
    now: Any
    cause: bool = True


@dataclass(frozen=True)
class TrainingComparison:
    """The result of :func:`compare_trainings`.

    Parameters
    ----------
    verdict
        ``IDENTICAL``: every probe prediction and every metric is equal to the last bit, and none of ``CAUSES`` differs. ``EQUIVALENT``:
        something differs, but predicted labels are equal, and predictions and metrics agree within ``TOLERANCE``. ``DIFFERENT``: labels
        differ, or predictions or metrics differ by more.
    differences
        In causal order: causes, circumstances, then results. Other packages are compared only when results differ without another
        difference.
    largest
        Maximum absolute difference of a probe prediction; infinite when the shapes differ.
    """

    verdict: str
    differences: tuple[RecordChange, ...]
    largest: float

    @property
    def first(self) -> RecordChange | None:
        """First field that differs, in causal order; None when nothing differs."""
        return self.differences[0] if self.differences else None


def compare_trainings(was: Mapping[str, Any], now: Mapping[str, Any]) -> TrainingComparison:
    """Compare a training with its record.

    Parameters
    ----------
    was, now
        The record and the reproduced training, each with a mapping for each of ``CAUSES`` and ``CIRCUMSTANCES``, and with ``metrics``.
        ``predictions`` holds probabilities of the probe rows, or else predicted values. ``labels`` holds the output of ``predict`` for
        these rows, and is not compared when the record has none. A version with a refit also has ``refit``, with predictions and labels of
        the refit model.
    """
    differences = [*_compare_fields(was, now, CAUSES, cause=True), *_compare_fields(was, now, CIRCUMSTANCES, cause=False)]
    fits = [("", was, now), *([("refit.", was["refit"], now["refit"])] if "refit" in was else [])]
    predictions = [(where, _as_array(old), _as_array(new)) for where, old, new in fits]
    changed_labels = [change for where, old, new in fits for change in _compare_labels(old.get("labels"), new.get("labels"), where)]
    changed_predictions = [change for where, before, after in predictions for change in _compare_predictions(before, after, where)]
    results = [*changed_predictions, *changed_labels, *_compare_fields(was, now, ("metrics",), cause=False)]
    if results and not differences:
        differences += _compare_fields(was, now, ("other_packages",), cause=False)
    if not results:
        verdict = EQUIVALENT if any(difference.cause for difference in differences) else IDENTICAL
    else:
        close = all(_are_close(before, after) for _, before, after in predictions)
        verdict = EQUIVALENT if not changed_labels and close and _metrics_are_close(was["metrics"], now["metrics"]) else DIFFERENT
    return TrainingComparison(
        verdict, (*differences, *results), max(_largest_difference(before, after) for _, before, after in predictions)
    )


def _as_array(fit: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(fit["predictions"], dtype="<f8")


def _compare_fields(was: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...], *, cause: bool) -> Iterator[RecordChange]:
    """Yield the keys of the mappings ``names`` whose values differ; ``absent`` stands for a missing value, except of a circumstance."""
    for name in names:
        old, new = was.get(name, {}), now.get(name, {})
        # Circumstances are compared when both trainings have them: a thread library that one process did not load computed nothing there.
        keys = sorted(old.keys() & new.keys() if name in CIRCUMSTANCES else old.keys() | new.keys())
        for key in keys:
            if not _are_equal(old.get(key, _ABSENT), new.get(key, _ABSENT)):
                yield RecordChange(f"{name}.{key}", old.get(key, _ABSENT), new.get(key, _ABSENT), cause)


def _are_equal(first: Any, second: Any) -> bool:  # noqa: ANN401  (values of a record)
    return first == second or (isinstance(first, float) and isinstance(second, float) and math.isnan(first) and math.isnan(second))


def _compare_predictions(before: np.ndarray, after: np.ndarray, where: str) -> Iterator[RecordChange]:
    """Yield the shapes if they differ; otherwise the first row whose predictions are not equal to the last bit."""
    if before.shape != after.shape:
        yield RecordChange(f"{where}predictions.shape", list(before.shape), list(after.shape), cause=False)
    elif before.tobytes() != after.tobytes():
        flat, other = before.reshape(len(before), -1), after.reshape(len(after), -1)
        row = int(np.argmax([a.tobytes() != b.tobytes() for a, b in zip(flat, other, strict=True)]))
        yield RecordChange(f"{where}predictions.row {row} of the probe", flat[row].tolist(), other[row].tolist(), cause=False)


def _compare_labels(before: Sequence[Any] | None, after: Sequence[Any] | None, where: str) -> Iterator[RecordChange]:
    """Yield the first row whose predicted label differs; nothing when either side has no labels."""
    for row, (old, new) in enumerate(zip(before or (), after or (), strict=False)):
        if old != new:
            yield RecordChange(f"{where}labels.row {row} of the probe", old, new, cause=False)
            return


def _are_close(before: np.ndarray, after: np.ndarray) -> bool:
    if before.shape != after.shape:
        return False
    return bool(np.allclose(after, before, rtol=TOLERANCE["relative"], atol=TOLERANCE["absolute"], equal_nan=True))


def _metrics_are_close(was: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return was.keys() == now.keys() and _are_close(np.array([was[m] for m in sorted(was)]), np.array([now[m] for m in sorted(now)]))


def _largest_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Return the maximum absolute difference, NaN ignored; infinite for unequal shapes, 0 for no predictions."""
    if before.shape != after.shape or not before.size:
        return 0.0 if before.shape == after.shape else math.inf
    return float(np.nanmax(np.abs(before - after))) if not np.isnan(before - after).all() else 0.0
