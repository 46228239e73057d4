"""Send messages about alerts to webhooks, chats and mailboxes."""

import hashlib
import json
import os
import smtplib
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate
from http.client import responses
from typing import Any

from mlops_assets.compute.monitoring.alert_messages import build_blocks, build_payload, title_alerts, write_text
from mlops_assets.errors import InstallationError
from mlops_assets.values.alerts.channels import PLAIN, STARTTLS, TLS, Channel, Email, Slack
from mlops_assets.values.alerts.episodes import TEST, WARN, AlertEvent, AlertFact, Episode

TIMEOUT = 10.0  # seconds for one operation of a socket
MAX_SECONDS = 60.0  # for a message as a whole; less than a claim of the message lasts
_SAFE_TEXTS = (InstallationError, smtplib.SMTPNotSupportedError)


@dataclass(frozen=True)
class SendResult:
    """The outcome of sending a message.

    Parameters
    ----------
    sent
        Whether the channel has confirmed it.
    problem
        Why it was not sent, or which recipients were refused; empty otherwise. It holds neither the URL nor the password of the channel.
    """

    sent: bool
    problem: str = ""


def send_alerts(channel: Channel, events: Sequence[AlertEvent], environment: str) -> SendResult:
    """Send one message with all alerts, and return whether the channel has confirmed it. Any exception becomes a problem of this channel.

    Parameters
    ----------
    channel
        Where to send it.
    events
        The alerts, at least one.
    environment
        The environment of the platform.
    """
    result = SendResult(sent=False, problem=f"TimeoutError: no confirmation within {MAX_SECONDS:.0f} seconds")

    def send() -> None:
        nonlocal result
        try:
            result = _send(channel, events, environment)
        except Exception as error:  # noqa: BLE001  (one channel must not stop the others)
            result = SendResult(sent=False, problem=_describe_error(error))

    # Timeouts of sockets count each operation, so that a server that sends a byte at a time would never end.
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(MAX_SECONDS)
    return result


def _send(channel: Channel, events: Sequence[AlertEvent], environment: str) -> SendResult:
    ids = " ".join(f"{event.episode.number}-{event.episode.events}" for event in events)
    delivery = hashlib.sha256(f"{environment} {channel.name} {ids}".encode()).hexdigest()[:32]
    if isinstance(channel, Email):
        return _send_mail(channel, title_alerts(events, environment), write_text(events, environment), delivery)
    _post(channel.url, build_blocks(events, environment) if isinstance(channel, Slack) else build_payload(events, environment, delivery))
    return SendResult(sent=True)


def _describe_error(error: BaseException) -> str:
    """Return the kind of an error and its cause; of texts, only those that cannot hold a URL or a password."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {responses.get(error.code, '')}".strip()
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    name = type(error).__name__
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"{name}: {_list_refused(error.recipients)}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{name}: code {error.smtp_code}"
    if isinstance(error, _SAFE_TEXTS):
        return f"{name}: {error}"
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else name


def send_test(channel: Channel, environment: str, now: datetime) -> str:
    """Send a test message; return why it was not sent to all recipients, or ``""``."""
    fact = AlertFact(
        "this message", passed=False, at=now.timestamp(), severity=WARN, text="Nothing has failed: `mlops alerts test` sent it."
    )
    episode = Episode(fact.subject, WARN, fact.at, (), 1, fact)
    return send_alerts(channel, [AlertEvent(episode, TEST)], environment).problem


class _RedirectRefusal(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would become a GET request without the message, and its page would count as a confirmation."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:  # noqa: ANN401  (those of urllib)
        return None


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310  (the operator's URL)
    urllib.request.build_opener(_RedirectRefusal).open(request, timeout=TIMEOUT).close()


def _send_mail(channel: Email, subject: str, text: str, delivery: str) -> SendResult:
    message = EmailMessage()
    title = " ".join(_replace_surrogates(subject).split())[:200]
    message["Subject"], message["From"], message["To"] = title, channel.sender, ", ".join(channel.to)
    message["Date"], message["Message-ID"] = formatdate(), f"<{delivery}@{channel.sender.rpartition('@')[2]}>"
    message.set_content(_replace_surrogates(text))
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
        refused = server.send_message(message)
    # The others have the message: it is not sent again.
    return SendResult(sent=True, problem=f"refused recipients: {_list_refused(refused)}" if refused else "")


def _list_refused(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address} (code {code})" for address, (code, _) in sorted(refused.items()))


def _replace_surrogates(text: str) -> str:
    """Return text that can be encoded."""
    return text.encode("utf-8", "replace").decode()


def _read_password(channel: Email) -> str:
    password = os.environ.get(channel.password_variable)
    if not password:
        raise InstallationError(
            f"the environment variable {channel.password_variable} is not set", hint="set it to the password of the SMTP user"
        )
    return password
