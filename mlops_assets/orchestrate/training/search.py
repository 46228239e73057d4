"""Search hyperparameters within a training: each trial is a child run, and a resumed search reuses finished trials."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlops_assets.compute.pages.search_plot import plot_search
from mlops_assets.compute.training.search import Trial, best_trial, run_trials
from mlops_assets.compute.user_code.source_slice import extract_source
from mlops_assets.orchestrate.core.metadata import to_image, to_table
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.recorded_function import refuse_unrecorded
from mlops_assets.orchestrate.training.trial import SearchContext, run_trial
from mlops_assets.orchestrate.training.trial_process import RunRound, start_trial_processes
from mlops_assets.stores.tracker.active_run import ActiveRun
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Split
from mlops_assets.values.function import Injection
from mlops_assets.values.model import Model

_MAX_TRIALS = 10  # trials in the metadata of a materialisation


def run_search(step: StepContext, model: Model[..., Any], splits: Mapping[str, Split], active: ActiveRun, fingerprint: str) -> StepContext:
    """Run the model's search, and return the step with the best hyperparameters; without a search, return the step unchanged.

    Parameters
    ----------
    step, model, splits
        The step, the model and the parts of the training set.
    active
        The run of the training; the best hyperparameters and their score are logged to it.
    fingerprint
        Identifies the training: trials with this fingerprint are not run again.
    """
    if model.search is None:
        return step
    context = SearchContext(model.search, _find_search_metric(model), active.run, fingerprint, splits, model.positive)
    finished = _read_finished_trials(step, fingerprint)
    with _open_rounds(step, model, context) as run_new_trials:

        def run_round(proposed: Sequence[Trial], before: Sequence[Trial]) -> list[Trial]:
            new = {trial.number: trial for trial in run_new_trials([trial for trial in proposed if trial.number not in finished], before)}
            for trial in new.values():
                if trial.error:
                    step.context.log.warning(f"trial {trial.number} failed: {trial.error}")
            return [finished.get(trial.number) or new[trial.number] for trial in proposed]

        trials = run_trials(model.search, run_round)
    best = best_trial(trials, f"'{model.key}'")
    active.log_params({**best.params, "search/best_trial": best.number})
    active.log_metric(f"search/{_find_search_metric(model)}", best.value)
    earlier = sum(trial.number in finished for trial in trials)
    result = f"{_find_search_metric(model)} {best.value:.5g} on the validation part"
    step.context.log.info(f"trial {best.number} of {len(trials)} is the best, {result}; {earlier} of the trials come from an earlier run")
    return step.with_params(best.params)


def describe_search(step: StepContext, model: Model[..., Any], run: Run) -> dict[str, Any]:
    """Return the ten best trials of a training as a table, and all trials as a plot; empty without trials."""
    if model.search is None:
        return {}
    trials = sorted(_read_finished_trials(step, run.fingerprint).values(), key=lambda trial: trial.number)
    if not trials:
        return {}
    metric = _find_search_metric(model)
    ranked = sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0), trial.number))
    rows = [{"trial": t.number, metric: t.value, **t.params} for t in ranked[:_MAX_TRIALS]]
    cells = [{name: "–" if value is None else value for name, value in row.items()} for row in rows]
    return {"trials": to_table(cells), "search": to_image(plot_search(model.search, trials, metric), "search")}


def _find_search_metric(model: Model[..., Any]) -> str:
    return (model.search.metric if model.search else "") or model.metrics[0]


def _read_finished_trials(step: StepContext, fingerprint: str) -> dict[int, Trial]:
    """Return number → trial, for the trials of a training that have ended: completed, pruned or failed."""
    runs = step.stores.tracker.search(f"kind = 'trial' and fingerprint = '{fingerprint}'", limit=100_000)
    stored = [run.record["trial"] for run in runs if "trial" in run.record]
    return {t["number"]: Trial(t["number"], t["params"], t["value"], {int(s): v for s, v in t["steps"]}) for t in stored}


@contextmanager
def _open_rounds(step: StepContext, model: Model[..., Any], context: SearchContext) -> Iterator[RunRound]:
    """Yield the function that runs a round of trials: one after the other in this process, or in worker processes."""
    if context.search.processes > 1:
        refuse_unrecorded(model.function)
        with start_trial_processes(context, step.stores.platform, extract_source(model.function.function), step.config) as run:
            yield run
        return
    arguments = {p.name: context.splits[p.name] for p in model.function.parameters_for(Injection.SPLIT)}

    def train(params: Mapping[str, Any]) -> Any:  # noqa: ANN401  (any estimator)
        return step.with_params(params).call(model.function, **arguments)

    yield lambda proposed, before: [run_trial(context, step.stores, trial, before, train) for trial in proposed]
