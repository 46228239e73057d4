"""The default executor: all steps of a run share one process, because five empty steps in five processes import for half a minute."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.liveness import tag_run


class TaggingExecutor(dg.Executor):
    """An executor that records the run's process in the tags of the run, before it executes the steps."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401  (dg.Executor, whose methods are untyped)
        self._inner = inner

    @property
    def retries(self) -> Any:  # noqa: ANN401
        """The retry mode of the inner executor."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:  # noqa: ANN401
        """The step dependencies of the inner executor."""
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:  # noqa: ANN401
        """Tag the run with its process, then execute the steps."""
        tag_run(plan_context.instance, plan_context.run_id)
        yield from self._inner.execute(plan_context, execution_plan)


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema)  # type: ignore[call-overload, untyped-decorator]  # it takes them all
def tagging_in_process_executor(init_context: dg.InitExecutorContext) -> TaggingExecutor:
    """Run all steps in one process, and record that process in the tags of the run."""
    return TaggingExecutor(dg.in_process_executor.executor_creation_fn(init_context))  # type: ignore[misc]
