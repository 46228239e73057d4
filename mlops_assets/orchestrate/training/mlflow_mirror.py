"""Mirror new runs and versions to MLflow after a training, in a process with a time limit; a training never fails because of it."""

import os
import subprocess
import sys
from dataclasses import asdict

from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.serving.bridges.mlflow_mirror import mirror
from mlops_assets.stores.mlflow.client import hide_password
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

DEFAULT_SECONDS = 30.0  # MLOPS_MLFLOW_SECONDS sets another


def mirror_to_mlflow(step: StepContext) -> None:
    """Mirror new runs and versions if ``MLOPS_MLFLOW`` is set; a failure is logged as a warning, and the next mirror catches up."""
    platform = step.stores.platform
    if not platform.mlflow:
        return
    problem = _run_mirror(platform, _timeout_seconds())
    if problem:
        step.context.log.warning(f"not mirrored to MLflow at {hide_password(platform.mlflow)}: {problem}; the next mirror catches up")


def _run_mirror(platform: Platform, seconds: float) -> str:
    """Run the mirror in a child process; return why it failed or timed out, or an empty string."""
    environment = {**os.environ, **{f"_MLOPS_MIRROR_{name}": value for name, value in asdict(platform).items()}}
    command = [sys.executable, "-m", "mlops_assets.orchestrate.training.mlflow_mirror"]
    try:
        process = subprocess.run(  # noqa: S603  (our own module)
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds:g} s"
    except OSError as error:
        return str(error)
    return "" if process.returncode == 0 else (process.stderr.strip().splitlines() or ["it failed"])[-1]


def _timeout_seconds() -> float:
    """Return ``MLOPS_MLFLOW_SECONDS``, or the default if it is unset or no number."""
    try:
        return float(os.environ.get("MLOPS_MLFLOW_SECONDS") or DEFAULT_SECONDS)
    except ValueError:
        return DEFAULT_SECONDS


def _main() -> None:
    """Mirror the platform that the parent process describes in environment variables."""
    settings = {name.removeprefix("_MLOPS_MIRROR_"): value for name, value in os.environ.items() if name.startswith("_MLOPS_MIRROR_")}
    platform = Platform(**settings)
    mirror(open_stores(platform), platform.mlflow)


if __name__ == "__main__":
    _main()
