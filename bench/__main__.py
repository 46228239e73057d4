"""``python -m bench [--full] [name ...]``: run all benchmarks, or those named; the exit code is 1 when anything failed.

``--full`` lifts the time limits that keep the whole of it near ten minutes.
"""

from __future__ import annotations

import importlib
import sys
import time

from bench.harness import ContenderError, compile_ours

NAMES = (
    "overhead",
    "project",
    "lake",
    "serving",
    "online",
    "point_in_time",
    "skew",
    "registry",
    "tracking",
    "console",
    "replay",
    "llm_service",
    "llm_calls",
    "llm_quality",
    "llm_evaluation",
    "detection",
    "drift",
)


def main(arguments: list[str]) -> int:
    """Run benchmarks one after the other and return the exit code."""
    names, full = [argument for argument in arguments if argument != "--full"], "--full" in arguments
    if unknown := [name for name in names if name not in NAMES]:
        print(f"there is no benchmark '{unknown[0]}'; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    compile_ours()
    return max([_run(name, full=full) for name in names or NAMES])


def _run(name: str, *, full: bool) -> int:
    begun = time.monotonic()
    try:
        report = importlib.import_module(f"bench.{name}").run(full=full)
    except ContenderError as error:
        print(f"{name} failed, its results stay as they were: {error}", file=sys.stderr)
        return 1
    report.write()
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if report.failures() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
