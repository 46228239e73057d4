"""The daemon on a project with a service, and waiting for what it does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import dagster as dg

import mlops_assets as ml
from mlops_assets.serving.http import control
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import WARM_START
from tests.conftest import ROOT, Runner, clean_environment
from tests.orchestrate.compiler.test_daemon import DAGSTER_DAEMON, Daemon

DEADLINE = 600.0  # seconds
# The code does not change, and a new code server each minute costs more than all that a test has it do; test_daemon lets it change servers.
KEEP_CODE_SERVER = "\nfrom dagster._daemon import controller\ncontroller.RELOAD_WORKSPACE_INTERVAL = 3600\n"


class ProjectDaemon(Daemon):
    """The daemon on the project of a file, whose processes see more variables of the environment."""

    def __init__(self, home: Path, file: str, **variables: str) -> None:
        super().__init__(home)
        self.file, self.variables = file, variables

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(self.home, DAGSTER_HOME=str(self.dagster_home), PYTHONPATH=f"{ROOT}:{WARM_START}", **self.variables)

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-c", KEEP_CODE_SERVER + DAGSTER_DAEMON, "run", "-f", self.file]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def kill(self, spare: Collection[int] = ()) -> None:
        """Kill the daemon and everything that it has started, but for the service."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        while found := [pid for pid in self.family() if pid not in spare]:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


class ServedWorld:
    """A platform with a service, whose new partitions a test writes and whose daemon does the rest."""

    def __init__(self, daemon: ProjectDaemon, instance: dg.DagsterInstance, items: list[object], monitor: ml.Monitor) -> None:
        self.daemon, self.instance, self.platform = daemon, instance, ml.Platform.at(daemon.home)
        self.run = Runner(ml.build_definitions(items, platform=self.platform), instance)
        self.at, self.monitor, self.model = open_stores(self.platform), monitor, monitor.model.name

    @property
    def url(self) -> str:
        found = control.status(self.platform.home, self.monitor.of.name).url
        assert found is not None
        return found

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not holds():
            assert self.daemon.process.poll() is None, f"the daemon ended: {self.daemon.log.read_text()[-3000:]}"
            assert time.monotonic() - begun < DEADLINE, (
                f"{what}: not within {DEADLINE} s; {self.state()}; {self.daemon.log.read_text()[-3000:]}"
            )
            time.sleep(0.5)
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    def state(self) -> str:
        runs = [(r.run_id[:6], r.job_name, r.status.value) for r in self.instance.get_runs(limit=8)]
        found = self.at.decisions
        return f"{runs} {found.reports(self.monitor.name)} {found.decisions(self.model)} {found.trainings(self.model)}"

    def champion(self) -> int:
        return self.at.registry.champion(self.model).version

    def reported(self, partition: str, kind: str) -> str | None:
        """Return the state of a window's newest report of a kind."""
        found = [r for r in self.at.decisions.reports(self.monitor.name) if (r.partition, r.kind) == (partition, kind)]
        return found[-1].state if found else None

    def service(self) -> set[int]:
        """Processes of the service: detached, they are not the daemon's."""
        found = control.status(self.platform.home, self.monitor.of.name)
        supervisor = json.loads((Path(self.platform.home) / "services" / self.monitor.of.name / "supervisor.json").read_text())["pid"]
        return {supervisor, *(worker.pid for worker in found.workers)}
