"""The step of an evaluation: run the prompt on each case, score the answers, and publish them as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import hash_prompt
from mlops_assets.compute.tables.verify import check_names, verify
from mlops_assets.errors import DefinitionError, MlopsError
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.llm.call_costs import PRICED
from mlops_assets.orchestrate.llm.evaluation_results import TOKEN_COUNTS, EvaluationResults, ScoredCase
from mlops_assets.orchestrate.llm.progress import CallProgress
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.dataset import Table
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.prompt_evaluation import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dagster as dg
    import polars as pl

    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.orchestrate.core.graph import Node
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.orchestrate.llm.cases import EvaluationCase
    from mlops_assets.serving.llm.ask_many import CallRecord
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation

UNHASHED = ("cached", "seconds", "seconds_to_first_token", "answered_at")  # they differ between runs with equal answers


def evaluation_spec(
    evaluation: PromptEvaluation, node: Node, run: Callable[..., Iterator[object]], condition: dg.AutomationCondition[Any]
) -> StepSpec:
    """Return the step spec of an evaluation.

    Parameters
    ----------
    evaluation, node
        The evaluation and its node.
    run
        The function that Dagster calls.
    condition
        The default automation condition.
    """
    import dagster as dg

    names = (*check_names(_table_rules(evaluation)), COMPLETE, TOKEN_COUNTS, *([PRICED] if evaluation.prices else []))
    gates = [
        dg.AssetCheckSpec(g.name, asset=asset_key(evaluation.key), blocking=True, description=g.text or None) for g in evaluation.gates
    ]
    return StepSpec(
        evaluation.key,
        run,
        group=evaluation.prompt.name,
        description=f"Answers of {evaluation.prompt.key} to the cases of {evaluation.cases.key}, with their scores.",
        kinds=frozenset({"llm", "duckdb"}),
        deps=[
            dg.AssetDep(asset_key(evaluation.prompt.key)),
            *(dg.AssetDep(asset_key(edge.parent), partition_mapping=edge.mapping) for edge in node.edges),
        ],
        checks=[*build_check_specs(evaluation.key, names, warnings=(TOKEN_COUNTS, PRICED)), *gates],
        options=evaluation.options,
        condition=condition,
        code_version=node.definition,
    )


def _table_rules(evaluation: PromptEvaluation) -> Table:
    return Table(key=evaluation.case_key)


def evaluation_body(evaluation: PromptEvaluation) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of an evaluation's step."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, _table_rules(evaluation), lambda: _evaluate(step, evaluation), unhashed_columns=UNHASHED)

    return body


def _evaluate(step: StepContext, evaluation: PromptEvaluation) -> CheckedTable:
    """Return the scored answers to all cases, with checks and facts for the UI; submit the prompt with the results of its gates."""
    # Only the step needs these modules: definitions load without them.
    from mlops_assets.orchestrate.llm.calibration_results import list_refused_judges
    from mlops_assets.orchestrate.llm.cases import read_cases
    from mlops_assets.orchestrate.llm.gating import evaluate_gates, list_outcomes, submit_prompt
    from mlops_assets.orchestrate.llm.operational_report import describe_operations
    from mlops_assets.orchestrate.llm.wins import compare_with_production
    from mlops_assets.orchestrate.training.evaluation import find_champion

    prompt, rows = evaluation.prompt, step.read(step.project.by_key[evaluation.cases.key])
    cases = read_cases(evaluation, rows)
    artifact = store_verified_prompt(step, evaluation, [case.variables for case in cases])
    results = _run_prompt(step, evaluation, prompt, rows, cases)
    production = find_champion(step.stores, prompt.name)
    needs_production = bool(evaluation.pairwise_judges) or any(gate.relative for gate in evaluation.gates)
    differs = production is not None and production.digest != results.version
    production_results = _evaluate_production(step, evaluation, rows, production) if needs_production and differs else None
    if production_results is not None:
        results = compare_with_production(step, results, production_results)
    gate_results = evaluate_gates(
        results, production_results, production, list_refused_judges(step, evaluation.judges if evaluation.gates else ())
    )
    submit_prompt(step, results, gate_results, production, artifact)
    frame = results.to_frame()
    outcomes = [
        *verify(frame, _table_rules(evaluation), step.windows),
        *results.check_completeness(),
        *list_outcomes(gate_results, evaluation),
    ]
    return CheckedTable(
        frame, outcomes, results.describe(production_results) | {"cost and latency": describe_operations(results, production_results)}
    )


def store_verified_prompt(step: StepContext, evaluation: PromptEvaluation, calls: Sequence[Mapping[str, Any]]) -> str:
    """Store the prompt of an evaluation, check that the stored prompt builds the same messages for each case, and return its artifact.

    Parameters
    ----------
    step, evaluation
        The step and its evaluation.
    calls
        Variable → value, for each case.

    Raises
    ------
    DefinitionError
        The prompt cannot be stored, or a service would send other messages than the evaluation.
    """
    from mlops_assets.compute.prompts.messages import build_messages
    from mlops_assets.serving.formats.stored_prompts import open_prompt, store_prompt

    prompt = evaluation.prompt
    artifact = store_prompt(step.stores.artifacts, prompt)
    stored = open_prompt(step.stores.artifacts, artifact)
    for variables in calls:
        if build_messages(stored, variables) != build_messages(prompt, variables):
            raise DefinitionError(
                f"'{prompt.key}' builds other messages for '{evaluation.key}' after it is stored and read back",
                hint="its variables have types whose JSON depends on code, e.g. on a serialiser: use plain types",
            )
    return artifact


def _evaluate_production(
    step: StepContext, evaluation: PromptEvaluation, rows: pl.DataFrame, production: Version | None
) -> EvaluationResults | None:
    """Return the evaluation of the production version on the same cases; None, with a warning in the log, when it fails."""
    from mlops_assets.orchestrate.llm.cases import read_cases
    from mlops_assets.serving.formats.stored_prompts import connect_prompt, open_prompt

    if production is None:
        return None
    try:
        prompt = connect_prompt(open_prompt(step.stores.artifacts, production.artifact), evaluation.prompt.model)
        return _run_prompt(step, evaluation, prompt, rows, read_cases(evaluation, rows, prompt))
    except MlopsError as error:
        step.context.log.warning(f"'{evaluation.key}': the production version {production.version} cannot be evaluated: {error}")
        return None


def _run_prompt(
    step: StepContext, evaluation: PromptEvaluation, prompt: Prompt[..., Any], rows: pl.DataFrame, cases: Sequence[EvaluationCase]
) -> EvaluationResults:
    """Run a prompt on the cases and return its scored answers; the prompt is that of the evaluation, or its production version."""
    from mlops_assets.orchestrate.llm.call_costs import read_evaluation_prices
    from mlops_assets.orchestrate.llm.scoring import describe_method
    from mlops_assets.serving.llm.ask_many import ask_many

    version = hash_prompt(prompt)
    methods = {scorer.name: describe_method(scorer) for scorer in evaluation.plain_scorers}
    label = evaluation.key if version == hash_prompt(evaluation.prompt) else f"{evaluation.key}, production"
    prices = read_evaluation_prices(step, evaluation)
    progress = CallProgress(label, len(cases), step.context.log.info, prices=prices)
    scored: dict[int, ScoredCase] = {}
    durations = evaluation.limited_durations if label == evaluation.key else ()  # a relative gate reads none
    variables = [case.variables for case in cases]
    for position, call in ask_many(prompt, variables, cache=step.stores.responses, streams=evaluation.stream, durations=durations):
        scored[position] = _score_case(step, evaluation, cases[position], call)
        progress.add(call, failed=bool(scored[position].error))
    answered = [scored[position] for position in range(len(cases))]
    if label == evaluation.key or any(gate.relative for gate in evaluation.gates):
        answered = _judge_answers(step, evaluation, label, answered, prices)
    return EvaluationResults(evaluation, version, rows, answered, methods, prices)


def _score_case(step: StepContext, evaluation: PromptEvaluation, case: EvaluationCase, call: CallRecord) -> ScoredCase:
    from mlops_assets.orchestrate.llm.scoring import score_answer

    if call.error or call.completion is None:
        return ScoredCase(case, call)

    def warn(text: str) -> None:
        step.context.log.warning(f"{evaluation.key}, case {case.label}: {text}")

    answer = call.completion.text
    return ScoredCase(case, call, {scorer.name: score_answer(scorer, answer, case.row, warn) for scorer in evaluation.plain_scorers})


def _judge_answers(
    step: StepContext, evaluation: PromptEvaluation, label: str, scored: Sequence[ScoredCase], prices: PriceTable | None
) -> list[ScoredCase]:
    """Return the scored cases with the scores of the evaluation's judges; a case without an answer is not judged."""
    from mlops_assets.orchestrate.llm.judging import judge_answers

    judged, cache, log = list(scored), step.stores.responses, step.context.log
    answered = {
        number: (case.call.completion.text, case.case.row)
        for number, case in enumerate(scored)
        if case.call.completion is not None and not case.call.error
    }
    for judge in evaluation.judges:
        if not isinstance(judge, Judge):
            continue
        progress = CallProgress(f"{label}, judge '{judge.name}'", len(answered) * judge.repeats, log.info, "verdicts", prices)
        found = judge_answers(judge, list(answered.values()), cache=cache, warn=log.warning, progress=progress)
        for number, answer in zip(answered, found, strict=True):
            case = judged[number]
            scores = {**case.scores, judge.name: answer.score(judge)}
            judged[number] = replace(case, scores=scores, judged={**case.judged, judge.name: answer})
    return judged
