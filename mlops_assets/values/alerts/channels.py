"""Channels that alerts are sent to: webhooks, Slack-compatible chats and e-mail."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlops_assets.errors import DefinitionError
from mlops_assets.values.alerts.episodes import SEVERITIES, WARN
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import to_names

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTTLS, TLS, PLAIN = "starttls", "tls", "none"
_ADDRESS = re.compile(r"[^@\s<>,;:\"()\\]+@[^@\s<>,;:\"()\\]+")


@check_constructor
@dataclass(frozen=True)
class Webhook:
    """A URL that receives alerts as JSON: ``text`` for people, and ``alerts``, a list of objects.

    Parameters
    ----------
    url
        An HTTP or HTTPS URL. It is never printed in full, because such URLs are often secrets.
    min_severity
        The lowest severity that is sent: ``"WARN"`` or ``"ERROR"``.

    Raises
    ------
    DefinitionError
        The URL is not an HTTP URL, or the severity is unknown.

    See Also
    --------
    Alerts : Takes ``channels=``.
    Slack : Formats messages for chats.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.monitoring.Webhook("https://example.com/hooks/1").name
    'webhook example.com 692205'
    """

    url: str = field(repr=False)
    min_severity: str = WARN

    def __post_init__(self) -> None:
        """Refuse other URLs and unknown severities."""
        _check_url(self, self.url)
        _check_severity(self, self.min_severity)

    @property
    def name(self) -> str:
        """The kind, the host, and a hash of the URL: identifies the channel in records and messages."""
        return _name_channel("webhook", urlsplit(self.url).hostname or "", self.url)


@check_constructor
@dataclass(frozen=True)
class Slack:
    """The URL of an incoming webhook of Slack, or of a chat that takes the same format: ``text`` and ``blocks``.

    Parameters
    ----------
    url, min_severity
        As in :class:`Webhook`.

    Raises
    ------
    DefinitionError
        The URL is not an HTTP URL, or the severity is unknown.

    See Also
    --------
    Alerts : Takes ``channels=``.
    Webhook : Sends all fields as JSON.

    Examples
    --------
    >>> import os
    >>> import mlops_assets as ml
    >>> ml.monitoring.Slack(os.environ.get("SLACK_URL", "https://hooks.slack.com/services/T0/B0/X"), min_severity="ERROR").min_severity
    'ERROR'
    """

    url: str = field(repr=False)
    min_severity: str = WARN

    def __post_init__(self) -> None:
        """Refuse other URLs and unknown severities."""
        _check_url(self, self.url)
        _check_severity(self, self.min_severity)

    @property
    def name(self) -> str:
        """The kind, the host, and a hash of the URL: identifies the channel in records and messages."""
        return _name_channel("slack", urlsplit(self.url).hostname or "", self.url)


@check_constructor
@dataclass(frozen=True, init=False)
class Email:
    """E-mail through an SMTP server.

    Parameters
    ----------
    smtp
        The server as ``host:port``, or ``host`` for port 587.
    to
        One or more addresses.
    sender
        The address in ``From``.
    user
        The user name for the server; empty for a server without authentication.
    password_variable
        The environment variable with the password. It is read when a message is sent.
    encryption
        ``"starttls"``, ``"tls"`` from the first byte, or ``"none"``.
    min_severity
        As in :class:`Webhook`.

    Raises
    ------
    DefinitionError
        An address or the port cannot be read, the encryption or severity is unknown, or a password has no user.

    See Also
    --------
    Alerts : Takes ``channels=``.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> team = ml.monitoring.Email("smtp.example.com", to=["ml@example.com"], sender="mlops@example.com", user="mlops")
    >>> (team.host, team.port, team.password_variable)
    ('smtp.example.com', 587, 'MLOPS_SMTP_PASSWORD')
    """

    smtp: str
    to: tuple[str, ...]
    sender: str
    user: str
    password_variable: str
    encryption: str
    min_severity: str

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        smtp: str,
        *,
        to: str | Sequence[str],
        sender: str,
        user: str = "",
        password_variable: str = "MLOPS_SMTP_PASSWORD",  # noqa: S107  (the name of a variable)
        encryption: str = STARTTLS,
        min_severity: str = WARN,
    ) -> None:
        values = {"smtp": smtp, "to": to_names(to), "sender": sender, "user": user, "password_variable": password_variable}
        for attribute, value in (values | {"encryption": encryption, "min_severity": min_severity}).items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        described = f"Email('{self.smtp}')"
        host, _, port = self.smtp.partition(":")
        if not host or (port and not (port.isdigit() and 0 < int(port) < 65_536)) or ":" in port:
            raise DefinitionError(f"{described} is not host:port", hint="give e.g. 'smtp.example.com:587'")
        if not self.to or (wrong := [address for address in (*self.to, self.sender) if not _ADDRESS.fullmatch(address)]):
            raise DefinitionError(
                f"{described} has no recipient" if not self.to else f"{described}: '{wrong[0]}' is not an e-mail address",
                hint="give addresses such as 'ml@example.com'",
            )
        if self.encryption not in (STARTTLS, TLS, PLAIN):
            raise DefinitionError(
                f"{described}: encryption='{self.encryption}' is invalid", hint=f"give '{STARTTLS}', '{TLS}' or '{PLAIN}'"
            )
        _check_severity(self, self.min_severity)

    @property
    def host(self) -> str:
        """The host of the server."""
        return self.smtp.partition(":")[0]

    @property
    def port(self) -> int:
        """The port of the server."""
        return int(self.smtp.partition(":")[2] or 587)

    @property
    def name(self) -> str:
        """The kind, the host, and a hash of server and recipients: identifies the channel in records and messages."""
        return _name_channel("email", self.host, f"{self.smtp} {' '.join(self.to)}")


Channel = Webhook | Slack | Email


def takes_severity(channel: Channel, severity: str) -> bool:
    """Return whether a channel sends alerts of a severity."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(channel.min_severity)


def _name_channel(kind: str, host: str, identity: str) -> str:
    return f"{kind} {host} {hashlib.sha256(identity.encode()).hexdigest()[:6]}"


def _check_url(channel: Webhook | Slack, url: str) -> None:
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise DefinitionError(
            f"{type(channel).__name__}(…) has a URL with a space, a control character or a character that is not ASCII",
            hint="copy the URL of the webhook as it is, and encode other characters as %XX",
        )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port, or an IPv6 address
        valid = False
    if not valid:
        raise DefinitionError(
            f"the URL of {type(channel).__name__}(…) does not begin with http:// or https:// and a host", hint="copy the URL of the webhook"
        )


def _check_severity(channel: Channel, severity: str) -> None:
    if severity not in SEVERITIES:
        raise DefinitionError(f"{type(channel).__name__}: min_severity='{severity}' is invalid", hint="give 'WARN' or 'ERROR'")
