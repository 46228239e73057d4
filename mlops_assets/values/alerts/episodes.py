"""Facts about checks and runs, and the episodes of alerts that they open and resolve."""

from __future__ import annotations

from dataclasses import dataclass

WARN, ERROR = "WARN", "ERROR"
SEVERITIES = (WARN, ERROR)  # mild first
OPENED, REMINDER, RESOLVED, TEST = "opened", "reminder", "resolved", "test"


@dataclass(frozen=True)
class AlertWindow:
    """The partitions that a check or a run covered.

    Parameters
    ----------
    label
        The partition key, or the first and the last one as ``A...B``; empty for a whole asset.
    first, last
        Positions of the start and the end, comparable within one asset; None when partitions have no order.
    """

    label: str = ""
    first: float | None = None
    last: float | None = None


@dataclass(frozen=True)
class AlertFact:
    """A check that was evaluated, or a run that ended.

    Parameters
    ----------
    subject
        The check, run or job: ``<asset>:<check>``, ``run of <asset>`` or ``job <name>``.
    passed
        Whether the check or run passed.
    window
        The partitions that the check or run covered.
    at
        When the check or run ended, in seconds since 1970.
    severity
        ``WARN`` or ``ERROR``.
    must_pass
        Whether only a pass of all partitions of the window resolves the failure; else a pass of one of them or of a later one.
    text
        Why the check or run failed.
    run_id
        The Dagster run; empty for a check outside of a run.
    value, bound
        The measured value and its bound; None when the check has none.
    affected
        The models, batch predictions and services that depend on the asset.
    command
        The command that acts on the failure.
    """

    subject: str
    passed: bool
    window: AlertWindow = AlertWindow()
    at: float = 0.0
    severity: str = ERROR
    must_pass: bool = True
    text: str = ""
    run_id: str = ""
    value: float | None = None
    bound: float | None = None
    affected: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Episode:
    """The failures of one check or job, from the first failure until a pass.

    Parameters
    ----------
    subject, severity
        As in :class:`AlertFact`; the severity is the highest of all failures.
    opened
        When the first failure ended, in seconds since 1970.
    failing
        The failed windows that have not passed yet, each with its ``must_pass``.
    failures
        The number of failures.
    latest
        The newest failure.
    announced
        When the last message was created, in seconds since 1970; None before the first message.
    resolved
        When the subject passed, in seconds since 1970; None while the episode is open.
    closed
        Whether no further message follows.
    events
        The number of messages so far.
    number
        The number of the episode in the database; 0 before it is recorded.
    """

    subject: str
    severity: str
    opened: float
    failing: tuple[tuple[AlertWindow, bool], ...]
    failures: int
    latest: AlertFact
    announced: float | None = None
    resolved: float | None = None
    closed: bool = False
    events: int = 0
    number: int = 0


@dataclass(frozen=True)
class AlertEvent:
    """A message to send about an episode.

    Parameters
    ----------
    episode
        The state of the episode.
    kind
        ``opened``, ``reminder`` or ``resolved``; ``test`` for a message that only tests a channel.
    """

    episode: Episode
    kind: str
