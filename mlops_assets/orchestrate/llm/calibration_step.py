"""The step of a judge's calibration: judge the labelled answers, and publish labels and verdicts as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import hash_judge
from mlops_assets.compute.tables.verify import Outcome, check_names, verify
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.llm.case_columns import find_absent_column
from mlops_assets.orchestrate.llm.progress import CallProgress
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.dataset import Table
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dagster as dg
    import polars as pl

    from mlops_assets.compute.llm_evaluation.agreement import Rate
    from mlops_assets.compute.llm_evaluation.calibration import JudgeCalibration
    from mlops_assets.orchestrate.core.graph import Node
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.orchestrate.llm.judging import JudgedAnswer
    from mlops_assets.values.evaluation import GateResult
    from mlops_assets.values.llm.calibration import Calibration

MAY_GATE = "may_gate"


def calibration_spec(
    calibration: Calibration, node: Node, run: Callable[..., Iterator[object]], condition: dg.AutomationCondition[Any]
) -> StepSpec:
    """Return the step spec of a calibration.

    Parameters
    ----------
    calibration, node
        The calibration and its node.
    run
        The function that Dagster calls.
    condition
        The default automation condition.
    """
    import dagster as dg

    return StepSpec(
        calibration.key,
        run,
        group=calibration.judge.prompt.name,
        description=f"Agreement of the judge {calibration.judge.name} with the labels of {calibration.cases.key}.",
        kinds=frozenset({"llm", "duckdb"}),
        deps=[dg.AssetDep(asset_key(edge.parent), partition_mapping=edge.mapping) for edge in node.edges],
        checks=build_check_specs(calibration.key, (*check_names(_table_rules(calibration)), MAY_GATE), warnings=(MAY_GATE,)),
        options=calibration.options,
        condition=condition,
        code_version=node.definition,
    )


def _table_rules(calibration: Calibration) -> Table:
    return Table(key=calibration.case_key)


def calibration_body(calibration: Calibration) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of a calibration's step."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, _table_rules(calibration), lambda: _calibrate(step, calibration))

    return body


def _calibrate(step: StepContext, calibration: Calibration) -> CheckedTable:
    """Return the judged answers, with the check ``may_gate`` and facts for the UI."""
    from mlops_assets.orchestrate.llm.calibration_results import check_reliability, measure_agreement
    from mlops_assets.orchestrate.llm.judging import describe_judge

    rows = step.read(step.project.by_key[calibration.cases.key])
    _check_cases(calibration, rows)
    judged = _judge_cases(step, calibration, rows)
    frame = _build_frame(calibration, rows, judged)
    found, result = measure_agreement(calibration, frame), check_reliability(calibration, frame)
    outcomes = [*verify(frame, _table_rules(calibration), step.windows), _check_gate(calibration, result)]
    calls = {f"judge {name}": text for name, text in describe_judge(calibration.judge, judged).items()}
    return CheckedTable(frame, outcomes, {**_describe(calibration, found, result), **_describe_bias(calibration, frame), **calls})


def _judge_cases(step: StepContext, calibration: Calibration, rows: pl.DataFrame) -> Sequence[JudgedAnswer]:
    from mlops_assets.orchestrate.llm.judging import judge_answers
    from mlops_assets.orchestrate.llm.pairwise import compare_answers

    judge, log, cache = calibration.judge, step.context.log, step.stores.responses
    progress = CallProgress(calibration.key, rows.height * judge.repeats, log.info, "verdicts")
    answers = [(*(row[column] for column in calibration.answers), row) for row in rows.iter_rows(named=True)]
    if isinstance(judge, PairwiseJudge):
        return compare_answers(judge, answers, cache=cache, warn=log.warning, progress=progress)
    return judge_answers(judge, answers, cache=cache, warn=log.warning, progress=progress)


def _describe_bias(calibration: Calibration, frame: pl.DataFrame) -> dict[str, str]:
    from mlops_assets.orchestrate.llm.pairwise import measure_bias

    return measure_bias(frame["orders"].to_list()).describe() if isinstance(calibration.judge, PairwiseJudge) else {}


def _check_cases(calibration: Calibration, rows: pl.DataFrame) -> None:
    """Raise DataError for cases that cannot be judged or compared, before the first request."""
    import polars as pl

    source = calibration.cases.key
    if rows.is_empty():
        raise DataError(
            f"'{source}' has no row: '{calibration.key}' has nothing to compare", hint=f"return labelled answers from '{source}'"
        )
    if problem := find_absent_column(calibration, rows.columns):
        raise DataError(problem[0], hint=problem[1])
    for column in (calibration.label, *calibration.answers):
        if not isinstance(rows.schema[column], pl.String):
            raise DataError(
                f"'{calibration.key}': column '{column}' of '{source}' is {rows.schema[column]}, not text", hint=f"cast it in '{source}'"
            )
        if (row := _find_row(rows, pl.col(column).is_null())) is not None:
            raise DataError(
                f"'{calibration.key}': column '{column}' of case {_build_label(calibration, row)} is null",
                hint=f"fill it in, or drop the case from '{source}'",
            )
    if (row := _find_row(rows, ~pl.col(calibration.label).is_in(calibration.judge.allowed))) is not None:
        raise DataError(
            f"'{calibration.key}': case {_build_label(calibration, row)} has the label {row[calibration.label]!r} in column '{calibration.label}', "
            f"which is not a verdict of the judge '{calibration.judge.name}'",
            hint=f"its verdicts are {', '.join(calibration.judge.allowed)}",
        )


def _find_row(rows: pl.DataFrame, condition: pl.Expr) -> dict[str, Any] | None:
    found = rows.filter(condition)
    return found.row(0, named=True) if found.height else None


def _build_label(calibration: Calibration, row: dict[str, Any]) -> str:
    return ", ".join(repr(row[name]) for name in calibration.case_key)


def _build_frame(calibration: Calibration, rows: pl.DataFrame, judged: Sequence[JudgedAnswer]) -> pl.DataFrame:
    import polars as pl

    from mlops_assets.orchestrate.llm.judging import list_verdict_columns

    verdict, repeats, flip_rate, *orders = (
        pl.Series(values, dtype=dtype) for dtype, values in list_verdict_columns(calibration.judge, judged).values()
    )
    labelled = rows.select(*calibration.case_key, pl.col(calibration.label).alias("label"), verdict.alias("verdict"))
    return labelled.with_columns(
        agrees=pl.col("verdict") == pl.col("label"),
        repeats=repeats,
        flip_rate=flip_rate,
        error=pl.Series([found.verdict.reason or None for found in judged], dtype=pl.String),
        judge_version=pl.lit(hash_judge(calibration.judge)),
        **({"orders": orders[0]} if orders else {}),
    )


def _check_gate(calibration: Calibration, result: GateResult) -> Outcome:
    return Outcome(
        MAY_GATE,
        passed=result.passed,
        message=f"judge '{calibration.judge.name}' is not reliable enough to decide a gate: {result.reason}; its scores are only reported",
        hint="improve the rubric, use a stronger model, or label more cases",
        blocking=False,
        facts={"reason": result.reason, "min_kappa": calibration.min_kappa},
    )


def _describe(calibration: Calibration, found: JudgeCalibration, result: GateResult) -> dict[str, Any]:
    """Return the metadata of the materialisation."""
    from mlops_assets.orchestrate.core.metadata import to_table

    rows = [("judge", found), *([("constant", found.baseline)] if found.baseline else [])]
    verdict = "may decide gates" if result.passed else "may not decide gates"
    flips = "" if found.flip_rate is None else f"; flip rate {found.flip_rate:.3f}"
    return {
        "summary": f"{found.cases} cases; the judge '{calibration.judge.name}' {verdict}: {result.reason}{flips}",
        "may gate": result.passed,
        "reason": result.reason,
        "cases": found.cases,
        "labels": ", ".join(f"{label} {count}" for label, count in found.labels),
        "positive verdict": found.positive,
        **({} if found.kappa is None else {"kappa": found.kappa}),
        **({} if found.flip_rate is None else {"flip rate": found.flip_rate}),
        "agreement": to_table([_describe_agreement(name, measured) for name, measured in rows]),
    }


def _describe_agreement(name: str, found: JudgeCalibration) -> dict[str, str]:
    low_high = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
    return {
        "predictor": name,
        "kappa (95 % CI)": "undefined" if found.kappa is None else f"{found.kappa:.3f}{low_high}",
        "agreement (95 % CI)": _format_rate(found.agreement),
        "true-positive rate (95 % CI)": _format_rate(found.true_positive),
        "true-negative rate (95 % CI)": _format_rate(found.true_negative),
        "failed calls (95 % CI)": _format_rate(found.errors),
    }


def _format_rate(rate: Rate) -> str:
    if rate.value is None:
        return "no case"
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}, {rate.count} of {rate.trials})"
