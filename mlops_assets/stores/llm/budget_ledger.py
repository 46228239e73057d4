"""The budget ledger of a service: it reserves the maximum of a request to a model, and settles the reservation after the reply.

One SQLite file, shared by threads and worker processes. A reservation is one write transaction, so two requests never reserve the same part
of a budget.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError
from mlops_assets.stores.base.process import identify_process, is_gone
from mlops_assets.values.llm.prompt_service import Budget, RateLimits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BUSY_SECONDS = 30.0
_MINUTE = 61  # the maximum number of clock seconds that a span of 60 seconds overlaps
_RETRY_SECONDS = 1.0  # a running request may have released its unused part by then
_ALL = "*"  # the row of totals that counts every key; no key has this name
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reservations (
    id TEXT PRIMARY KEY, api_key TEXT NOT NULL, day TEXT NOT NULL, second INTEGER NOT NULL,
    tokens INTEGER NOT NULL, pico INTEGER NOT NULL, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seconds (
    api_key TEXT NOT NULL, second INTEGER NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (api_key, second)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    day TEXT NOT NULL, api_key TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, pico INTEGER NOT NULL,
    PRIMARY KEY (day, api_key)
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO totals VALUES (?, ?, ?, ?, ?) ON CONFLICT (day, api_key)
DO UPDATE SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens, pico = pico + excluded.pico
"""
_ADD_SECOND = """
INSERT INTO seconds VALUES (?, ?, ?, ?) ON CONFLICT (api_key, second)
DO UPDATE SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens
"""


class QuotaError(Exception):
    """A request does not fit a budget or a rate limit, and was not reserved.

    Parameters
    ----------
    quota
        ``budget`` or ``rate limit``.
    problem
        The limit, and what the request would exceed.
    seconds
        Seconds until such a request may fit; None for a request that is larger than the whole limit.
    """

    def __init__(self, quota: str, problem: str, seconds: float | None) -> None:
        super().__init__(problem)
        self.quota = quota
        self.problem = problem
        self.seconds = seconds


@dataclass(frozen=True)
class Spending:
    """The tokens, the cost and the number of requests.

    Parameters
    ----------
    tokens
        Tokens of prompts and answers.
    pico
        The cost in 10⁻¹² US dollars; None when it is unknown.
    requests
        Number of requests.
    """

    tokens: int
    pico: int | None
    requests: int = 1


