"""The lake's stress test: rounds of cold writers, dbt, upkeep, pinned readers and kill -9, each judged by an oracle.

    python -m tests.stress.lake_stress --rounds 30 [--seed N] [--fault unlocked|doubled|expire|lost]

Which process does what, and which is killed when, follows from the seed; how far a process has come by then does not.
The oracle is right for every timing. A planted fault must be caught.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil

from mlops_assets.stores.lake.ducklake import DuckLake
from tests.stress.lake_facts import facts
from tests.stress.lake_oracle import Oracle
from tests.stress.lake_processes import FAULTS, write_dbt_project

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0  # seconds after which a round counts as stuck
HELD, BROKEN, MISSED = 0, 1, 2  # exit codes


@dataclass
class Player:
    """One process of a round, which leads a group of its own: what it starts can be found when it is dead."""

    role: str
    name: str
    log: Path
    process: subprocess.Popen
    killed: bool = False

    @classmethod
    def start(cls, folder: Path, role: str, name: str, seed: int) -> "Player":
        log = folder / "logs" / name
        log.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.stress.lake_processes", str(folder), role, name, str(seed)]
        with log.open("wb") as output:
            return cls(role, name, log, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True))

    def kill(self, *, group: bool) -> None:
        """Kill the leader, or whatever lives in its group."""
        if self.process.poll() is None:
            self.killed = True
        for pid in self.alive() if group else [self.process.pid] if self.killed else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def alive(self) -> list[int]:
        """The processes of the group that still run; the leader is reaped first, or it would count."""
        self.process.poll()
        return [pid for pid in psutil.pids() if _runs(pid, self.process.pid)]

    def failure(self) -> str:
        """Why it ended otherwise than well or killed; empty when it did not."""
        if self.process.returncode in (0, -signal.SIGKILL):
            return ""
        lines = self.log.read_text(errors="replace").splitlines() or ["nothing was said"]
        return f"{self.name} failed: {lines[-1]}"


def _runs(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


@dataclass
class Stress:
    """Rounds on one lake.

    Parameters
    ----------
    folder
        The lake, the ledger and the logs.
    seed
        Of all that is drawn.
    writers, readers
        How many in each round.
    dbt
        In every how many rounds dbt builds; never when 0.
    fault
        What is planted in every round; nothing when empty.
    """

    folder: Path
    seed: int = 1
    writers: int = 8
    readers: int = 2
    dbt: int = 1
    fault: str = ""
    span: float = 4.0  # how long a round lasts: kills are spread over the last one's length
    count: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        write_dbt_project(self.folder)

    def round(self, number: int) -> list[str]:
        """Play one round, and return what the oracle says."""
        begun, rng = time.monotonic(), random.Random(f"{self.seed}/{number}")
        roles = ["write"] * self.writers + ["read"] * self.readers + ["upkeep"]
        roles += ["dbt"] if self.dbt and number % self.dbt == 0 else []
        rng.shuffle(roles)
        roles += [self.fault] if self.fault else []
        players = []
        try:
            for i, role in enumerate(roles):
                players.append(Player.start(self.folder, role, f"{number:04d}-{i:02d}-{role}", rng.randrange(1 << 30)))
            stuck = self._play(players, rng)
        finally:
            for player in players:
                player.kill(group=True)
                player.process.wait()
        self.span = time.monotonic() - begun
        self.count["killed"] += sum(p.process.returncode == -signal.SIGKILL for p in players)
        return [*stuck, *filter(None, (player.failure() for player in players)), *Oracle(self.folder).violations()]

    def _play(self, players: list[Player], rng: random.Random) -> list[str]:
        """Kill some of the players at random times, and wait until nothing runs."""
        mortal = [player for player in players if player.role not in FAULTS]
        victims = rng.sample(mortal, rng.randint(1, max(1, len(mortal) // 2)))
        deaths = sorted(((rng.uniform(0.1, 0.8) * self.span, i, rng.random() < 0.5) for i in range(len(victims))), reverse=True)
        begun = time.monotonic()
        while time.monotonic() - begun < DEADLINE:
            while deaths and time.monotonic() - begun > deaths[-1][0]:
                _, i, group = deaths.pop()
                victims[i].kill(group=group)
            if all(player.process.poll() is not None for player in players) and not any(player.alive() for player in players):
                return []
            time.sleep(0.05)
        return [f"{player.name} is stuck" for player in players if player.alive()]

    def settle(self) -> list[str]:
        """Upkeep at rest, which may take every file that no snapshot needs; then all must still hold."""
        lake = DuckLake.open(self.folder / "lake")
        lake.maintain({pin["snapshot"] for pin in facts(self.folder, "pin")}, older_than=timedelta(0))
        return Oracle(self.folder).violations()

    def summary(self) -> str:
        reports = facts(self.folder, "upkeep")
        parts = {
            "writes acknowledged": len(facts(self.folder, "acknowledged")),
            "processes killed": self.count["killed"],
            "dbt builds": len(facts(self.folder, "recorded")),
            "pinned snapshots": len(facts(self.folder, "pin")),
            "pinned reads": len(facts(self.folder, "read")),
            "snapshots expired": sum(report["expired_snapshots"] for report in reports),
            "files deleted": sum(report["deleted_files"] for report in reports),
        }
        return ", ".join(f"{number} {name}" for name, number in parts.items())


def stress(test: Stress, rounds: int) -> list[str]:
    """Play until something does not hold, and return it."""
    for number in range(1, rounds + 1):
        found = test.round(number)
        print(f"round {number}: {test.span:.1f} s; {test.summary()}", flush=True)
        if found:
            return found
    return test.settle()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--dbt", type=int, default=1, metavar="N", help="dbt builds in every Nth round; 0: never")
    parser.add_argument("--fault", choices=sorted(FAULTS), default="", help="plant a fault, which the oracle must catch")
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="lake-stress-"))
    found = stress(Stress(folder, given.seed, given.writers, given.readers, given.dbt, given.fault), given.rounds)
    for sentence in found:
        print(f"{'caught' if given.fault else 'VIOLATED'}: {sentence}")
    if given.fault and not found:
        print(f"MISSED: the planted fault '{given.fault}'")
    elif not found:
        print(f"held: {given.rounds} rounds of seed {given.seed}")
    if found and not given.fault:
        print(f"kept for a look: {folder}")
    else:
        shutil.rmtree(folder)
    return BROKEN if found else MISSED if given.fault else HELD


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends it ends what it has started
    sys.exit(main())
