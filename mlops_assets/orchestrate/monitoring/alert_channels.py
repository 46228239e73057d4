"""Send messages about alerts to webhooks, chats and mailboxes."""

import hashlib
import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate
from http.client import HTTPException
from typing import Any

from mlops_assets.compute.monitoring.alert_messages import build_blocks, build_payload, title_alerts, write_text
from mlops_assets.errors import PlatformError
from mlops_assets.values.alerts.channels import PLAIN, STARTTLS, TLS, Channel, Email, Slack
from mlops_assets.values.alerts.episodes import TEST, WARN, AlertEvent, AlertFact, Episode

TIMEOUT = 10.0  # seconds


def send_alerts(channel: Channel, events: Sequence[AlertEvent], environment: str) -> str:
    """Send one message with all alerts; return why it could not be sent, or ``""`` when the channel has confirmed it.

    Parameters
    ----------
    channel
        Where to send it.
    events
        The alerts, at least one.
    environment
        The environment of the platform.
    """
    ids = " ".join(f"{event.episode.number}-{event.episode.events}" for event in events)
    delivery = hashlib.sha256(f"{environment} {channel.name} {ids}".encode()).hexdigest()[:32]
    try:
        if isinstance(channel, Email):
            _send_mail(channel, title_alerts(events, environment), write_text(events, environment), delivery)
        elif isinstance(channel, Slack):
            _post(channel.url, build_blocks(events, environment))
        else:
            _post(channel.url, build_payload(events, environment, delivery))
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {error.reason}"
    except (OSError, HTTPException, smtplib.SMTPException, PlatformError) as error:
        return f"{type(error).__name__}: {getattr(error, 'reason', None) or error}"
    return ""


def send_test(channel: Channel, environment: str, now: datetime) -> str:
    """Send a test message; return why it could not be sent, or ``""``."""
    fact = AlertFact(
        "this message", passed=False, at=now.timestamp(), severity=WARN, text="Nothing has failed: `mlops alerts test` sent it."
    )
    episode = Episode(fact.subject, WARN, fact.at, (), 1, fact)
    return send_alerts(channel, [AlertEvent(episode, TEST)], environment)


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310  (the operator's URL)
    urllib.request.urlopen(request, timeout=TIMEOUT).close()  # noqa: S310


def _send_mail(channel: Email, subject: str, text: str, delivery: str) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject[:200], channel.sender, ", ".join(channel.to)
    message["Date"], message["Message-ID"] = formatdate(), f"<{delivery}@{channel.sender.rpartition('@')[2]}>"
    message.set_content(text)
    context = None if channel.encryption == PLAIN else ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(channel.host, channel.port, timeout=TIMEOUT, context=context)
        if channel.encryption == TLS
        else smtplib.SMTP(channel.host, channel.port, timeout=TIMEOUT)
    ) as server:
        if channel.encryption == STARTTLS:
            server.starttls(context=context)
        if channel.user:
            server.login(channel.user, _read_password(channel))
        if refused := server.send_message(message):
            raise smtplib.SMTPRecipientsRefused(refused)


def _read_password(channel: Email) -> str:
    password = os.environ.get(channel.password_variable)
    if not password:
        raise PlatformError(
            f"the environment variable {channel.password_variable} is not set", hint="set it to the password of the SMTP user"
        )
    return password
