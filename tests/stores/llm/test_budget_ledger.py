"""The ledger: no overrun by threads, processes or kills, and no reservation that is lost."""

import json
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from mlops_assets.errors import InstallationError
from mlops_assets.stores.llm import budget_ledger
from mlops_assets.stores.llm.budget_ledger import BudgetLedger, QuotaError, Spending
from mlops_assets.values.llm.prompt_service import Budget, RateLimits
from tests.serving.support import wait_for


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def reserve_many(ledger: BudgetLedger, prefix: str, count: int, maximum: Spending, key: str = "") -> int:
    """Try to reserve requests, settle every one that fits, and return how many did."""
    fitting = 0
    for number in range(count):
        try:
            ledger.reserve(f"{prefix}-{number}", key, maximum)
        except QuotaError:
            continue
        ledger.settle(f"{prefix}-{number}", maximum)
        fitting += 1
    return fitting


def _reserve_in_process(path, number, queue) -> None:
    ledger = BudgetLedger(path, Budget(requests_per_day=100))
    with ThreadPoolExecutor(4) as pool:
        queue.put(sum(pool.map(lambda thread: reserve_many(ledger, f"{number}-{thread}", 20, Spending(10, None)), range(4))))


def test_threads_of_several_processes_never_overrun(tmp_path) -> None:
    path, context = tmp_path / "ledger.sqlite", multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_reserve_in_process, args=(path, number, queue)) for number in range(3)]
    for process in processes:
        process.start()
    counts = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sum(counts) == 100
    assert BudgetLedger(path).read_spending(today()) == Spending(1000, 0, 100)


def test_what_is_not_used_is_available_again(tmp_path) -> None:
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(tokens_per_day=100))
    ledger.reserve("a", "", Spending(100, None))
    with pytest.raises(QuotaError, match="1 tokens do not fit the budget of 100 tokens a day: 100 are spent or reserved"):
        ledger.reserve("b", "", Spending(1, None))
    ledger.settle("a", Spending(40, None))
    ledger.settle("a", Spending(0, None))  # only the first one counts
    ledger.reserve("b", "", Spending(60, None))
    assert ledger.read_spending(today()) == Spending(100, 0, 2)


def test_unknown_use_keeps_what_was_reserved(tmp_path) -> None:
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(usd_per_day=1.0))
    ledger.reserve("a", "", Spending(10, 600))
    ledger.settle("a", None)
    ledger.reserve("b", "", Spending(10, 600))
    ledger.settle("b", Spending(3, None))
    assert ledger.read_spending(today()) == Spending(13, 1200, 2)


def test_a_budget_in_dollars_is_exact_and_refuses_an_unknown_cost(tmp_path) -> None:
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(usd_per_day=0.1))
    for number in range(10):
        ledger.reserve(str(number), "", Spending(1, 10**10))
    with pytest.raises(QuotaError, match="0.000000 US dollars do not fit the budget of 0.100000 US dollars a day"):
        ledger.reserve("more", "", Spending(1, 1))
    with pytest.raises(QuotaError, match="the cost of the request is unknown"):
        ledger.reserve("unknown", "", Spending(1, None))


def test_each_key_has_a_budget_of_its_own_below_that_of_all(tmp_path) -> None:
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(requests_per_day=5, per_key=Budget(requests_per_day=3)))
    assert [reserve_many(ledger, key, 4, Spending(1, None), key) for key in ("ada", "bob", "cleo")] == [3, 2, 0]
    with pytest.raises(QuotaError, match="needs up to 4, and the key's budget is 3 requests a day"):
        BudgetLedger(tmp_path / "other.sqlite", Budget(per_key=Budget(requests_per_day=3))).reserve("x", "ada", Spending(1, None, 4))


def test_a_minute_is_any_sixty_seconds(tmp_path, monkeypatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(budget_ledger.time, "time", lambda: now)
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", rate_limits=RateLimits(requests_per_minute=2, tokens_per_minute=100))
    ledger.reserve("a", "", Spending(90, None))
    now += 50
    with pytest.raises(QuotaError, match="20 tokens do not fit the limit of 100 tokens a minute") as caught:
        ledger.reserve("b", "", Spending(20, None))
    assert caught.value.seconds == 1, "the running request may give its tokens back"
    ledger.settle("a", Spending(85, None))
    with pytest.raises(QuotaError) as caught:
        ledger.reserve("b", "", Spending(20, None))
    assert caught.value.seconds == pytest.approx(11)
    ledger.reserve("b", "", Spending(15, None))
    with pytest.raises(QuotaError, match="1 requests do not fit the limit of 2 requests a minute"):
        ledger.reserve("c", "", Spending(1, None))
    ledger.reserve("d", "other key", Spending(1, None))
    now += 11
    ledger.reserve("c", "", Spending(80, None))  # those of the first request were 61 seconds ago
    for request, tokens in (("b", 15), ("c", 80)):
        ledger.settle(request, Spending(tokens, None))
    with pytest.raises(QuotaError) as caught:
        ledger.reserve("e", "", Spending(20, None))
    assert caught.value.seconds == pytest.approx(50)


def test_a_new_day_has_the_whole_budget_and_settles_the_old_one(tmp_path, monkeypatch) -> None:
    now = datetime(2030, 1, 1, 23, 59, 50, tzinfo=UTC).timestamp()
    monkeypatch.setattr(budget_ledger.time, "time", lambda: now)
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(tokens_per_day=10))
    ledger.reserve("z", "", Spending(7, None))
    ledger.settle("z", Spending(7, None))
    ledger.reserve("a", "", Spending(3, None))
    with pytest.raises(QuotaError) as caught:
        ledger.reserve("b", "", Spending(4, None))
    assert caught.value.seconds == pytest.approx(10)
    now += 11
    ledger.reserve("b", "", Spending(10, None))
    ledger.settle("a", Spending(2, None))
    assert (ledger.read_spending("2030-01-01").tokens, ledger.read_spending("2030-01-02").tokens) == (9, 10)


