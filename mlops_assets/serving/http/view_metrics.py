"""Metrics of online lookups for each feature view: counts by status and a histogram of ages, summed over all workers."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from mlops_assets.serving.predict.model_inputs import ViewLookup

AGES = (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 172_800.0, 604_800.0, 2_592_000.0)  # seconds
_STATUSES = ("fresh", "stale", "missing")  # in the order of mlops_assets.stores.online.protocol.Status; the supervisor imports no numpy
_MAX_VIEWS, _MAX_NAME_BYTES = 64, 128  # views beyond these limits are not counted
_FIRST_AGE = len(_STATUSES)
_ROW = _MAX_NAME_BYTES + 8 * (len(_STATUSES) + len(AGES) + 2)
_SUFFIX = f"-{_ROW}-{_MAX_VIEWS}.views"
SIZE = _ROW * _MAX_VIEWS


def _row_dtype() -> np.dtype[np.void]:
    import numpy as np

    return np.dtype(
        [("name", f"S{_MAX_NAME_BYTES}"), ("statuses", "<f8", len(_STATUSES)), ("ages", "<f8", len(AGES) + 1), ("seconds", "<f8")]
    )


def find_view_file(folder: Path, index: int) -> Path:
    """Return the file of one worker's lookup metrics."""
    return folder / f"{index}{_SUFFIX}"


class ViewMetrics:
    """The lookup metrics of one worker.

    Parameters
    ----------
    folder, index
        As in :class:`mlops_assets.serving.http.metrics.Metrics`; the file of :func:`find_view_file` must exist in full size.
    """

    def __init__(self, folder: Path, index: int) -> None:
        import numpy as np

        self._folder = folder
        with find_view_file(folder, index).open("r+b") as file:
            self._table = np.frombuffer(mmap.mmap(file.fileno(), SIZE), dtype=_row_dtype())
        bytes_ = memoryview(self._table.view(np.uint8))  # type: ignore[arg-type]  # an array is a buffer
        self._places = {name.decode(): place for place, name in enumerate(self._table["name"].tolist()) if name}
        self._rows = [bytes_[i * _ROW + _MAX_NAME_BYTES : (i + 1) * _ROW].cast("d") for i in range(_MAX_VIEWS)]

    def count(self, lookups: Iterable[ViewLookup]) -> None:
        """Count the rows that one request looked up; views beyond the limits of this module are not counted."""
        for lookup in lookups:
            place = self._places.get(lookup.view)
            if place is None and (place := self._add_view(lookup.view)) is None:
                continue
            if len(lookup.status) == 1:
                self._count_row(self._rows[place], lookup.status[0], lookup.age[0])
            else:
                self._count_rows(self._table[place], lookup.status, lookup.age)  # type: ignore[arg-type]  # arrays, when there are many

    @staticmethod
    def _count_row(row: memoryview[float], status: int, age: int) -> None:
        row[status] += 1
        if status == 0:
            seconds = age / 1_000_000
            row[_FIRST_AGE + bisect_left(AGES, seconds)] += 1
            row[-1] += seconds

    @staticmethod
    def _count_rows(row: np.void, status: np.ndarray, age: np.ndarray) -> None:
        import numpy as np

        row["statuses"] += np.bincount(status, minlength=len(_STATUSES))
        seconds = age[status == 0] / 1_000_000
        row["ages"] += np.bincount(np.searchsorted(AGES, seconds), minlength=len(AGES) + 1)
        row["seconds"] += seconds.sum()

    def _add_view(self, view: str) -> int | None:
        """Return the table row for a new view; None when the table is full or the name too long."""
        place, name = len(self._places), view.encode()
        if place == _MAX_VIEWS or len(name) > _MAX_NAME_BYTES:
            return None
        self._table["name"][place] = name
        self._places[view] = place
        return place

    def render_lines(self) -> Iterator[str]:
        """Yield the metrics of all workers in Prometheus' text format."""
        import numpy as np

        totals: dict[str, np.ndarray] = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            content = path.read_bytes()
            for row in np.frombuffer(content, dtype=_row_dtype()) if len(content) == SIZE else ():
                if row["name"]:
                    figures = np.concatenate([row["statuses"], row["ages"], [row["seconds"]]])
                    name = row["name"].decode()
                    totals[name] = totals.get(name, 0.0) + figures
        yield from (
            "# HELP mlops_feature_rows_total Rows looked up, by view and by what was found.",
            "# TYPE mlops_feature_rows_total counter",
        )
        for view, figures in sorted(totals.items()):
            yield from (f'mlops_feature_rows_total{{view="{view}",status="{s}"}} {figures[i]:.0f}' for i, s in enumerate(_STATUSES))
        name = "mlops_feature_age_seconds"
        yield from (f"# HELP {name} Age of the fresh rows at the time of the request's event, by view.", f"# TYPE {name} histogram")
        for view, figures in sorted(totals.items()):
            yield from _render_ages(name, view, figures[_FIRST_AGE:])


def _render_ages(name: str, view: str, figures: Sequence[float] | np.ndarray) -> Iterator[str]:
    so_far = 0.0
    for bucket, count in zip((*AGES, "+Inf"), figures[:-1], strict=True):
        so_far += count
        yield f'{name}_bucket{{view="{view}",le="{bucket}"}} {so_far:.0f}'
    yield from (f'{name}_sum{{view="{view}"}} {figures[-1]:.9g}', f'{name}_count{{view="{view}"}} {so_far:.0f}')
