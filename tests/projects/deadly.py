"""Killing a process in the middle: KILL_AT names the call at which it dies."""

import importlib
import os
import signal
from functools import wraps


def kill_at(place: str) -> None:
    """Kill this process when ``module:Class.method`` is called for the n-th time; ``module:Class.method:2`` waits for the second."""
    module, path, *count = place.split(":")
    owner_name, name = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original, left = getattr(owner, name), [int(count[0]) if count else 1]

    @wraps(original)
    def deadly(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)


def obey() -> None:
    """Die where KILL_AT says, when it says so."""
    if "KILL_AT" in os.environ:
        kill_at(os.environ["KILL_AT"])
