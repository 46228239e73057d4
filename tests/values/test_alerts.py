"""Declared alerts refuse what cannot work, keep secrets out of their text, and know when they are silent."""

from datetime import UTC, datetime, timedelta

import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.values.alerts.silences import TimedSilence, is_silent

mon = ml.monitoring
HOOK = mon.Webhook("https://hooks.example.com/secret")
MAIL = {"to": "ml@example.com", "sender": "mlops@example.com"}


def test_a_channel_never_shows_its_url() -> None:
    for channel in (HOOK, mon.Slack("https://hooks.example.com/secret")):
        assert "secret" not in repr(channel) + channel.name
    assert HOOK.name != mon.Webhook("https://hooks.example.com/other").name


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        (lambda: mon.Webhook("ftp://example.com"), "does not begin with http"),
        (lambda: mon.Slack("https://example.com/…"), "not ASCII"),
        (lambda: mon.Webhook("https://example.com/a b"), "a space"),
        (lambda: mon.Webhook("https://example.com/a\nb"), "a control character"),
        (lambda: mon.Webhook("https://example.com:99999/"), "does not begin with http"),
        (lambda: mon.Webhook("https://[example.com/"), "does not begin with http"),
        (lambda: mon.Email("smtp.example.com", to="a,b@c.d", sender="a@b.c"), "'a,b@c.d' is not an e-mail address"),
        (lambda: mon.Slack("https://example.com", min_severity="FATAL"), "min_severity='FATAL'"),
        (lambda: mon.Email("smtp.example.com:0", **MAIL), "not host:port"),
        (lambda: mon.Email("smtp.example.com:x:1", **MAIL), "not host:port"),
        (lambda: mon.Email("smtp.example.com", to=[], sender="a@b.c"), "no recipient"),
        (lambda: mon.Email("smtp.example.com", to="ml", sender="a@b.c"), "'ml' is not an e-mail address"),
        (lambda: mon.Email("smtp.example.com", **MAIL, encryption="ssl"), "encryption='ssl'"),
        (lambda: mon.Silence("sat 00:00", "06:00"), "names a day in one time only"),
        (lambda: mon.Silence("samstag 00:00", "sun 00:00"), "cannot be read"),
        (lambda: mon.Silence("24:00", "06:00"), "cannot be read"),
        (lambda: mon.Silence("06:00", "06:00"), "has no length"),
        (lambda: mon.Silence("06:00", "07:00", timezone="Europe/Nowhere"), "unknown time zone"),
        (lambda: mon.Alerts([]), "no channel"),
        (lambda: mon.Alerts([HOOK, HOOK]), "twice"),
        (lambda: mon.Alerts(["https://example.com"]), "has the channel 'https://example.com'"),
        (lambda: mon.Alerts(HOOK, silence=["sat"]), "has the silence 'sat'"),
        (lambda: mon.Alerts(HOOK, severity={"dataset/*": "HIGH"}), "the severity 'HIGH' for 'dataset/\\*'"),
        (lambda: mon.Alerts(HOOK, remind_after=timedelta(seconds=1)), "shorter than a minute"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(declare, problem) -> None:
    with pytest.raises(DefinitionError, match=problem):
        declare()


@pytest.mark.parametrize(
    ("silence", "moment", "silent"),
    [
        (mon.Silence("sat 00:00", "mon 06:00"), datetime(2024, 1, 6, tzinfo=UTC), True),
        (mon.Silence("sat 00:00", "mon 06:00"), datetime(2024, 1, 8, 5, 59, tzinfo=UTC), True),
        (mon.Silence("sat 00:00", "mon 06:00"), datetime(2024, 1, 8, 6, tzinfo=UTC), False),
        (mon.Silence("sun 22:00", "mon 02:00"), datetime(2024, 1, 8, 1, tzinfo=UTC), True),
        (mon.Silence("22:00", "06:00"), datetime(2024, 1, 8, 23, tzinfo=UTC), True),
        (mon.Silence("22:00", "06:00"), datetime(2024, 1, 8, 12, tzinfo=UTC), False),
        # 22:30 in Berlin, in winter and in summer.
        (mon.Silence("22:00", "23:00", timezone="Europe/Berlin"), datetime(2024, 1, 8, 21, 30, tzinfo=UTC), True),
        (mon.Silence("22:00", "23:00", timezone="Europe/Berlin"), datetime(2024, 7, 8, 21, 30, tzinfo=UTC), False),
        (mon.Silence("22:00", "23:00", timezone="Europe/Berlin"), datetime(2024, 7, 8, 20, 30, tzinfo=UTC), True),
    ],
)
def test_a_silence_is_a_span_of_local_time(silence, moment, silent) -> None:
    assert silence.contains(moment) is silent


def test_a_subject_is_silent_by_its_pattern() -> None:
    now = datetime(2024, 1, 8, 12, tzinfo=UTC)
    weekly = [mon.Silence("mon 00:00", "tue 00:00", checks=["dataset/*", "job nightly"])]
    assert is_silent("dataset/flights:key", now, weekly, [])
    assert is_silent("job nightly", now, weekly, [])
    assert not is_silent("run of dataset/flights", now, weekly, [])
    timed = [TimedSilence("run of *", now + timedelta(seconds=1), "", "")]
    assert is_silent("run of dataset/flights", now, [], timed)
    assert not is_silent("run of dataset/flights", now + timedelta(seconds=1), [], timed)
