"""The response cache: completions in one SQLite file, shared by threads and processes."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.messages import dump_json
from mlops_assets.errors import InstallationError
from mlops_assets.stores.base.checksums import json_sha256
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.provider import Completion

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_BUSY_SECONDS = 30.0
FIRST_TOKEN = "seconds_to_first_token"  # noqa: S105  (a duration)
_TABLE = "CREATE TABLE IF NOT EXISTS completions (key TEXT PRIMARY KEY, completion TEXT NOT NULL, stored_at TEXT NOT NULL) WITHOUT ROWID"


@check_constructor
class ResponseCache:
    """Stored completions, looked up by a hash of the request that they answer.

    The file holds texts of models and hashes of requests, no prompts, and may be deleted at any time. Opening
    raises; after that, a read or write that fails is logged as a warning, and a failed read counts as not found.

    Parameters
    ----------
    path
        The file, created if needed.

    Raises
    ------
    InstallationError
        The file cannot be created, or is not a cache.

    See Also
    --------
    mlops_assets.llm.ask : Takes a cache.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mlops_assets.stores.llm.response_cache import ResponseCache
    >>> from mlops_assets.values.llm.provider import Completion
    >>> scope = ResponseCache(Path(tempfile.mkdtemp()) / "responses.sqlite").build_scope("v1", {"city": "Rome"})
    >>> scope.write({"model": "small"}, "", Completion(text="yes", finish_reason="stop", model="small"))
    >>> scope.read({"model": "small"}, "", "").text
    'yes'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise InstallationError(
                f"the response cache '{path}' cannot be opened: {error}", hint="make it writable, or delete it"
            ) from error

    def build_scope(
        self, prompt_version: str, variables: Mapping[str, object], repeat: int = 0, *, durations: Collection[str] = ()
    ) -> CacheScope:
        """Return the part of the cache for calls of one prompt with given variables.

        Parameters
        ----------
        prompt_version
            The version of the prompt.
        variables
            The values of the prompt's variables, by name.
        repeat
            The number of the repeat, from 0; each repeat is cached separately.
        durations
            As in :class:`CacheScope`.
        """
        return CacheScope(self, prompt_version, variables, repeat, frozenset(durations))

    def read(self, key: str) -> Completion | None:
        """Return the completion that is stored under a key, marked as cached; None when there is none or it cannot be read.

        Parameters
        ----------
        key
            A result of :meth:`CacheScope.hash_request`.
        """
        if not self.path.exists():
            return None
        try:
            with closing(self._connect()) as connection:
                row = connection.execute("SELECT completion, stored_at FROM completions WHERE key = ?", (key,)).fetchone()
            return None if row is None else _parse_completion(*row)
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            _LOG.warning("the response cache '%s' cannot be read (%s); delete it when this repeats", self.path, type(error).__name__)
            return None

    def write(self, key: str, completion: Completion) -> None:
        """Store a completion under a key, in place of an earlier one.

        Parameters
        ----------
        key
            A result of :meth:`CacheScope.hash_request`.
        completion
            The answer.
        """
        facts = {name: value for name, value in asdict(completion).items() if name != "answered_at"}
        stored_at = completion.answered_at or datetime.now(UTC)
        row = (key, json.dumps({"facts": facts, "sha256": json_sha256(facts)}), stored_at.isoformat())
        try:
            if not self.path.exists():
                self._create()
            with closing(self._connect()) as connection:
                connection.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?)", row)
        except (OSError, sqlite3.Error) as error:
            _LOG.warning("the response cache '%s' cannot be written: %s", self.path, error)

    def _create(self) -> None:
        """Create the file, readable by its owner only, and its table if they do not exist."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        with hold_lock(self.path.with_name(f"{self.path.name}.lock")), closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_TABLE)

    def _connect(self) -> sqlite3.Connection:
        """Return a connection of this call only, which no thread or forked process shares."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


@dataclass(frozen=True)
class CacheScope:
    """The part of a response cache for calls of one prompt with given variables.

    Parameters
    ----------
    cache
        The cache that stores the completions.
    prompt_version
        The version of the prompt.
    variables
        The values of the prompt's variables, by name.
    repeat
        The number of the repeat, from 0.
    durations
        The durations that the caller needs: ``seconds``, ``seconds_to_first_token``. With any of them, an answer of another endpoint counts
        as missing; with ``seconds_to_first_token``, so does an answer that was not requested as a stream.
    """

    cache: ResponseCache
    prompt_version: str
    variables: Mapping[str, object]
    repeat: int = 0
    durations: frozenset[str] = frozenset()

    def read(self, body: Mapping[str, Any], pin: str, endpoint: str) -> Completion | None:
        """Return the stored answer to a request, marked as cached; None when there is none or it cannot be read.

        Durations are those of one endpoint: an answer of another endpoint is returned without them.

        Parameters
        ----------
        body
            The body of the request: model, parameters and messages.
        pin
            The pin of the model, as in :class:`mlops_assets.values.llm.provider.LLM`.
        endpoint
            The URL to which the request would be sent.
        """
        found = self.cache.read(self.hash_request(body, pin))
        if found is None:
            return None
        if found.endpoint != endpoint:
            return None if self.durations else replace(found, seconds=None, seconds_to_first_token=None)
        # An endpoint that answered a request for a stream in one piece will do so again: the request is not repeated.
        lacks_first_token = found.seconds_to_first_token is None and not found.streamed
        return None if lacks_first_token and FIRST_TOKEN in self.durations else found

    def write(self, body: Mapping[str, Any], pin: str, completion: Completion) -> None:
        """Store the answer to a request if the model completed it or reached ``max_tokens``; skip other answers.

        Parameters
        ----------
        body
            The body of the request: model, parameters and messages.
        pin
            The pin of the model, as in :class:`mlops_assets.values.llm.provider.LLM`.
        completion
            The answer.
        """
        if completion.finish_reason in ("stop", "length"):
            self.cache.write(self.hash_request(body, pin), completion)

    def hash_request(self, body: Mapping[str, Any], pin: str) -> str:
        """Return the sha256 of what decides an answer: prompt version, variables, pin, body, and the number of a repeat above 0.

        Parameters
        ----------
        body, pin
            As in :meth:`read`.
        """
        return json_sha256([self.prompt_version, self._variables, pin, body, *([self.repeat] if self.repeat else [])])

    @cached_property
    def _variables(self) -> str:
        return json.dumps(dict(self.variables), sort_keys=True, default=dump_json)


def _parse_completion(text: str, stored_at: str) -> Completion:
    """Return a stored completion, marked as cached; raise ValueError when its checksum does not match."""
    stored = json.loads(text)
    facts = stored["facts"]
    if stored["sha256"] != json_sha256(facts):
        raise ValueError
    return replace(Completion(**facts), failures=(), cached=True, answered_at=datetime.fromisoformat(stored_at))
