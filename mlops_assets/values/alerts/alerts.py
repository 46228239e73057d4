"""The alerts of a project: where they are sent, how severe each is, and when they are silent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError
from mlops_assets.values.alerts.channels import Email, Slack, Webhook
from mlops_assets.values.alerts.episodes import SEVERITIES
from mlops_assets.values.alerts.silences import Silence
from mlops_assets.values.arguments import check_constructor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.alerts.channels import Channel

MIN_REMINDER = timedelta(minutes=1)


@check_constructor
@dataclass(frozen=True, init=False)
class Alerts:
    """Alerts about failed checks and runs; given to ``build_definitions(alerts=...)``.

    Consecutive failures of a check or job form one episode: one message when it opens, reminders while it stays open, and one message when
    it is resolved.

    Parameters
    ----------
    channels
        Where alerts are sent.
    severity
        Pattern → ``"WARN"`` or ``"ERROR"``, which replaces the severity of the check; the first pattern that fits counts. A pattern is
        ``"<asset>:<check>"``, ``"run of <asset>"`` or ``"job <name>"``, with ``*`` for any text.
    silence
        Weekly or daily spans of time in which alerts are not sent.
    remind_after
        The minimum time between two messages about an episode that stays open.

    Raises
    ------
    DefinitionError
        There is no channel, a channel is given twice, a severity is unknown, or ``remind_after`` is shorter than a minute.

    See Also
    --------
    Webhook, Slack, Email : The channels.
    Silence : A weekly or daily span.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> team = ml.monitoring.Email("smtp.example.com", to="ml@example.com", sender="mlops@example.com")
    >>> alerts = ml.monitoring.Alerts([team], severity={"performance_report/*": "ERROR"})
    >>> alerts.choose_severity("performance_report/watch_performance:roc_auc_at_least", "WARN")
    'ERROR'
    """

    channels: tuple[Channel, ...]
    severity: tuple[tuple[str, str], ...]
    silence: tuple[Silence, ...]
    remind_after: timedelta

    def __init__(
        self,
        channels: Channel | Sequence[Channel],
        *,
        severity: Mapping[str, str] | None = None,
        silence: Silence | Sequence[Silence] = (),
        remind_after: timedelta = timedelta(days=1),
    ) -> None:
        values = {
            "channels": (channels,) if isinstance(channels, (Webhook, Slack, Email)) else tuple(channels),
            "severity": tuple((severity or {}).items()),
            "silence": (silence,) if isinstance(silence, Silence) else tuple(silence),
            "remind_after": remind_after,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        if unexpected := [each for each in self.channels if not isinstance(each, (Webhook, Slack, Email))]:
            raise DefinitionError(f"Alerts has the channel {unexpected[0]!r}", hint="give Webhook(…), Slack(…) or Email(…)")
        if unexpected_spans := [each for each in self.silence if not isinstance(each, Silence)]:
            raise DefinitionError(f"Alerts has the silence {unexpected_spans[0]!r}", hint="give Silence('sat 00:00', 'mon 00:00')")
        channel_names = [channel.name for channel in self.channels]
        if not channel_names:
            raise DefinitionError("Alerts has no channel", hint="give Webhook(…), Slack(…) or Email(…)")
        if repeated := [name for name in channel_names if channel_names.count(name) > 1]:
            raise DefinitionError(f"Alerts has the channel '{repeated[0]}' twice", hint="give each channel once")
        if unknown := [(pattern, level) for pattern, level in self.severity if level not in SEVERITIES]:
            raise DefinitionError(f"Alerts has the severity '{unknown[0][1]}' for '{unknown[0][0]}'", hint="give 'WARN' or 'ERROR'")
        if self.remind_after < MIN_REMINDER:
            raise DefinitionError(f"Alerts(remind_after={self.remind_after}) is shorter than a minute", hint="set e.g. timedelta(days=1)")

    def choose_severity(self, subject: str, default: str) -> str:
        """Return the declared severity of a subject, or the default when no pattern fits.

        Parameters
        ----------
        subject
            ``<asset>:<check>``, ``run of <asset>`` or ``job <name>``.
        default
            The severity of the check itself.

        Returns
        -------
        str
            ``WARN`` or ``ERROR``.
        """
        return next((level for pattern, level in self.severity if fnmatchcase(subject, pattern)), default)
