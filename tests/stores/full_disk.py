"""Fill a small disk while runs and versions are recorded: ``python -m tests.stores.full_disk FOLDER``, in a mount namespace of its own."""

import subprocess
import sys
from pathlib import Path

import mlops_assets as ml
from mlops_assets.errors import InstallationError
from mlops_assets.stores.database.sql import inspect_database
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.registry import open_registry
from tests.stores.registry.test_registry import GATES, candidate, evidence

MIB = 2**20


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk, but for some bytes."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - leave)
    return filler


def kept(home: Path) -> list[int]:
    """Return the sizes of everything below the artifacts."""
    return sorted(p.stat().st_size for p in (home / "artifacts").rglob("*") if p.is_file() and p.name != "lock")


def refused(do) -> str:
    """Return what it was refused with."""
    try:
        do()
    except InstallationError as error:
        return str(error)
    raise AssertionError("it was not refused")


def a_run(disk: Path, there: ml.Platform) -> None:
    with ml.start_run("e", platform=there) as run:
        ml.runs.log_artifact("small", b"small")
        run.flush()
        filler = fill(disk, leave=MIB)
        told = refused(lambda: ml.runs.log_artifact("large", b"x" * 3 * MIB))
        assert "artifacts cannot be written" in told, told
        assert "No space left on device" in told, told
        assert kept(Path(there.home)) == [5]
        ml.runs.log_metric("a", 1)
    filler.unlink()
    tracker = open_stores(there).tracker
    assert [one.name for one in tracker.artifacts(run.id)] == ["small"]
    assert (tracker.get(run.id).status, tracker.get(run.id).metrics) == ("finished", {"a": 1.0})


def versions(disk: Path, there: ml.Platform) -> tuple[int, str]:
    """Register until the disk is full; return how many were, and why the next was not."""
    registry, artifacts, registered, told = open_registry(there.registry), open_stores(there).artifacts, 0, ""
    filler = fill(disk, leave=256 * 1024)
    while not told:
        assert registered < 2000, "the disk never was full"
        try:
            stored = artifacts.put(b"manifest %d" % registered + b"." * 3000)
            made = candidate(f"d{registered}")
            registry.submit(type(made)(**{**vars(made), "artifact": stored}), [evidence(made.digest)])
            registry.register("m", GATES)
            registered += 1
        except InstallationError as error:
            told = str(error)
    filler.unlink()
    assert inspect_database(there.registry)[1] == ""
    found = registry.versions("m")
    assert [v.version for v in found] == list(range(1, registered + 1))
    assert all(len(artifacts.get(v.artifact)) > 3000 for v in found)
    made = candidate("after")
    registry.submit(made, [evidence("after")])
    assert registry.register("m", GATES).version == registered + 1  # and it goes on where it was
    return registered, told


def database_only(disk: Path, there: ml.Platform) -> str:
    """Register on a disk that only the database fills; return why it was refused."""
    registry = open_registry(there.registry)
    before, number, filler = len(registry.versions("m")), 0, fill(disk, leave=0)
    told = ""
    while not told:
        assert number < 5000, "the database never was full"
        number += 1
        try:
            registry.submit(candidate(f"x{number}"), [evidence(f"x{number}")])
            registry.register("m", GATES)
            before += 1
        except InstallationError as error:
            told = str(error)
    filler.unlink()
    assert inspect_database(there.registry)[1] == ""
    assert len(registry.versions("m")) == before
    return told


def main(folder: str) -> None:
    """Mount, fill, look."""
    disk = Path(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    there = ml.Platform.at(disk / "home")
    a_run(disk, there)
    registered, told = versions(disk, there)
    print(registered, told, database_only(disk, there), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