def test_a_wait_for_the_lock_that_lasts_into_the_next_day_counts_in_the_next_day(tmp_path, monkeypatch) -> None:
    now = datetime(2030, 1, 1, 23, 59, 59, tzinfo=UTC).timestamp()
    monkeypatch.setattr(budget_ledger.time, "time", lambda: now)
    ledger = BudgetLedger(tmp_path / "ledger.sqlite")
    with ThreadPoolExecutor(1) as pool, sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(ledger.reserve, "a", "", Spending(1, None))
        wait_for(ledger._lock.locked)
        now += 2
        other.execute("COMMIT")
        waiting.result(60)
    assert (ledger.read_spending("2030-01-01").requests, ledger.read_spending("2030-01-02").requests) == (0, 1)


class _FailingCommit:
    """A connection whose first COMMIT fails, as on a full disk."""

    def __init__(self, connection) -> None:
        self._connection, self._commits = connection, 0

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, *values):
        self._commits += sql == "COMMIT"
        if sql == "COMMIT" and self._commits == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *values)


def test_a_commit_that_fails_is_rolled_back_and_the_ledger_goes_on(tmp_path) -> None:
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", Budget(requests_per_day=2))
    ledger._connection = _FailingCommit(ledger._connection)
    with pytest.raises(InstallationError, match="disk I/O error"):
        ledger.reserve("a", "", Spending(1, None))
    assert ledger.read_spending(today()).requests == 0
    ledger.reserve("b", "", Spending(1, None))
    assert BudgetLedger(tmp_path / "ledger.sqlite").read_spending(today()).requests == 1


def test_a_refusal_says_whether_waiting_helps(tmp_path) -> None:
    ledger = BudgetLedger(
        tmp_path / "ledger.sqlite", Budget(tokens_per_day=100, per_key=Budget(usd_per_day=1e-9)), RateLimits(tokens_per_minute=50)
    )
    waits = {}
    for name, maximum in {"budget": Spending(101, 1), "key": Spending(1, 1001), "rate": Spending(51, 1)}.items():
        with pytest.raises(QuotaError) as caught:
            ledger.reserve(name, "a_b", maximum)
        waits[name] = caught.value.seconds
    assert waits == {"budget": None, "key": None, "rate": None}
    ledger.reserve("running", "a_b", Spending(50, 1000))
    for key, maximum in {"a_b": Spending(1, 1), "axb": Spending(51, 1)}.items():
        with pytest.raises(QuotaError) as caught:
            ledger.reserve("more", key, maximum)
        waits[key] = caught.value.seconds
    assert waits["a_b"] == 1, "the running request may give its tokens back"
    ledger.settle("running", Spending(50, 1000))
    with pytest.raises(QuotaError) as caught:
        ledger.reserve("more", "a_b", Spending(1, 1))
    assert caught.value.seconds > 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from mlops_assets.stores.llm.budget_ledger import BudgetLedger, Spending
ledger = BudgetLedger(Path(sys.argv[1]))
ledger.reserve("lost", "ada", Spending(70, 5))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reservation_of_a_killed_process_is_settled_at_the_next_start(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    alive = BudgetLedger(path, Budget(tokens_per_day=100))
    alive.reserve("running", "ada", Spending(10, None))
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    unsettled = "SELECT count(*) FROM reservations"
    with sqlite3.connect(path) as connection:
        assert connection.execute(unsettled).fetchone() == (2,)
    started = BudgetLedger(path, Budget(tokens_per_day=100))
    with sqlite3.connect(path) as connection:
        assert connection.execute(unsettled).fetchone() == (1,)
    assert started.read_spending(today(), "ada") == Spending(80, 5, 2)
    with pytest.raises(QuotaError):
        started.reserve("too much", "ada", Spending(21, None))
    alive.settle("running", Spending(1, None))
    assert started.read_spending(today()).tokens == 71


def test_old_requests_are_forgotten_and_their_totals_stay(tmp_path, monkeypatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(budget_ledger.time, "time", lambda: now)
    ledger = BudgetLedger(tmp_path / "ledger.sqlite", rate_limits=RateLimits(requests_per_minute=100))
    for number in range(20):
        ledger.reserve(str(number), "", Spending(1, None))
        ledger.settle(str(number), Spending(1, None))
        now += 10
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM reservations").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM seconds").fetchone()[0] <= 7
    assert ledger.read_spending(datetime.fromtimestamp(now, UTC).date().isoformat()).requests == 20


def test_a_file_that_is_no_ledger_or_was_replaced_is_an_error(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text(json.dumps(dict.fromkeys(range(1000), "no ledger")))
    with pytest.raises(InstallationError, match="cannot be used"):
        BudgetLedger(path)
    path.unlink()
    ledger = BudgetLedger(path)
    assert ledger.find_problem() == ""
    BudgetLedger(tmp_path / "copy.sqlite")._path.replace(path)
    with pytest.raises(InstallationError, match="removed or replaced"):
        ledger.reserve("a", "", Spending(1, None))
    assert "removed or replaced" in ledger.find_problem()
