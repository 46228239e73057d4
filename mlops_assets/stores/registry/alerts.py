"""Episodes of alerts, their deliveries to channels, and silences: recorded so that a killed process loses no alert."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.compute.monitoring.episodes import apply_facts, decide_events
from mlops_assets.stores.database import schema, sql
from mlops_assets.values.alerts.channels import takes_severity
from mlops_assets.values.alerts.episodes import AlertEvent, AlertFact, AlertWindow, Episode
from mlops_assets.values.alerts.silences import TimedSilence, is_silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_assets.values.alerts.alerts import Alerts
    from mlops_assets.values.alerts.channels import Channel

PENDING, SENT, FAILED = "pending", "sent", "failed"
CLAIM_TIME = 120.0  # seconds after which a claim of a killed process is void; longer than a message takes
MAX_AGE = 7 * 86_400.0  # seconds after which a message that cannot be sent is dropped
MAX_UNSEEN = 14 * 86_400.0  # seconds after which an episode that no code location reminds of is closed
_MAX_BACKOFF = 3_600.0  # seconds


@dataclass(frozen=True)
class SourcePosition:
    """The position up to which a source of facts was read.

    Parameters
    ----------
    position
        The highest number that was read.
    pending
        Lower numbers whose facts were not complete.
    """

    position: int
    pending: tuple[int, ...] = ()


@dataclass(frozen=True)
class SourceReading:
    """The new facts of one source.

    Parameters
    ----------
    source
        The name of the source: a check, or runs.
    before, after
        The positions before and after this reading; ``before`` is None for the first reading.
    facts
        The facts between the two positions.
    """

    source: str
    before: SourcePosition | None
    after: SourcePosition
    facts: tuple[AlertFact, ...] = ()


@dataclass(frozen=True)
class Delivery:
    """One message about an episode for one channel, and the state of its delivery.

    Parameters
    ----------
    episode, event, channel
        Identify the delivery.
    kind
        ``opened``, ``reminder`` or ``resolved``.
    state
        ``pending``, ``sent`` or ``failed``.
    attempts
        The number of failed attempts.
    error
        Why the last attempt failed.
    """

    episode: int
    event: int
    channel: str
    kind: str
    state: str
    attempts: int
    error: str


class AlertStore:
    """The alerts of one environment.

    Parameters
    ----------
    database
        The database of the registry.
    environment
        The environment whose alerts are read and written.
    """

    def __init__(self, database: sql.Database, environment: str) -> None:
        self._database = database
        self._environment = environment

    def positions(self, instance: str) -> dict[str, SourcePosition]:
        """Return source → position up to which it was read, for the Dagster instance with this id."""
        with self._database.read_transaction() as connection:
            return self._positions(connection, instance)

    def advance(
        self, instance: str, readings: Sequence[SourceReading], alerts: Alerts, subjects: frozenset[str], now: datetime
    ) -> list[AlertEvent]:
        """Record new facts and the messages that are due, in one transaction, and return these messages.

        A reading is skipped when another process has read its source meanwhile.

        Parameters
        ----------
        instance
            The id of the Dagster instance.
        readings
            The new facts of the instance's sources.
        alerts
            The declared channels, silences and reminders.
        subjects
            The checks and runs of the project. Episodes of other subjects do not change; such an episode is closed when no project has
            reminded of it for two weeks.
        now
            The current time (aware).
        """
        with self._database.read_transaction() as connection:
            if not readings and not self._decide_messages(connection, (), alerts, subjects, now)[0]:
                return []
        with self._database.write_transaction() as connection:
            positions = self._positions(connection, instance)
            valid = [reading for reading in readings if reading.before == positions.get(reading.source)]
            episodes, events = self._decide_messages(
                connection, [fact for reading in valid for fact in reading.facts], alerts, subjects, now
            )
            numbers = {episode.subject: self._save_episode(connection, episode) for episode in episodes}
            numbered = [replace(event, episode=replace(event.episode, number=numbers[event.episode.subject])) for event in events]
            self._add_deliveries(connection, numbered, alerts, now)
            for reading in valid:
                self._save_position(connection, instance, reading)
        return numbered

    def _decide_messages(
        self, connection: sa.Connection, facts: Sequence[AlertFact], alerts: Alerts, subjects: frozenset[str], now: datetime
    ) -> tuple[list[Episode], list[AlertEvent]]:
        """Return the episodes that change, and the messages that are due."""
        query = sa.select(schema.alerts).filter_by(environment=self._environment, closed=False).order_by(schema.alerts.c.number)
        known = {row["number"]: _read_episode(row) for row in connection.execute(query).mappings()}
        episodes = apply_facts([episode for episode in known.values() if episode.subject in subjects], facts)
        timed, clock, remind_after = self._read_silences(connection, now), now.timestamp(), alerts.remind_after.total_seconds()

        def is_quiet(subject: str) -> bool:
            return is_silent(subject, now, alerts.silence, timed)

        decided, events = decide_events(episodes.values(), clock, remind_after, is_quiet)
        oldest = clock - max(MAX_UNSEEN, 2 * remind_after)
        removed = [e for e in known.values() if e.subject not in subjects and not is_quiet(e.subject) and _last_activity(e) < oldest]
        closed = [replace(e, closed=True, resolved=clock if e.resolved is None else e.resolved) for e in removed]
        return [*(episode for episode in decided if known.get(episode.number) != episode), *closed], events

    def _save_episode(self, connection: sa.Connection, episode: Episode) -> int:
        values = asdict(episode)
        number = values.pop("number")
        if number:
            connection.execute(schema.alerts.update().where(schema.alerts.c.number == number).values(values))
            return int(number)
        insert = schema.alerts.insert().values(values | {"environment": self._environment}).returning(schema.alerts.c.number)
        return int(connection.execute(insert).scalar_one())

    def _add_deliveries(self, connection: sa.Connection, events: Iterable[AlertEvent], alerts: Alerts, now: datetime) -> None:
        rows = [
            {
                "environment": self._environment,
                "episode": event.episode.number,
                "event": event.episode.events,
                "channel": channel.name,
                "kind": event.kind,
                "state": PENDING,
                "decided": now.timestamp(),
                "attempts": 0,
                "error": "",
            }
            for event in events
            for channel in alerts.channels
            if takes_severity(channel, event.episode.severity)
        ]
        if rows:
            connection.execute(schema.alert_deliveries.insert(), rows)

    def move_deliveries(self, channels: Sequence[Channel], subjects: frozenset[str], now: float) -> None:
        """Move pending messages of channels that are not declared any more to declared ones of the same kind; without one, they fail.

        Parameters
        ----------
        channels
            The declared channels.
        subjects
            The checks and runs of the project; messages about others may belong to channels of other projects.
        now
            The current time, in seconds since 1970.
        """
        with self._database.read_transaction() as connection:
            if not self._find_undeclared(connection, channels, subjects, now):
                return
        rows = schema.alert_deliveries
        with self._database.write_transaction() as connection:
            for found in self._find_undeclared(connection, channels, subjects, now):
                key = {name: found[name] for name in ("environment", "episode", "event")}
                taken: set[str] = set(connection.execute(sa.select(rows.c.channel).filter_by(**key)).scalars())
                target = _choose_channel(found, [channel for channel in channels if channel.name not in taken])
                values: dict[str, Any] = {"state": FAILED, "error": "the channel is not declared any more"}
                if target is not None:
                    values = {"channel": target, "attempts": 0, "claimed": None, "tried": None}
                connection.execute(rows.update().filter_by(**key, channel=found["channel"]).values(values))

    def _find_undeclared(
        self, connection: sa.Connection, channels: Sequence[Channel], subjects: frozenset[str], now: float
    ) -> list[sa.RowMapping]:
        """Return the pending deliveries to other channels than the declared ones, without those that a process is sending."""
        rows, episodes = schema.alert_deliveries, schema.alerts
        query = sa.select(rows, episodes.c.subject, episodes.c.severity).join(episodes, episodes.c.number == rows.c.episode)
        others = rows.c.channel.not_in([channel.name for channel in channels])
        found = connection.execute(query.where(rows.c.environment == self._environment, rows.c.state == PENDING, others)).mappings()
        return [row for row in found if row["subject"] in subjects and (row["claimed"] is None or abs(now - row["claimed"]) >= CLAIM_TIME)]

    def claim(self, channel: str, now: float) -> list[AlertEvent]:
        """Claim all pending messages for a channel and return them, oldest first.

        It returns nothing while another process sends to the channel, or while the channel waits for its next attempt.

        Parameters
        ----------
        channel
            The name of the channel.
        now
            The current time, in seconds since 1970.
        """
        rows = schema.alert_deliveries
        mine = sa.and_(rows.c.environment == self._environment, rows.c.channel == channel, rows.c.state == PENDING)
        with self._database.read_transaction() as connection:
            if connection.execute(sa.select(rows.c.episode).where(mine).limit(1)).first() is None:
                return []
        with self._database.write_transaction() as connection:
            too_old = sa.and_(mine, rows.c.attempts > 0, rows.c.decided < now - MAX_AGE)
            connection.execute(rows.update().where(too_old).values(state=FAILED))
            pending = (
                connection.execute(sa.select(rows).where(mine).order_by(rows.c.decided, rows.c.episode, rows.c.event)).mappings().all()
            )
            if any(_is_busy(row, now) for row in pending):
                return []
            connection.execute(rows.update().where(mine).values(claimed=now))
            numbers = {row["episode"] for row in pending}
            query = sa.select(schema.alerts).where(schema.alerts.c.number.in_(numbers))
            episodes = {row["number"]: _read_episode(row) for row in connection.execute(query).mappings()}
        return [AlertEvent(replace(episodes[row["episode"]], events=row["event"]), row["kind"]) for row in pending]

    def record_delivery(self, channel: str, events: Sequence[AlertEvent], now: float, error: str = "", *, sent: bool) -> None:
        """Record whether claimed messages were sent, and the error; messages that were not sent become pending again."""
        rows = schema.alert_deliveries
        outcome: dict[str, Any] = {"claimed": None, "tried": now, "error": error}
        outcome["state" if sent else "attempts"] = SENT if sent else rows.c.attempts + 1
        with self._database.write_transaction() as connection:
            for event in events:
                matching = rows.update().filter_by(
                    environment=self._environment, channel=channel, episode=event.episode.number, event=event.episode.events
                )
                connection.execute(matching.values(outcome))

    def episodes(self, *, only_open: bool = False, limit: int = 100) -> tuple[Episode, ...]:
        """Return the newest episodes, newest first; with ``only_open``, all that are not resolved."""
        query = sa.select(schema.alerts).filter_by(environment=self._environment).order_by(schema.alerts.c.number.desc())
        query = query.where(schema.alerts.c.resolved.is_(None)) if only_open else query.limit(limit)
        with self._database.read_transaction() as connection:
            return tuple(_read_episode(row) for row in connection.execute(query).mappings())

    def deliveries(self, *, states: Sequence[str] = (PENDING, SENT, FAILED)) -> tuple[Delivery, ...]:
        """Return the deliveries in some states, oldest first."""
        rows = schema.alert_deliveries
        query = (
            sa.select(rows).filter_by(environment=self._environment).where(rows.c.state.in_(states)).order_by(rows.c.decided, rows.c.event)
        )
        names = Delivery.__dataclass_fields__
        with self._database.read_transaction() as connection:
            return tuple(Delivery(**{name: row[name] for name in names}) for row in connection.execute(query).mappings())

    def close(self, subject: str, now: float) -> bool:
        """Close the open episode of a subject without a message; return False when there is none."""
        rows = schema.alerts
        matching = sa.and_(rows.c.environment == self._environment, rows.c.subject == subject, rows.c.closed.is_(False))
        with self._database.write_transaction() as connection:
            closed = connection.execute(rows.update().where(matching).values(closed=True, resolved=sa.func.coalesce(rows.c.resolved, now)))
        return bool(closed.rowcount)

    def silence(self, silence: TimedSilence) -> None:
        """Record a silence."""
        row = {"pattern": silence.pattern, "until": silence.until.astimezone(UTC).isoformat(), "reason": silence.reason}
        with self._database.write_transaction() as connection:
            connection.execute(
                schema.silences.insert().values(row | {"environment": self._environment, "actor": silence.actor, "at": sql.timestamp()})
            )

    def end_silences(self, pattern: str, now: datetime) -> int:
        """End the silences with a pattern that have not ended, and return their number."""
        moment = now.astimezone(UTC).isoformat()
        rows = schema.silences
        with self._database.write_transaction() as connection:
            numbers = [silence.number for silence in self._read_silences(connection, now) if silence.pattern == pattern]
            connection.execute(rows.update().where(rows.c.sequence.in_(numbers)).values(until=moment))
        return len(numbers)

    def silences(self, now: datetime) -> tuple[TimedSilence, ...]:
        """Return the silences that have not ended, in the order of recording."""
        with self._database.read_transaction() as connection:
            return self._read_silences(connection, now)

    def _read_silences(self, connection: sa.Connection, now: datetime) -> tuple[TimedSilence, ...]:
        query = sa.select(schema.silences).filter_by(environment=self._environment).order_by(schema.silences.c.sequence)
        found = (
            TimedSilence(row["pattern"], datetime.fromisoformat(row["until"]), row["reason"], row["actor"], row["sequence"])
            for row in connection.execute(query).mappings()
        )
        return tuple(silence for silence in found if now < silence.until)

    def _positions(self, connection: sa.Connection, instance: str) -> dict[str, SourcePosition]:
        query = sa.select(schema.alert_cursors).filter_by(environment=self._environment, instance=instance)
        return {row["source"]: SourcePosition(row["position"], tuple(row["pending"])) for row in connection.execute(query).mappings()}

    def _save_position(self, connection: sa.Connection, instance: str, reading: SourceReading) -> None:
        key = {"environment": self._environment, "instance": instance, "source": reading.source}
        values = {"position": reading.after.position, "pending": list(reading.after.pending)}
        rows = schema.alert_cursors
        connection.execute(rows.insert().values(key | values) if reading.before is None else rows.update().filter_by(**key).values(values))


def _last_activity(episode: Episode) -> float:
    """Return when an episode was last announced or failed, in seconds since 1970."""
    return max(episode.latest.at, episode.opened, episode.announced or 0.0)


def _choose_channel(delivery: sa.RowMapping, channels: Iterable[Channel]) -> str | None:
    """Return the name of a channel of the kind of a delivery that takes its severity, of the same host where there is one."""
    kind, host, _ = delivery["channel"].split()
    fitting = [c.name for c in channels if c.name.split()[0] == kind and takes_severity(c, delivery["severity"])]
    return min(fitting, key=lambda name: name.split()[1] != host, default=None)


def _is_busy(delivery: sa.RowMapping, now: float) -> bool:
    """Return whether another process sends a delivery, or its next attempt is not due; a clock that steps back delays neither."""
    if delivery["claimed"] is not None and abs(now - delivery["claimed"]) < CLAIM_TIME:
        return True
    attempts = delivery["attempts"]
    backoff = min(_MAX_BACKOFF, 60.0 * 2 ** min(attempts - 2, 10)) if attempts > 1 else 0.0
    return delivery["tried"] is not None and abs(now - delivery["tried"]) < backoff


def _read_episode(row: sa.RowMapping) -> Episode:
    latest = dict(row["latest"])
    fact = AlertFact(**latest | {"window": AlertWindow(**latest["window"]), "affected": tuple(latest["affected"])})
    failing = tuple((AlertWindow(**window), must_pass) for window, must_pass in row["failing"])
    names = ("subject", "severity", "opened", "failures", "announced", "resolved", "closed", "events", "number")
    return Episode(**{name: row[name] for name in names}, failing=failing, latest=fact)


def open_alerts(url: str, environment: str = "dev") -> AlertStore:
    """Open the alerts of an environment at a SQLAlchemy URL."""
    return AlertStore(sql.open_database(url), environment)
