"""``mlops alerts``: list and close episodes, silence checks, send what is due, and test channels."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.cli.options import console, file_option, json_option, load, print_facts, write_json
from mlops_assets.errors import DefinitionError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.compiler.build import CompiledProject
    from mlops_assets.stores.registry.alerts import AlertStore
    from mlops_assets.values.alerts.alerts import Alerts
    from mlops_assets.values.alerts.episodes import Episode


@click.group()
def alerts() -> None:
    """List and close alerts, silence checks, and test channels."""


@alerts.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only alerts that are not resolved  [default: the newest 100]")
@file_option
@json_option
def list_alerts(file: str, json_file: str | None, *, only_open: bool) -> None:
    """List alerts, silences, and the channels that fail.

    Example: mlops alerts list --open
    """
    stores = load(file).stores.alerts
    now = datetime.now(UTC)
    timed = stores.silences(now)
    facts = {
        "alerts": [_describe_episode(episode) for episode in stores.episodes(only_open=only_open)],
        "silences": [
            {"check": s.pattern, "until": s.until.isoformat(timespec="minutes"), "reason": s.reason, "by": s.actor} for s in timed
        ],
        "failing channels": list(_describe_failures(stores)),
    }
    print_facts(facts, json_file)
    if not json_file and not any(facts.values()):
        click.echo("no alerts")


def _describe_episode(episode: Episode) -> dict[str, Any]:
    from mlops_assets.compute.monitoring.alert_messages import describe_windows, format_time

    return {
        "alert": episode.subject,
        "severity": episode.severity,
        "state": "open" if episode.resolved is None else f"resolved {format_time(episode.resolved)}",
        "partitions": describe_windows(episode),
        "since": format_time(episode.opened),
        "failures": episode.failures,
        "affected": ", ".join(episode.latest.affected),
        "next": episode.latest.command if episode.resolved is None else "",
    }


def _describe_failures(stores: AlertStore) -> Iterator[dict[str, Any]]:
    """Yield each channel with messages that could not be sent, or whose newest message was refused for a recipient."""
    from mlops_assets.stores.registry.alerts import FAILED, PENDING, SENT

    deliveries = stores.deliveries()
    newest = {delivery.channel: delivery for delivery in deliveries}
    failed = [d for d in deliveries if d.error and (d.state != SENT or d is newest[d.channel])]
    for channel in dict.fromkeys(delivery.channel for delivery in failed):
        mine = [delivery for delivery in failed if delivery.channel == channel]
        waiting = [delivery for delivery in mine if delivery.state == PENDING]
        yield {
            "channel": channel,
            "waiting messages": len(waiting),
            "dropped messages": sum(delivery.state == FAILED for delivery in mine),
            "attempts": max(delivery.attempts for delivery in mine),
            "error": mine[-1].error,
        }


@alerts.command("silence")
@click.argument("check")
@click.option("--until", required=True, metavar="TIME", help="End of the silence (ISO 8601); local time without an offset.")
@click.option("--reason", required=True, help="Why no message is to be sent.")
@file_option
def silence_check(check: str, until: str, reason: str, file: str) -> None:
    """Send nothing about CHECK until a time; alerts that are still open at that time are then sent.

    CHECK is '<asset>:<check>', 'run of <asset>' or 'job <name>', with * for any text.

    Example: mlops alerts silence 'dataset/flights:key' --until 2026-03-01T08:00 --reason 'the source is being moved'
    """
    from mlops_assets.values.alerts.silences import TimedSilence

    project, now = load(file), datetime.now(UTC)
    end = _read_time(until)
    if end <= now:
        raise DefinitionError(f"--until {until} has passed", hint="give a later time")
    subjects = _list_subjects(project)
    silent = [subject for subject in subjects if fnmatchcase(subject, check)]
    if not silent:
        raise DefinitionError(
            f"there is no check, asset or job '{check}'", hint=suggest_name(check, subjects) + "`mlops alerts list` names them"
        )
    project.stores.alerts.silence(TimedSilence(check, end, reason, getpass.getuser()))
    click.echo(f"{check} is silent until {end.isoformat(timespec='minutes')}: {len(silent)} checks and runs")


def _read_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise DefinitionError(f"--until '{text}' is not a time", hint="write e.g. 2026-03-01T08:00") from None


@alerts.command("unsilence")
@click.argument("check")
@file_option
def unsilence_check(check: str, file: str) -> None:
    """End the silences of CHECK, written as in `mlops alerts silence`.

    Example: mlops alerts unsilence 'dataset/flights:key'
    """
    stores, now = load(file).stores.alerts, datetime.now(UTC)
    known = [silence.pattern for silence in stores.silences(now)]
    if not stores.end_silences(check, now):
        raise DefinitionError(f"'{check}' is not silent", hint=suggest_name(check, known) + f"silent are {', '.join(known) or 'none'}")
    click.echo(f"{check} is not silent any more")


@alerts.command("close")
@click.argument("check")
@file_option
def close_alert(check: str, file: str) -> None:
    """Close the open alert of CHECK without a message, e.g. for a partition that is not going to be repaired; a later failure opens another alert.

    Example: mlops alerts close 'dataset/flights:key'
    """
    stores = load(file).stores.alerts
    if not stores.close(check, datetime.now(UTC).timestamp()):
        known = [episode.subject for episode in stores.episodes(only_open=True)]
        raise DefinitionError(
            f"there is no open alert of '{check}'", hint=suggest_name(check, known) + f"open are {', '.join(known) or 'none'}"
        )
    click.echo(f"the alert of {check} is closed")


@alerts.command("test")
@file_option
@json_option
def test_channels(file: str, json_file: str | None) -> None:
    """Send a test message to each channel; exit code 1 when one failed.

    Example: mlops alerts test
    """
    from mlops_assets.orchestrate.monitoring.alert_channels import send_test

    results = [
        {"channel": channel.name, "sent": not problem, "problem": problem}
        for part, declared in _find_alerting_parts(load(file))
        for channel in declared.channels
        for problem in [send_test(channel, part.platform.environment, datetime.now(UTC))]
    ]
    if json_file:
        write_json(results, json_file)
    else:
        for result in results:
            click.echo(f"{result['channel']}: " + (f"failed: {result['problem']}" if result["problem"] else "sent"))
    sys.exit(0 if all(result["sent"] for result in results) else 1)


@alerts.command("send")
@file_option
def send_due(file: str) -> None:
    """Run the sensor mlops_alerts once in this process: find failures, and send the messages that are due.

    Example: mlops alerts send
    """
    from mlops_assets.cli.project import open_clean_instance
    from mlops_assets.orchestrate.monitoring.alerts import find_sources, run_alerts
    from mlops_assets.stores.platform.stores import open_stores

    project = load(file)
    for part, declared in _find_alerting_parts(project):
        with open_clean_instance(part.platform) as instance:
            sources = find_sources(instance, project.definitions.get_repository_def(), part.project, declared)
            console().print(run_alerts(open_stores(part.platform), sources, datetime.now(UTC)), highlight=False, markup=False)


def _find_alerting_parts(project: LoadedProject) -> list[tuple[CompiledProject, Alerts]]:
    """Return the parts of a project with alerts; raise DefinitionError when there is none."""
    found = [(part, part.alerts) for part in project.parts if part.alerts is not None]
    if not found:
        raise DefinitionError(
            "the project declares no alerts",
            hint="pass alerts=ml.monitoring.Alerts([...]) to build_definitions, or set MLOPS_WEBHOOK to a URL",
        )
    return found


def _list_subjects(project: LoadedProject) -> list[str]:
    from mlops_assets.orchestrate.monitoring.alert_facts import name_subjects

    repository = project.definitions.get_repository_def()
    return sorted(name_subjects(repository.asset_graph, repository.job_names))
