"""Checks of the stores: database, artifacts and lake."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta

import dagster as dg

from mlops_assets.errors import ArtifactError, LakeError, RegistryError
from mlops_assets.orchestrate.core.partitions import list_partition_keys, sort_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.card_measurements import MEASURED
from mlops_assets.orchestrate.upkeep.findings import FAILURE, OK, WARNING, Finding
from mlops_assets.serving.formats.integrity import JUDGED, list_parts
from mlops_assets.serving.formats.judged_fit import parse_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.database import migrations, sql
from mlops_assets.stores.lake.protocol import Partition, PartitionRecord
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.garbage import collect_garbage, find_referring_tables, owns_artifacts
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.erasures import DONE, open_erasure_log
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.version_files import open_version_files
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import window_of

_GRACE = timedelta(days=1)
_RESTORE = "restore it from a backup, or train the version again"


def check_database(platform: Platform) -> Iterator[Finding]:
    """Yield the revision of the database, and damage in it."""
    revision, broken = sql.inspect_database(platform.registry)
    if broken:
        yield Finding.failure("database", f"the registry's database is damaged: {broken}", "restore it from a backup")
    elif revision is None:
        yield Finding("database", OK, "there is none yet: the first run creates it")
    elif revision == migrations.HEAD:
        yield Finding("database", OK, f"revision {revision}")
    else:
        migrations.refuse_newer(revision)
        yield Finding(
            "database",
            WARNING,
            f"the database has revision {revision}, this version of mlops_assets needs {migrations.HEAD}",
            "migrate it, all or nothing; the first command that writes does the same",
            lambda: _migrate(platform),
        )


def _migrate(platform: Platform) -> str:
    sql.open_database(platform.registry)
    return f"migrated the database to revision {migrations.HEAD}"


def check_versions(stores: Stores) -> Iterator[Finding]:
    """Yield the missing artifacts of registered versions."""
    versions, missing = stores.registry.versions(), False
    for version in versions:
        name = f"{version.model}@{version.version}"
        for what, sha256 in _list_files(stores, version):
            if not stores.artifacts.exists(sha256):
                missing = True
                yield Finding.failure(
                    "versions", f"{name}: its {what} {sha256[:12]} is missing at {stores.artifacts.url(sha256)}", _RESTORE
                )
    if not missing:
        yield Finding("versions", OK, f"{len(versions)} version(s), every artifact exists")


def _list_files(stores: Stores, version: Version) -> Iterator[tuple[str, str]]:
    """Yield the name and sha256 of every artifact of a version, those of its training run included."""
    yield from _list_parts(stores, version.artifact)
    yield from open_version_files(stores.platform.registry).list_files(version.model, version.version).items()
    with suppress(RegistryError):  # there is no such run
        record = stores.tracker.get(version.run_id).record
        facts = record.get("facts", {})
        yield from ((f"{what} of the training", facts[what]) for what in ("source", "environment") if facts.get(what))
        if measured := record.get(MEASURED):
            yield "measurements of the training for the card", measured


def _list_parts(stores: Stores, artifact: str) -> Iterator[tuple[str, str]]:
    yield "manifest", artifact
    try:
        manifest = read_manifest(stores.artifacts, artifact)
    except (ArtifactError, ValueError):
        return  # missing or damaged: the check of the hashes reports it
    yield from ((what, sha256) for what, sha256 in list_parts(manifest) if what != JUDGED)
    if judged := parse_judged_fit(manifest):
        yield from ((f"judged fit's {what}", sha256) for what, sha256 in _list_parts(stores, judged.artifact))


def check_artifacts(stores: Stores) -> Iterator[Finding]:
    """Yield artifacts whose bytes differ from what was stored."""
    checked, has_problem = 0, False
    owners = find_referring_tables(stores)
    for file in stores.artifacts.files():
        if len(file.name) != 64:
            continue
        checked += 1
        try:
            stores.artifacts.get(file.name)
        except ArtifactError as error:
            has_problem = True
            needed_by = f"; needed by {', '.join(owners[file.name])}" if file.name in owners else ""
            yield Finding.failure("hashes", f"{error.message}{needed_by}", error.hint)
    if not has_problem:
        yield Finding("hashes", OK, f"{checked} artifact(s) match their hashes")


def check_lake(stores: Stores, projects: Sequence[Project]) -> Iterator[Finding]:
    """Yield files of the lake that are missing or have another size, and tables whose rows differ from their records.

    Partitions that differ are recorded as damaged, so that the next run rebuilds them.
    """
    files, damaged_tables = stores.lake.data_files(), set()
    for file in files:
        if not file.path.exists() or file.path.stat().st_size != file.size:
            damaged_tables.add(file.table)
            what = f"has {file.path.stat().st_size} bytes instead of {file.size}" if file.path.exists() else "is missing"
            yield Finding.failure("lake", f"{file.table}: its file {file.path} {what}", _advise_rebuild(file.table))
    for project in projects:
        for key, ref in project.by_key.items():
            if (
                key not in damaged_tables
                and ref.plain is None
                and (damage := _find_damage(stores, key, ref.partitions, ref.event_timestamp))
            ):
                damaged_tables.add(key)
                yield Finding("lake", FAILURE, *damage)
    if not damaged_tables:
        yield Finding("lake", OK, f"readable; {len(files)} file(s), every partition matches its record")


def _find_damage(stores: Stores, key: str, partitions: dg.PartitionsDefinition | None, time: str | None) -> tuple[str, str] | None:
    """Return a table's first problem and its hint; None when every recorded partition matches its record."""
    newest, recorded = stores.lake.snapshot(), stores.lake.records(key)
    damaged = sort_keys(partitions, (partition for partition, record in recorded.items() if record.damaged))
    if damaged:
        return f"'{key}' partition '{damaged[0]}' was found damaged and has not been rebuilt", _advise_rebuild(key)
    known = sort_keys(partitions, recorded.keys() & set(list_partition_keys(partitions)))
    parts = [Partition(partition, window_of(partitions, partition)) for partition in known]
    if not parts:
        return None
    try:
        read_verified(stores.lake, key, parts, window=None, event_timestamp=time, snapshot=newest)
    except (ArtifactError, LakeError) as error:
        return error.message, error.hint
    return None


