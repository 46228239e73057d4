"""Checks within the transaction that moves an alias: whether the alias may move, to which version, and with which evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.compute.training.lifecycle import CHAMPION, DAMAGED, PROMOTION, REJECTED, explain_refusal
from mlops_assets.errors import RegistryError
from mlops_assets.stores.database import schema

if TYPE_CHECKING:
    from mlops_assets.stores.registry.records import Version

ANY_VERSION = -1  # as ``expected``: any version may have the alias, or none; no version has this number


def refuse_lost_race(  # noqa: PLR0913  (who expected what)
    connection: sa.Connection, environment: str, model: str, alias: str, expected: int | None, current: Version | None, command: str
) -> None:
    """Raise RegistryError unless the expected version has the alias; the message says who moved the alias last, when and why."""
    now = current.version if current else None
    if expected in (ANY_VERSION, now):
        return
    log = schema.alias_log
    moved = sa.select(log).filter_by(environment=environment, model=model, alias=alias).order_by(log.c.sequence.desc())
    last = connection.execute(moved).mappings().first()
    cause = f"; {last['actor']} moved the alias at {last['at'][:19]} UTC by a {last['kind']} ({last['reason']})" if last else ""
    raise RegistryError(
        f"the {alias} of '{model}' in '{environment}' is {_version_text(now)}, but {_version_text(expected)} was expected{cause}",
        hint=f"run `{command} history {model}`, and decide again",
    )


def refuse_state(kind: str, chosen: Version, command: str) -> None:
    """Raise RegistryError when the state of a version does not allow the alias to move to it; ``command`` is for the hint."""
    if clause := explain_refusal(kind, chosen.state):
        damage = f" ({chosen.damage})" if chosen.state == DAMAGED else ""
        cures = {
            DAMAGED: "restore its artifacts and run this command again, or ",
            REJECTED: f"if it is good after all, run `{command} approve {chosen.model} {chosen.version} --approver NAME --reason WHY`; else ",
        }
        raise RegistryError(
            f"version {chosen.version} of '{chosen.model}' is {chosen.state}{damage}, so {clause}",
            hint=f"{cures.get(chosen.state, '')}choose another version: `{command} list {chosen.model}`",
        )


def previous_champion(connection: sa.Connection, environment: str, current: Version, version: int | None) -> int:
    """Return the number of the version that a rollback restores: ``version``; if None, the champion before ``current``.

    This is the champion that ``current`` replaced at its last promotion.

    Raises
    ------
    RegistryError
        ``version`` is ``current`` or never was champion in the environment; or, without ``version``, ``current`` replaced no champion.
    """
    log = schema.alias_log
    moves = sa.select(log).filter_by(environment=environment, model=current.model, alias=CHAMPION).order_by(log.c.sequence.desc())
    events = connection.execute(moves).mappings().all()
    promotion = next(e for e in events if e["version"] == current.version and e["kind"] == PROMOTION)
    number: int | None = version if version is not None else promotion["previous"]
    earlier = sorted({e["version"] for e in events} - {current.version})
    if number is None or number not in earlier:
        raise RegistryError(
            f"'{current.model}' had no champion in '{environment}' before version {current.version}"
            if number is None
            else f"version {number} of '{current.model}' was not champion in '{environment}' before version {current.version}",
            hint=f"name a version that was champion: {', '.join(map(str, earlier))}" if earlier else "there is nothing to roll back to",
        )
    return number


def copy_evidence(connection: sa.Connection, model: str, digest: str, source: str, target: str) -> None:
    """Copy the evidence of a candidate from one environment to another, for gates without evidence in the target.

    Raises
    ------
    RegistryError
        Neither environment has evidence of the candidate.
    """
    table = schema.evidence
    present_gates: set[str] = set(
        connection.execute(sa.select(table.c.gate).filter_by(environment=target, model=model, digest=digest)).scalars()
    )
    rows = connection.execute(sa.select(table).filter_by(environment=source, model=model, digest=digest)).mappings().all()
    if not rows and not present_gates:
        raise RegistryError(
            f"environment '{source}' has no evidence of candidate {digest[:12]} of '{model}'",
            hint=f"instead of '{source}', name the environment in which the candidate was evaluated",
        )
    if missing := [{**row, "environment": target} for row in rows if row["gate"] not in present_gates]:
        connection.execute(table.insert(), missing)


def _version_text(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
