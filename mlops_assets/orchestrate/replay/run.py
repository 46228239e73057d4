"""Replay several policies at once, and write the result as JSON and as a page."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.pages.replay_page import render_replay
from mlops_assets.compute.replay.advice import advise
from mlops_assets.compute.replay.comparison import compare_policies
from mlops_assets.compute.replay.grid import declare_policy, write_declaration
from mlops_assets.compute.replay.result import PolicyResult, ReplayResult
from mlops_assets.orchestrate.replay.progress import ReplayProgress, list_certain_fits
from mlops_assets.orchestrate.replay.simulation import ReplayPlan, replay_policy
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.values.training import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlops_assets.compute.replay.policies import ReplayPolicy
    from mlops_assets.orchestrate.replay.fits import FitCache

JSON_FILE, PAGE_FILE = "replay.json", "replay.html"
_PAGE_MODE = 0o644


def run_policies(  # noqa: PLR0913  (what is replayed, and how it is shown)
    plan: ReplayPlan, policies: Sequence[ReplayPolicy], fits: FitCache, *, by: str, notes: Sequence[str], show: Callable[[str], None]
) -> ReplayResult:
    """Replay policies over the same windows, and compare them.

    Parameters
    ----------
    plan, policies, fits
        What is replayed.
    by
        The unit of a window of the result.
    notes
        What the replay does differently from production.
    show
        Called with a line of progress.
    """
    from threadpoolctl import threadpool_limits

    progress = ReplayProgress(plan, policies, show)

    limit = 1 if fits.processes > 1 else None  # other processes fit models

    def replay(policy: ReplayPolicy) -> PolicyResult:
        threadpool_limits(limit, user_api="openmp")  # OpenMP limits one thread, BLAS the process
        return replay_policy(plan, policy, fits, lambda window, rows: progress.advance(policy.name, window, rows, fits.new))

    with threadpool_limits(limit), ThreadPoolExecutor(len(policies) + fits.processes) as threads:
        running = [threads.submit(replay, policy) for policy in policies]
        if fits.processes > 1:
            for request in dict.fromkeys(request for policy in policies for request in list_certain_fits(plan, policy)):
                threads.submit(fits.fit, request)
        results = tuple(future.result() for future in running)
    metric = plan.metrics[0]
    start, end = plan.windows[0][1].start, plan.windows[-1][1].end
    comparisons = compare_policies(results, metric)
    return ReplayResult(plan.model.name, metric, start, end, by, results, comparisons, tuple(notes), _write_declarations(plan, policies))


def _write_declarations(plan: ReplayPlan, policies: Sequence[ReplayPolicy]) -> dict[str, str]:
    """Return policy → the source that declares it, for those that a project can declare."""
    by_time, tunes = isinstance(plan.model.training_set.split, TimeSplit), plan.model.function.takes_validation
    declared = {policy.name: declare_policy(policy, by_time=by_time, tunes=tunes) for policy in policies}
    return {name: write_declaration(retrain) for name, retrain in declared.items() if retrain is not None}


def to_json(result: ReplayResult) -> dict[str, Any]:
    """Return the result with its advice as JSON values: equal for equal data, code and policies."""
    advice = advise(result)
    line = result.declarations.get(advice.policy, "")
    return result.as_json() | {"advice": {"policy": advice.policy, "headline": advice.headline, "text": advice.text, "declaration": line}}


def write_result(result: ReplayResult, folder: Path) -> Path:
    """Write the result as JSON and as a page into a folder, each file whole, and return the path of the page."""
    write_atomically(folder / JSON_FILE, (json.dumps(to_json(result), indent=1) + "\n").encode(), mode=_PAGE_MODE)
    write_atomically(folder / PAGE_FILE, render_replay(result).encode(), mode=_PAGE_MODE)
    return folder / PAGE_FILE
