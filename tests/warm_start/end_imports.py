"""Imported after everything else: what has been imported is not garbage, so forks neither search nor copy it."""

import gc

gc.freeze()
gc.enable()
