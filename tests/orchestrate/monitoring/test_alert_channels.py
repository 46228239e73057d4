"""A channel that fails in any way stops no other, sends nothing twice, and keeps its secrets."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.monitoring import alert_channels
from mlops_assets.orchestrate.monitoring.alert_channels import SendResult, send_alerts, send_test
from mlops_assets.orchestrate.monitoring.alerts import deliver
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.registry.alerts import CLAIM_TIME, SourcePosition, SourceReading
from mlops_assets.values.alerts.episodes import ERROR, OPENED, AlertEvent, AlertFact, Episode
from tests.orchestrate.monitoring.channel_servers import HookServer, MailServer, serve

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
FAILURE = AlertFact("a:key", passed=False, at=NOW.timestamp(), text="it is bad")
EVENT = AlertEvent(Episode("a:key", ERROR, NOW.timestamp(), (), 1, FAILURE, number=1), OPENED)


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve(HookServer()) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with serve(MailServer()) as server:
        yield server


@pytest.fixture
def stores(tmp_path) -> Stores:
    return open_stores(ml.Platform.at(tmp_path / "home"))


def open_episode(stores: Stores, *channels: object) -> None:
    reading = SourceReading("a:key", None, SourcePosition(1), (FAILURE,))
    stores.alerts.advance("instance", [reading], ml.monitoring.Alerts(channels), frozenset(["a:key"]), NOW)


def mailbox(mail: MailServer, to: list[str], **more) -> ml.monitoring.Email:
    return ml.monitoring.Email(mail.address, to=to, sender="mlops@example.com", encryption="none", **more)


def test_an_error_of_an_unforeseen_type_is_recorded_and_the_next_channel_receives_its_message(hook, mail, stores, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_SMTP_PASSWORD", "pässwörd")
    channels = (mailbox(mail, ["a@example.com"], user="mlops"), ml.monitoring.Webhook(hook.url))
    open_episode(stores, *channels)
    first, second = deliver(stores, channels, NOW)
    assert "failed: UnicodeEncodeError; it is tried again" in first
    assert second.startswith("sent to webhook")
    assert [(d.state, d.attempts, d.error) for d in stores.alerts.deliveries()] == [("pending", 1, "UnicodeEncodeError"), ("sent", 0, "")]


def test_messages_of_a_corrected_url_are_sent_to_the_new_one_and_those_of_a_removed_channel_fail(hook, mail, stores) -> None:
    subjects, clock = frozenset(["a:key"]), NOW.timestamp()
    wrong, removed = ml.monitoring.Webhook("http://127.0.0.1:9/old"), mailbox(mail, ["a@example.com"])
    open_episode(stores, wrong, removed)
    corrected = ml.monitoring.Webhook(hook.url)
    stores.alerts.move_deliveries([corrected], frozenset(["b:key"]), clock)
    assert deliver(stores, [corrected], NOW) == [], "messages of another project stay"
    assert stores.alerts.claim(wrong.name, clock)
    stores.alerts.move_deliveries([corrected], subjects, clock + 1)
    assert {d.channel for d in stores.alerts.deliveries(states=["pending"])} == {wrong.name}, "another process is sending it"
    stores.alerts.move_deliveries([corrected], subjects, clock + CLAIM_TIME)
    assert deliver(stores, [corrected], NOW + timedelta(minutes=5)) == [f"sent to {corrected.name}"]
    assert hook.kinds == [[("opened", "a:key")]]
    found = {d.channel: (d.state, d.error) for d in stores.alerts.deliveries()}
    assert found == {corrected.name: ("sent", ""), removed.name: ("failed", "the channel is not declared any more")}


def test_an_episode_of_a_removed_check_is_closed_after_two_weeks(hook, stores) -> None:
    alerts = ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url))
    open_episode(stores, *alerts.channels)
    for days, still_open in ((13, 1), (15, 0)):
        stores.alerts.advance("instance", [], alerts, frozenset(["b:key"]), NOW + timedelta(days=days))
        assert len(stores.alerts.episodes(only_open=True)) == still_open


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failure(hook, status) -> None:
    hook.status = status
    assert send_alerts(ml.monitoring.Webhook(hook.url), [EVENT], "dev").problem.startswith(f"HTTP {status}")


def test_a_refused_recipient_is_noted_and_the_others_receive_the_message_once(mail, stores) -> None:
    channel = mailbox(mail, ["good@example.com", "gone@example.com"])
    open_episode(stores, channel)
    (said,) = deliver(stores, [channel], NOW)
    assert said.endswith("refused recipients: gone@example.com (code 550)")
    assert deliver(stores, [channel], NOW + timedelta(hours=1)) == []
    assert [recipients for recipients, _ in mail.received] == [["good@example.com"]]
    assert [(d.state, d.error) for d in stores.alerts.deliveries()] == [("sent", "refused recipients: gone@example.com (code 550)")]
    assert "gone@example.com" in send_test(channel, "dev", NOW)


def test_a_message_has_a_deadline_within_its_claim(hook, monkeypatch) -> None:
    assert alert_channels.MAX_SECONDS + alert_channels.TIMEOUT < CLAIM_TIME
    monkeypatch.setattr(alert_channels, "MAX_SECONDS", 1.0)
    hook.drips = True
    end = threading.Timer(60, setattr, (hook, "drips", False))
    end.start()
    result = send_alerts(ml.monitoring.Webhook(hook.url), [EVENT], "dev")
    assert hook.drips, "it has not waited for the end of the reply"
    assert result == SendResult(sent=False, problem="TimeoutError: no confirmation within 1 seconds")
    end.cancel()
    hook.drips = False


def test_an_error_names_neither_the_url_nor_the_words_of_the_server() -> None:
    channel = ml.monitoring.Webhook("http://127.0.0.1:9/SECRET")
    object.__setattr__(channel, "url", "http://127.0.0.1:9/SECRET with a space")
    result = send_alerts(channel, [EVENT], "dev")
    assert result == SendResult(sent=False, problem="InvalidURL")


def test_headers_of_a_mail_have_no_newlines_and_no_lone_surrogates(mail) -> None:
    bad = replace(FAILURE, text="half \ud83d a character")
    event = replace(EVENT, episode=replace(EVENT.episode, subject="a:\ud83dkey", latest=bad))
    assert send_alerts(mailbox(mail, ["a@example.com"]), [event], "de\nv") == SendResult(sent=True)
    assert "Subject: [de v] ERROR: a:?key failed" in mail.received[0][1]
