"""Make the processes that Dagster spawns fork from one that has imported everything: this folder goes on the PYTHONPATH of a test's command.

Dagster spawns a process for each run and for each step, and each imports for four seconds. Here each is still a process of its own, which can be killed.
"""

import multiprocessing.context
import runpy
from multiprocessing.context import BaseContext, DefaultContext
from pathlib import Path

_original = DefaultContext.get_context


def _get_context(self: DefaultContext, method: str | None = None) -> BaseContext:
    if method != "spawn":
        return _original(self, method)
    context = _original(self, "forkserver")
    modules = runpy.run_path(str(Path(__file__).with_name("warm_modules.py")))["MODULES"]
    context.set_forkserver_preload(["begin_imports", *modules, "end_imports"])
    return context


DefaultContext.get_context = _get_context
multiprocessing.get_context = multiprocessing.context._default_context.get_context
