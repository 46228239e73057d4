"""The doctor's look at the stores: database, artifacts, lake."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta

import dagster as dg

from mlops_assets.errors import ArtifactError, LakeError, RegistryError
from mlops_assets.orchestrate.core.partitions import list_partition_keys, sort_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.upkeep.findings import FAILURE, OK, WARNING, Finding
from mlops_assets.serving.formats.integrity import JUDGED, list_parts
from mlops_assets.serving.formats.judged_fit import parse_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.database import migrations, sql
from mlops_assets.stores.lake.protocol import Partition, PartitionRecord
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.garbage import collect_garbage, is_own, referenced_artifacts
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
    """Yield the revision of the database, and what is broken in it."""
    revision, broken = sql.inspect_database(platform.registry)
    if broken:
        yield Finding.failed("database", f"the registry's database is damaged: {broken}", "restore it from a backup")
    elif revision is None:
        yield Finding("database", OK, "there is none yet: the first run makes it")
    elif revision == migrations.HEAD:
        yield Finding("database", OK, f"revision {revision}")
    else:
        migrations.refuse_newer(revision)
        yield Finding(
            "database",
            WARNING,
            f"the database has revision {revision}, this program's is {migrations.HEAD}",
            "migrate it, all or nothing; the first command that writes does the same",
            lambda: _migrate(platform),
        )


def _migrate(platform: Platform) -> str:
    sql.open_database(platform.registry)
    return f"brought the database to revision {migrations.HEAD}"


def check_versions(stores: Stores) -> Iterator[Finding]:
    """Yield the artifacts of registered versions that are missing."""
    every, missing = stores.registry.versions(), False
    for version in every:
        name = f"{version.model}@{version.version}"
        for what, sha256 in _list_files(stores, version):
            if not stores.artifacts.exists(sha256):
                missing = True
                yield Finding.failed("versions", f"{name}: its {what} {sha256[:12]} is missing at {stores.artifacts.url(sha256)}", _RESTORE)
    if not missing:
        yield Finding("versions", OK, f"{len(every)} version(s), every artifact there")


def _list_files(stores: Stores, version: Version) -> Iterator[tuple[str, str]]:
    """Yield everything that is stored of a version: a name, and its sha256."""
    yield from _list_parts(stores, version.artifact)
    yield from open_version_files(stores.platform.registry).list_files(version.model, version.version).items()
    with suppress(RegistryError):  # there is no such run
        facts = stores.tracker.get(version.run_id).record.get("facts", {})
        yield from ((f"{what} of the training", facts[what]) for what in ("source", "environment") if facts.get(what))


def _list_parts(stores: Stores, artifact: str) -> Iterator[tuple[str, str]]:
    yield "manifest", artifact
    try:
        manifest = read_manifest(stores.artifacts, artifact)
    except (ArtifactError, ValueError):
        return  # missing, or damaged: the check of the hashes says so
    yield from ((what, sha256) for what, sha256 in list_parts(manifest) if what != JUDGED)
    if judged := parse_judged_fit(manifest):
        yield from ((f"judged fit's {what}", sha256) for what, sha256 in _list_parts(stores, judged.artifact))


def check_artifacts(stores: Stores) -> Iterator[Finding]:
    """Yield artifacts whose bytes are not those that were stored."""
    checked, bad = 0, False
    named = referenced_artifacts(stores)
    for file in stores.artifacts.files():
        if len(file.name) != 64:
            continue
        checked += 1
        try:
            stores.artifacts.get(file.name)
        except ArtifactError as error:
            bad = True
            who = f"; named by {', '.join(named[file.name])}" if file.name in named else ""
            yield Finding.failed("hashes", f"{error.message}{who}", error.hint)
    if not bad:
        yield Finding("hashes", OK, f"{checked} artifact(s) hold what was stored")


def check_lake(stores: Stores, projects: Sequence[Project]) -> Iterator[Finding]:
    """Yield files of the lake that are missing or damaged."""
    files, bad = stores.lake.data_files(), set()
    for file in files:
        if not file.path.exists() or file.path.stat().st_size != file.size:
            bad.add(file.table)
            what = f"has {file.path.stat().st_size} bytes instead of {file.size}" if file.path.exists() else "is missing"
            yield Finding.failed("lake", f"{file.table}: its file {file.path} {what}", _advise_rebuild(file.table))
    for project in projects:
        for key, ref in project.by_key.items():
            if key not in bad and ref.plain is None and (damage := _find_damage(stores, key, ref.partitions, ref.event_timestamp)):
                bad.add(key)
                yield Finding("lake", FAILURE, *damage)
    if not bad:
        yield Finding("lake", OK, f"readable; {len(files)} file(s), every partition holds what was recorded")


def _find_damage(stores: Stores, key: str, partitions: dg.PartitionsDefinition | None, time: str | None) -> tuple[str, str] | None:
    newest, recorded = stores.lake.snapshot(), stores.lake.records(key)
    damaged = sort_keys(partitions, (partition for partition, record in recorded.items() if record.damaged))
    if damaged:
        return f"'{key}' partition '{damaged[0]}' was found damaged and has not been made again", _advise_rebuild(key)
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
    return f"put the file back from a backup, or make it again: mlops run --select '{select_nodes(key)}'"


def check_records(stores: Stores, projects: Sequence[Project]) -> Iterator[Finding]:
    """Yield records of the lake that are not what was written; the partition of one that still counts can be made again."""
    report = stores.lake.examine_records()
    partitions = {key: set(list_partition_keys(ref.partitions)) for project in projects for key, ref in project.by_key.items()}
    for found in report.altered:
        record = found.record
        where = f"'{record.table}'" + (f" partition '{record.partition}'" if record.partition else "")
        text = f"the record of {where} of {record.recorded_at:%Y-%m-%d %H:%M:%S} is not what was written: '{found.file}'"
        if not found.is_latest:
            yield Finding("records", WARNING, f"{text}; a later record counts instead", "restore the file from a backup")
        elif record.partition in partitions.get(record.table, ()):
            advice = f"restore the file from a backup, or count the partition as not made, then: mlops run --select '{select_nodes(record.table)}'"
            yield Finding("records", FAILURE, text, advice, _mark_for_rebuild(stores, record))
        else:
            yield Finding.failed("records", text, "restore the file from a backup")
    if not report.altered:
        older = f"; {report.without_checksum} older one(s) have no checksum" if report.without_checksum else ""
        yield Finding("records", OK, f"{report.intact} record(s) are what was written{older}")


def _mark_for_rebuild(stores: Stores, record: PartitionRecord) -> Callable[[], str]:
    def fix() -> str:
        stores.lake.mark_damaged([record])
        return f"counted '{record.table}' as not made; the next run makes it again"

    return fix


def check_erasures(platform: Platform) -> Iterator[Finding]:
    """Yield erasures that were begun and killed."""
    log = open_erasure_log(platform.registry)
    open_ones = {record.entity for record in log.list() if record.state != DONE and log.find_unfinished(record.entity)}
    for entity in sorted(open_ones):
        yield Finding.failed("erasures", f"the erasure of {entity} was begun and has not ended", "ask for it again: mlops features erase")
    if not open_ones:
        yield Finding("erasures", OK, "every erasure that was begun has ended")


def check_orphans(stores: Stores) -> Iterator[Finding]:
    """Yield what nothing names: artifacts, and files of the lake."""
    found = collect_garbage(stores, older_than=_GRACE, dry=True)
    size = sum(file.size for file in found.removed)
    if found.removed:
        text = f"{len(found.removed)} artifact(s) that nothing names, {size:,} bytes, older than a day"
        fix = (lambda: _remove_orphans(stores)) if is_own(stores.platform) else None
        yield Finding(
            "orphans", WARNING, text, "remove them" if fix else "mlops gc --shared-artifacts, if no other platform keeps its own there", fix
        )
    stray = stores.lake.orphaned_files(older_than=_GRACE)
    if stray:
        text = (
            f"{len(stray)} file(s) of the lake that its catalog does not name, {sum(p.stat().st_size for p in stray):,} bytes: {stray[0]}"
        )
        yield Finding("orphans", WARNING, text, "`mlops gc` removes them")
    if not found.removed and not stray:
        yield Finding("orphans", OK, f"none older than a day; {found.left} artifact(s) in all")


def _remove_orphans(stores: Stores) -> str:
    return f"removed {len(collect_garbage(stores, older_than=_GRACE).removed)} artifact(s)"
