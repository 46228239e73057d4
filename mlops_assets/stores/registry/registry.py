"""The model registry: immutable versions, moving aliases and their log."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.compute.training.lifecycle import (
    APPROVED,
    CHALLENGE,
    CHALLENGER,
    CHAMPION,
    PROMOTION,
    REJECTED,
    ROLLBACK,
    ROLLED_BACK,
    WITHDRAWAL,
)
from mlops_assets.errors import GateError, RegistryError
from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.database.cached_statements import build_delete, build_insert
from mlops_assets.stores.registry import version_queries
from mlops_assets.stores.registry.alias_checks import ANY_VERSION, copy_evidence, previous_champion, refuse_lost_race, refuse_state
from mlops_assets.stores.registry.protocol import Registry
from mlops_assets.stores.registry.registrations import Registrations
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.registry.records import AliasEvent, Evidence, Version

__all__ = ["ANY_VERSION", "Registry", "SqlRegistry", "open_registry"]


class SqlRegistry(Registrations):
    """The registry in a database.

    Parameters
    ----------
    database
        The database of the platform.
    environment
        The environment. Each has its own candidates, evidence and aliases; all share the versions.
    """

    def promote(  # noqa: PLR0913  (one transaction, described in full)
        self,
        model: str,
        gates: Mapping[str, str],
        *,
        actor: str,
        reason: str,
        version: int | None = None,
        approval: bool = False,
        expected: int | None = ANY_VERSION,
        source: str = "",
    ) -> Version:
        """Make a version the champion and return it, in one transaction; promoting the champion again changes nothing.

        Parameters
        ----------
        model, gates
            As in :meth:`register`. Every gate is verified again. A relative gate must have compared the version with the
            current champion.
        actor, reason
            The person or process that acts, and the reason; both are logged.
        version
            The version; the newest when None. A version that was rolled back must be named.
        approval
            Whether a person must have approved exactly this version, in this environment. A rejected version is always refused.
        expected
            The champion that the caller saw; None when there was no champion. If another caller has moved the alias since,
            an error is raised. By default, any champion is accepted.
        source
            The environment whose evidence is copied for gates that were not evaluated in this environment; empty to copy none.

        Raises
        ------
        RegistryError
            There is no such version, its state allows no promotion, the champion is not the expected one, or ``source`` has no evidence.
        GateError
            As in :meth:`register`; a gate compared the candidate with another champion; or the approval is missing.
        """
        with self._database.write_transaction() as connection:
            words, number = self._wording, version if version is not None else version_queries.newest_number(connection, model)
            if number is None:
                raise RegistryError(
                    f"{words.noun} '{model}' has no registered version", hint=f"materialise {build_graph_key(f'version/{model}')} first"
                )
            chosen = self._version(connection, model, number)
            current = version_queries.champion(connection, self._environment, model)
            if current is not None and current.version == number:
                return chosen
            if version is None and chosen.state == ROLLED_BACK:
                raise RegistryError(
                    f"version {number} of '{model}' was rolled back, and is not promoted automatically",
                    hint=f"choose a better one, or run `{words.command} promote {model} --version {number}`",
                )
            refuse_lost_race(connection, self._environment, model, CHAMPION, expected, current, words.command)
            if source:
                copy_evidence(connection, model, chosen.digest, source, self._environment)
            evidence = self._verify(connection, model, chosen.digest, gates, "promoted")
            self._verify_comparison(model, evidence, current)
            if (approval or chosen.approval == REJECTED) and chosen.approval != APPROVED:
                raise GateError(
                    f"version {number} of '{model}' is {chosen.approval or 'not approved'}",
                    hint=f"materialise {build_graph_key(f'approval/{model}')}, or run `{words.command} approve {model} {number} --approver NAME --reason WHY`",
                )
            refuse_state(PROMOTION, chosen, words.command)
            why = f"from {source}: {reason}" if source else reason
            return self._move(connection, CHAMPION, chosen, current, PROMOTION, actor, why, evidence)

    def rollback(self, model: str, *, actor: str, reason: str, version: int | None = None, expected: int | None = ANY_VERSION) -> Version:
        """Make an earlier champion the champion again and return it, in one transaction; no gate is verified.

        Parameters
        ----------
        model
            The name of the model.
        actor, reason
            The person or process that acts, and the reason; both are logged.
        version
            A version that was champion in this environment; when None, the champion that the current one replaced when it was promoted.
        expected
            As in :meth:`promote`.

        Raises
        ------
        RegistryError
            There is no champion, the version is champion or never was, its state allows no rollback, or another champion was expected.
        """
        with self._database.write_transaction() as connection:
            current = version_queries.champion(connection, self._environment, model)
            refuse_lost_race(connection, self._environment, model, CHAMPION, expected, current, self._wording.command)
            if current is None:
                raise RegistryError(
                    f"{self._wording.noun} '{model}' has no champion in '{self._environment}'", hint="there is nothing to roll back"
                )
            number = previous_champion(connection, self._environment, current, version)
            chosen = self._version(connection, model, number)
            refuse_state(ROLLBACK, chosen, self._wording.command)
            return self._move(connection, CHAMPION, chosen, current, ROLLBACK, actor, reason, ())

    def challenge(  # noqa: PLR0913  (one transaction, described in full)
        self, model: str, gates: Mapping[str, str], *, version: int, actor: str, reason: str, expected: int | None = ANY_VERSION
    ) -> Version:
        """Make a version the challenger and return it, in one transaction; the champion does not change.

        A version that is the challenger already is returned unchanged.

        Parameters
        ----------
        model, gates
            As in :meth:`register`. Every gate is verified again.
        version
            The version.
        actor, reason
            The person or process that acts, and the reason; both are logged.
        expected
            The challenger that the caller saw; None when there was no challenger. By default, any challenger is accepted.

        Raises
        ------
        RegistryError
            There is no such version, its state allows no challenge, or the challenger is not the expected one.
        GateError
            As in :meth:`register`.
        """
        with self._database.write_transaction() as connection:
            chosen = self._version(connection, model, version)
            current = version_queries.alias_holder(connection, self._environment, model, CHALLENGER)
            if current is not None and current.version == version:
                return chosen
            refuse_lost_race(connection, self._environment, model, CHALLENGER, expected, current, self._wording.command)
            refuse_state(CHALLENGE, chosen, self._wording.command)
            evidence = self._verify(connection, model, chosen.digest, gates, "the challenger")
            return self._move(connection, CHALLENGER, chosen, current, CHALLENGE, actor, reason, evidence)

    def withdraw(self, model: str, *, actor: str, reason: str) -> Version:
        """Remove the alias of the challenger, in one transaction, and return the version that had it.

        Parameters
        ----------
        model
            The name of the model.
        actor, reason
            The person or process that acts, and the reason; both are logged.

        Raises
        ------
        RegistryError
            There is no challenger.
        """
        with self._database.write_transaction() as connection:
            current = version_queries.alias_holder(connection, self._environment, model, CHALLENGER)
            if current is None:
                raise RegistryError(f"model '{model}' has no challenger in '{self._environment}'", hint="there is nothing to withdraw")
            self._withdraw_challenger(connection, current, actor, reason)
            return self._version(connection, model, current.version)

    def versions(self, model: str | None = None) -> list[Version]:
        """Return the versions of a model, or of every model when None, sorted by model and version."""
        with self._database.read_transaction() as connection:
            return version_queries.versions(connection, self._environment, model)

    def champion(self, model: str) -> Version | None:
        """Return the champion, which serves predictions; None before the first promotion."""
        with self._database.read_transaction() as connection:
            return version_queries.champion(connection, self._environment, model)

    def challenger(self, model: str) -> Version | None:
        """Return the challenger; None when there is none."""
        with self._database.read_transaction() as connection:
            return version_queries.alias_holder(connection, self._environment, model, CHALLENGER)

    def history(self, model: str) -> list[AliasEvent]:
        """Return the moves of a model's aliases in every environment, oldest first."""
        with self._database.read_transaction() as connection:
            return version_queries.alias_events(connection, model)

    def _verify_comparison(self, model: str, evidence: Sequence[Evidence], current: Version | None) -> None:
        """Raise GateError when a relative gate compared the candidate with another version than the current champion."""
        for item in evidence:
            if item.relative and item.champion != (current.digest if current else ""):
                raise GateError(
                    f"gate '{item.gate}' compared candidate {item.digest[:12]} of '{model}' with {item.champion[:12] or 'no champion'}, not with the current champion",
                    hint=self._wording.describe_next_step(model, "again, which compares the candidate with the current champion"),
                )

    def _move(  # noqa: PLR0913  (one row of the log)
        self,
        connection: sa.Connection,
        alias: str,
        chosen: Version,
        current: Version | None,
        kind: str,
        actor: str,
        reason: str,
        evidence: Sequence[Evidence],
    ) -> Version:
        """Move an alias, log the move, and return the version in its new state; a challenger that becomes champion loses its old alias."""
        row = {"environment": self._environment, "model": chosen.model, "alias": alias}
        connection.execute(build_delete(schema.aliases, *row), row)
        connection.execute(build_insert(schema.aliases), {**row, "version": chosen.version})
        self._log(connection, row, chosen.version, current.version if current else None, kind, actor, reason, evidence)
        if alias == CHAMPION and CHALLENGER in chosen.aliases:
            self._withdraw_challenger(connection, chosen, actor, f"became champion by a {kind}")
        return replace(chosen, state=alias, aliases=(alias,), was_champion=chosen.was_champion or alias == CHAMPION)

    def _withdraw_challenger(self, connection: sa.Connection, current: Version, actor: str, reason: str) -> None:
        row = {"environment": self._environment, "model": current.model, "alias": CHALLENGER}
        connection.execute(build_delete(schema.aliases, *row), row)
        self._log(connection, row, current.version, current.version, WITHDRAWAL, actor, reason, ())

    def _log(  # noqa: PLR0913  (one row of the log)
        self,
        connection: sa.Connection,
        row: Mapping[str, str],
        version: int,
        previous: int | None,
        kind: str,
        actor: str,
        reason: str,
        evidence: Sequence[Evidence],
    ) -> None:
        report = [asdict(e) for e in evidence]
        log = {"kind": kind, "previous": previous, "actor": actor, "reason": reason, "evidence": report, "at": sql.timestamp()}
        connection.execute(build_insert(schema.alias_log), {**row, "version": version, **log})


def open_registry(url: str, environment: str = "dev") -> SqlRegistry:
    """Open the registry of an environment at a SQLAlchemy URL."""
    return SqlRegistry(sql.open_database(url), environment)