class BudgetLedger:
    """Reserves and settles the spending of one service. Threads may share it.

    Parameters
    ----------
    path
        The file, created if needed.
    budget, rate_limits
        The limits; None for no limit.

    Raises
    ------
    InstallationError
        The file cannot be opened, or is not a ledger.

    Notes
    -----
    When the ledger is opened, reservations of ended processes are settled at their maximum, because the model may have answered the
    requests.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mlops_assets.stores.llm.budget_ledger import BudgetLedger, QuotaError, Spending
    >>> from mlops_assets.values.llm.prompt_service import Budget
    >>> ledger = BudgetLedger(Path(tempfile.mkdtemp()) / "ledger.sqlite", Budget(tokens_per_day=1000))
    >>> ledger.reserve("a", "", Spending(800, None))
    >>> ledger.settle("a", Spending(300, None))
    >>> ledger.reserve("b", "", Spending(600, None))
    >>> try:
    ...     ledger.reserve("c", "", Spending(200, None))
    ... except QuotaError as error:
    ...     print(error.quota, error.problem)
    budget 200 tokens do not fit the budget of 1000 tokens a day: 900 are spent or reserved
    """

    def __init__(self, path: Path, budget: Budget | None = None, rate_limits: RateLimits | None = None) -> None:
        self._path, self._budget, self._limits = path, budget or Budget(), rate_limits or RateLimits()
        self._lock = threading.Lock()
        self._owner = json.dumps(identify_process(), sort_keys=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error
        self._file = path.stat().st_ino
        self.settle_orphans()

    def reserve(self, request: str, api_key: str, maximum: Spending) -> None:
        """Reserve the maximum that a request may use.

        Parameters
        ----------
        request
            A new id.
        api_key
            The name of the client's key; empty without one.
        maximum
            The maximum that the request may use.

        Raises
        ------
        QuotaError
            The request does not fit a limit; nothing is reserved.
        InstallationError
            The ledger cannot be written.
        """
        with self._write() as connection:
            now = time.time()  # not before the wait for the lock, which may last into the next day
            at, second = datetime.fromtimestamp(now, UTC), int(now)
            day, pico = at.date().isoformat(), maximum.pico or 0
            self._check_budgets(connection, day, api_key, maximum, _seconds_to_midnight(at))
            if self._limits != RateLimits():
                self._check_rates(connection, api_key, maximum, now)
                connection.execute(_ADD_SECOND, (api_key, second, maximum.requests, maximum.tokens))
            row = (request, api_key, day, second, maximum.tokens, pico, self._owner)
            connection.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.executemany(_ADD, [(day, key, maximum.requests, maximum.tokens, pico) for key in (_ALL, api_key)])

    def settle(self, request: str, used: Spending | None) -> None:
        """Replace the reserved amount by the used amount.

        Parameters
        ----------
        request
            The id of a reservation.
        used
            The used amount, with 0 requests if the request was never sent. None, or an unknown cost, keeps the reserved amount.

        Raises
        ------
        InstallationError
            The ledger cannot be written.
        """
        with self._write() as connection:
            query = "SELECT api_key, day, second, tokens, pico FROM reservations WHERE id = ?"
            found = connection.execute(query, (request,)).fetchone()
            if found is None:
                return
            api_key, day, second, reserved, reserved_pico = found
            connection.execute("DELETE FROM reservations WHERE id = ?", (request,))
            tokens = reserved if used is None else used.tokens
            pico = reserved_pico if used is None or used.pico is None else used.pico
            requests = 0 if used is None else used.requests - 1
            change = "UPDATE seconds SET requests = requests + ?, tokens = tokens + ? WHERE api_key = ? AND second = ?"
            connection.execute(change, (requests, tokens - reserved, api_key, second))
            connection.executemany(_ADD, [(day, key, requests, tokens - reserved, pico - reserved_pico) for key in (_ALL, api_key)])

    def count_feedback(self, api_key: str) -> None:
        """Count one feedback of a client; a client may send as many within a minute as requests.

        Parameters
        ----------
        api_key
            The name of the client's key; empty without one.

        Raises
        ------
        QuotaError
            The limit on feedback is reached.
        InstallationError
            The ledger cannot be written.
        """
        if self._limits.requests_per_minute is None:
            return
        sender = f"feedback:{api_key}"  # no key has this name
        with self._write() as connection:
            now = time.time()
            self._check_rates(connection, sender, Spending(0, None), now)
            connection.execute(_ADD_SECOND, (sender, int(now), 1, 0))

    def settle_orphans(self) -> int:
        """Settle reservations of ended processes at their maximum, and return their number."""
        with self._write() as connection:
            owners = [owner for (owner,) in connection.execute("SELECT DISTINCT owner FROM reservations")]
            gone = [(owner,) for owner in owners if is_gone(json.loads(owner))]
            return connection.executemany("DELETE FROM reservations WHERE owner = ?", gone).rowcount if gone else 0

    def read_spending(self, day: str, api_key: str | None = None) -> Spending:
        """Return the amount that is spent or reserved on a day.

        Parameters
        ----------
        day
            The day in UTC, ISO 8601.
        api_key
            The name of a key; None for all.
        """
        with self._lock:
            return self._read_total(self._connection, day, _ALL if api_key is None else api_key)

    def find_problem(self) -> str:
        """Return why the ledger cannot reserve; ``""`` when it can."""
        try:
            with self._lock:
                self._connection.execute("SELECT 1 FROM totals LIMIT 1").fetchone()
        except sqlite3.Error as error:
            return self._explain(error).message
        return "" if self._is_in_place() else f"the budget ledger '{self._path}' was removed or replaced"

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Hold a write transaction; it is rolled back after an error."""
        with self._lock:
            if not self._is_in_place():  # other processes would count in another file
                raise InstallationError(f"the budget ledger '{self._path}' was removed or replaced", hint="restart the service")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def _is_in_place(self) -> bool:
        try:
            return self._path.stat().st_ino == self._file
        except OSError:
            return False

    def _explain(self, error: Exception) -> InstallationError:
        return InstallationError(
            f"the budget ledger '{self._path}' cannot be used: {error}", hint="free disk space, or make the file writable"
        )

    def _read_total(self, connection: sqlite3.Connection, day: str, api_key: str) -> Spending:
        query = "SELECT tokens, pico, requests FROM totals WHERE day = ? AND api_key = ?"
        return Spending(*(connection.execute(query, (day, api_key)).fetchone() or (0, 0, 0)))

    def _check_budgets(self, connection: sqlite3.Connection, day: str, api_key: str, maximum: Spending, seconds: float) -> None:
        """Raise QuotaError for a request that does not fit the budget of the service, or that of its key."""
        for key, budget in ((_ALL, self._budget), (api_key, self._budget.per_key)):
            if budget is None:
                continue
            whose, spent = "the " if key == _ALL else "the key's ", self._read_total(connection, day, key)
            if budget.usd_per_day is not None and maximum.pico is None:
                raise QuotaError("budget", "the cost of the request is unknown, and the budget is in US dollars", None)
            sums = (
                ("requests", budget.requests_per_day, maximum.requests, spent.requests, 1),
                ("tokens", budget.tokens_per_day, maximum.tokens, spent.tokens, 1),
                ("US dollars", _to_pico(budget.usd_per_day), maximum.pico or 0, spent.pico or 0, 10**12),
            )
            for unit, limit, wanted, before, scale in sums:
                if limit is None or before + wanted <= limit:
                    continue
                shown = [str(amount) if scale == 1 else f"{Decimal(amount) / scale:.6f}" for amount in (wanted, limit, before)]
                if wanted > limit:
                    raise _make_oversize_error("budget", f"{whose}budget", f"{unit} a day", shown)
                running = _read_running(connection, api_key=key, day=day)
                settled = before - {"requests": 0, "tokens": running.tokens}.get(unit, running.pico or 0)
                problem = "{} {unit} do not fit {whose}budget of {} {unit} a day: {} are spent or reserved"
                when = _RETRY_SECONDS if settled + wanted <= limit else seconds
                raise QuotaError("budget", problem.format(*shown, unit=unit, whose=whose), when)

    def _check_rates(self, connection: sqlite3.Connection, api_key: str, maximum: Spending, now: float) -> None:
        """Raise QuotaError for a request that exceeds a limit of its key within 60 seconds."""
        connection.execute("DELETE FROM seconds WHERE api_key = ? AND second <= ?", (api_key, int(now) - _MINUTE))
        recent = connection.execute("SELECT second, requests, tokens FROM seconds WHERE api_key = ? ORDER BY second", (api_key,)).fetchall()
        counts = (
            ("requests", self._limits.requests_per_minute, maximum.requests, [(second, count) for second, count, _ in recent]),
            ("tokens", self._limits.tokens_per_minute, maximum.tokens, [(second, count) for second, _, count in recent]),
        )
        for unit, limit, wanted, uses in counts:
            if limit is None or (excess := sum(count for _, count in uses) + wanted - limit) <= 0:
                continue
            if wanted > limit:
                raise _make_oversize_error("rate limit", "the limit", f"{unit} a minute", (str(wanted), str(limit)))
            problem, when = f"{wanted} {unit} do not fit the limit of {limit} {unit} a minute", _seconds_until_free(uses, excess, now)
            if unit == "tokens" and excess <= _read_running(connection, api_key=api_key, since=int(now) - _MINUTE).tokens:
                when = min(when, _RETRY_SECONDS)
            raise QuotaError("rate limit", problem, when)


def _make_oversize_error(quota: str, limit: str, unit: str, shown: Sequence[str]) -> QuotaError:
    return QuotaError(quota, f"the request needs up to {shown[0]}, and {limit} is {shown[1]} {unit}", None)


def _read_running(connection: sqlite3.Connection, *, api_key: str, day: str = "", since: int = 0) -> Spending:
    """Return the total of the reservations of one key (``*`` for all), on a day (``""`` for any) and after a clock second."""
    chosen = "(:key = '*' OR api_key = :key) AND (:day = '' OR day = :day) AND second > :since"
    query = f"SELECT sum(tokens), sum(pico), count(*) FROM reservations WHERE {chosen}"
    tokens, pico, requests = connection.execute(query, {"key": api_key, "day": day, "since": since}).fetchone()
    return Spending(tokens or 0, pico or 0, requests)


def _seconds_until_free(uses: list[tuple[int, int]], excess: int, now: float) -> float:
    """Return the seconds until the oldest uses, ``excess`` in sum, are older than a minute; a minute if all uses sum to less."""
    for second, count in uses:
        excess -= count
        if excess <= 0:
            return max(0.0, second + _MINUTE - now)
    return _MINUTE


def _seconds_to_midnight(at: datetime) -> float:
    midnight = datetime.combine(at.date() + timedelta(days=1), datetime.min.time(), UTC)
    return (midnight - at).total_seconds()


def _to_pico(usd: float | None) -> int | None:
    """Return an amount in US dollars as a whole number of 10⁻¹² US dollars."""
    return None if usd is None else int(Decimal(str(usd)) * 10**12)
