"""The files of the Dagster instance: prepare its folder, find damage, and open it with errors that name a file."""

import os
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from mlops_assets.errors import InstallationError
from mlops_assets.stores.database.sqlite_check import find_sqlite_damage
from mlops_assets.values.platform import Platform

DAGSTER_YAML = "# Written by mlops_assets; yours to change.\ntelemetry:\n  enabled: false\nnux:\n  enabled: false\n"
_RESTORE = "restore it from a backup; to begin again without {}, move '{}' away first"
_DEFAULT_STATES = "the default states of sensors and schedules"
_POOLED_DAGSTER = "1.13."  # the versions that the storage of `event_storage` supports; others use Dagster's own, which is slower
_SCHEDULES = "SqliteScheduleStorage"  # the class in Dagster, which is slow to import
_NOT_RUNS = ("index", "mlops")  # files alongside the event logs of the runs


def prepare_dagster_home(platform: Platform) -> Path:
    """Return the folder of the Dagster instance: ``DAGSTER_HOME``, or ``dagster`` below the platform's home.

    A missing folder and a missing ``dagster.yaml`` are created, and ``DAGSTER_HOME`` is set for this process.

    Raises
    ------
    InstallationError
        The folder cannot be written.
    """
    configured = os.environ.get("DAGSTER_HOME")
    try:
        home = Path(configured or Path(platform.home) / "dagster").expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            (home / "dagster.yaml").write_text(DAGSTER_YAML, encoding="utf-8")
    except (OSError, RuntimeError) as error:  # a RuntimeError for the home folder of an unknown user
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InstallationError(
            f"'{configured or platform.home}' cannot be the folder of the Dagster instance: {reason}",
            hint=f"make it writable, or set {'DAGSTER_HOME' if configured else 'MLOPS_HOME'} to another folder",
        ) from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def open_instance(platform: Platform) -> dg.DagsterInstance:
    """Open the persistent Dagster instance; its folder is prepared by :func:`prepare_dagster_home`.

    Raises
    ------
    InstallationError
        The folder cannot be written, the configuration or a database of the instance is damaged or lost, or the configuration names a
        storage that is not installed.
    """
    home = prepare_dagster_home(platform)
    if problem := find_lost_history(home):
        raise InstallationError(problem, hint=advise_restore(home, home / "history" / "runs.db"))
    if problem := find_lost_schedules(home):
        raise InstallationError(problem, hint=f"restore it from a backup; `mlops doctor --fix` begins again with {_DEFAULT_STATES}")
    try:
        instance = _open_at(home)
        instance.get_runs(limit=1)
    except Exception as error:
        raise explain_instance_error(home, error) from error
    return instance


def _open_at(home: Path) -> dg.DagsterInstance:
    if not dg.__version__.startswith(_POOLED_DAGSTER):
        return dg.DagsterInstance.from_config(str(home))
    from mlops_assets.orchestrate.core.event_storage import open_pooled_instance

    return open_pooled_instance(str(home))


def explain_instance_error(home: Path, error: Exception) -> InstallationError:
    """Return the error to raise for a failure of the Dagster instance; it names the damaged database, else ``dagster.yaml``."""
    damaged = find_damaged_databases(home)
    reason = " ".join(str(error).split())[:300]
    if damaged:
        path, problem = damaged[0]
        return InstallationError(f"the Dagster database '{path}' is damaged: {problem}", hint=advise_restore(home, path))
    return InstallationError(
        f"the Dagster instance of '{home / 'dagster.yaml'}' cannot be opened: {type(error).__name__}: {reason}",
        hint="correct the file and install the packages that it names; without the file, the defaults are written again",
    )


def advise_restore(home: Path, path: Path) -> str:
    """Return a hint for a damaged database of the instance: how to restore it, and how to start with an empty one."""
    if path.parent.name == "schedules":
        return f"restore it from a backup; to begin again with {_DEFAULT_STATES}, move '{path}' away and run `mlops doctor --fix`"
    if path.stem in ("runs", *_NOT_RUNS):  # without it, the event logs of the runs cannot be used
        return _RESTORE.format("the history of runs", home / "history")
    return _RESTORE.format("the events of this run", path)


def find_damaged_databases(home: Path) -> list[tuple[Path, str]]:
    """Return the instance's SQLite files that are damaged, each with the reason."""
    files = [
        *sorted((home / "history").glob("*.db")),
        *sorted((home / "history" / "runs").glob("*.db")),
        *sorted((home / "schedules").glob("*.db")),
    ]
    return [(path, problem) for path in files if (problem := find_sqlite_damage(path))]


def find_lost_history(home: Path) -> str:
    """Return a warning if a database of runs is missing or empty although event logs of runs remain; else an empty text."""
    return _describe_lost_database(home, home / "history" / "runs.db", home / "history" / "runs" / "index.db")


def find_lost_schedules(home: Path) -> str:
    """Return a warning if the database of sensors and schedules is missing or empty although event logs of runs remain; else an empty text.

    A new home has no event log of a run: Dagster creates this database when it opens the instance, before the first run. There is no warning
    if ``dagster.yaml`` names another storage.
    """
    lost = _describe_lost_database(home, home / "schedules" / "schedules.db")
    return lost if lost and _stores_schedules_here(home) else ""


def _stores_schedules_here(home: Path) -> bool:
    """Return True if ``dagster.yaml`` stores sensors and schedules in the SQLite database below the home; False if it cannot be read."""
    try:
        storage = InstanceRef.from_dir(str(home)).schedule_storage_data
    except Exception:  # noqa: BLE001  (a damaged file may raise anything; the instance reports it when it opens)
        return False
    if storage is None or storage.class_name != _SCHEDULES:
        return False
    return Path(str(storage.config_dict["base_dir"])) == home / "schedules"


def recreate_schedules(home: Path) -> str:
    """Create the database of sensors and schedules again, and return a clause that describes the repair."""
    os.environ["DAGSTER_HOME"] = str(home)
    dg.DagsterInstance.get().all_instigator_state()
    return f"began again with {_DEFAULT_STATES}"


def _describe_lost_database(home: Path, *databases: Path) -> str:
    """Return a warning about the first of these databases that is missing or empty, if event logs of runs remain; else an empty text."""
    logs = [path for path in (home / "history" / "runs").glob("*.db") if path.stem not in _NOT_RUNS]
    missing = [path for path in databases if not path.exists() or not path.stat().st_size]
    if not logs or not missing:
        return ""
    return f"the Dagster database '{missing[0]}' is missing or empty, but the event logs of {len(logs)} run(s) remain, such as '{logs[0]}'"
