"""Rows that are pushed: :class:`PushSource`, :func:`push` and what it returns.

The first two are also ``mlops_assets.PushSource`` and ``mlops_assets.push``.
"""

from mlops_assets.serving.push import Pushed, push
from mlops_assets.values.push import PushSource

__all__ = ["PushSource", "Pushed", "push"]
