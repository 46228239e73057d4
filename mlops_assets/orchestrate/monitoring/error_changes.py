"""Compare the errors of a step's windows with those of earlier windows, which their reports stored."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from mlops_assets.compute.monitoring.error_changes import ErrorStream, add_error_verdict, read_errors
from mlops_assets.compute.monitoring.windows import WindowMeasurement
from mlops_assets.values.expectations.error_change import ErrorChange

ERRORS = "errors"  # column of the performance table: sums over the errors of a window, in the first row of each version


def add_error_verdicts(
    expectation: ErrorChange | None, measurements: Sequence[WindowMeasurement], earlier: pl.DataFrame, window_start: str
) -> list[WindowMeasurement]:
    """Return the measurements with a verdict on the errors of each version; unchanged without the expectation.

    Parameters
    ----------
    expectation
        The monitor's expectation that errors do not increase.
    measurements
        The windows of this step, oldest first; the verdict on a window uses the errors of this and of older windows.
    earlier
        The performance table: the errors of windows that were reported before.
    window_start
        The column of ``earlier`` with the beginning of the window.
    """
    if expectation is None:
        return list(measurements)
    streams, evaluated = dict[int | None, ErrorStream](), []
    for measured in measurements:
        version, report = measured.window.version, measured.performance
        if version not in streams:
            streams[version] = _read_stream(expectation.delta, earlier.filter(pl.col("version") == version), window_start)
        found = None if report is None else add_error_verdict(report, expectation, measured.window.span.start, streams[version])
        evaluated.append(replace(measured, performance=found))
    return evaluated


def _read_stream(delta: float, rows: pl.DataFrame, window_start: str) -> ErrorStream:
    stream = ErrorStream(delta)
    for start, text in rows.select(window_start, ERRORS).drop_nulls().sort(window_start).iter_rows():
        stream.record(start, read_errors(text))
    return stream
