"""The visits project as a file for commands; KILL_AT names the call at which the process is killed."""

import mlops_assets as ml
from tests.projects import deadly, visits

deadly.obey()
world = visits.World()
defs = visits.build(ml.Platform.from_env(), world)