def _advise_rebuild(key: str) -> str:
    return f"restore the file from a backup, or rebuild it: mlops run --select '{select_nodes(key)}'"


def check_records(stores: Stores, projects: Sequence[Project]) -> Iterator[Finding]:
    """Yield changed records of the lake; a partition whose latest record is changed can be rebuilt."""
    report = stores.lake.examine_records()
    partitions = {key: set(list_partition_keys(ref.partitions)) for project in projects for key, ref in project.by_key.items()}
    for altered in report.altered:
        record = altered.record
        where = f"'{record.table}'" + (f" partition '{record.partition}'" if record.partition else "")
        text = f"the record of {where} of {record.recorded_at:%Y-%m-%d %H:%M:%S} is not what was written: '{altered.file}'"
        if not altered.is_latest:
            yield Finding("records", WARNING, f"{text}; a later record replaces it", "restore the file from a backup")
        elif record.partition in partitions.get(record.table, ()):
            advice = (
                f"restore the file from a backup, or mark the partition as damaged, then: mlops run --select '{select_nodes(record.table)}'"
            )
            yield Finding("records", FAILURE, text, advice, _build_record_fix(stores, record))
        else:
            yield Finding.failure("records", text, "restore the file from a backup")
    if not report.altered:
        older = f"; {report.without_checksum} older one(s) have no checksum" if report.without_checksum else ""
        yield Finding("records", OK, f"{report.intact} record(s) are what was written{older}")


def _build_record_fix(stores: Stores, record: PartitionRecord) -> Callable[[], str]:
    def fix() -> str:
        stores.lake.mark_damaged([record])
        return f"marked the partition of '{record.table}' as damaged; automation, or the next run of its table, rebuilds it"

    return fix


def check_erasures(platform: Platform) -> Iterator[Finding]:
    """Yield erasures that have not finished."""
    log = open_erasure_log(platform.registry)
    unfinished = {record.entity for record in log.list() if record.state != DONE and log.find_unfinished(record.entity)}
    for entity in sorted(unfinished):
        yield Finding.failure("erasures", f"the erasure of {entity} has not finished", "run it again: mlops features erase")
    if not unfinished:
        yield Finding("erasures", OK, "every erasure has finished")


def check_orphans(stores: Stores) -> Iterator[Finding]:
    """Yield unused artifacts, and files that the lake's catalog does not name."""
    garbage = collect_garbage(stores, older_than=_GRACE, dry_run=True)
    size = sum(file.size for file in garbage.removed)
    if garbage.removed:
        text = f"{len(garbage.removed)} unused artifact(s), {size:,} bytes, older than a day"
        fix = (lambda: _remove_orphans(stores)) if owns_artifacts(stores.platform) else None
        yield Finding(
            "orphans",
            WARNING,
            text,
            "remove them" if fix else "mlops gc --shared-artifacts, if no other platform stores artifacts there",
            fix,
        )
    stray = stores.lake.orphaned_files(older_than=_GRACE)
    if stray:
        text = (
            f"{len(stray)} file(s) of the lake that its catalog does not name, {sum(p.stat().st_size for p in stray):,} bytes: {stray[0]}"
        )
        yield Finding("orphans", WARNING, text, "`mlops gc` removes them")
    if not garbage.removed and not stray:
        yield Finding("orphans", OK, f"none older than a day; {garbage.remaining} artifact(s) in all")


def _remove_orphans(stores: Stores) -> str:
    return f"removed {len(collect_garbage(stores, older_than=_GRACE).removed)} artifact(s)"
