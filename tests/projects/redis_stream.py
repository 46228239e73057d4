"""A Redis stream, read by a plain Dagster asset in a consumer group: what was pushed is acknowledged."""

import os
from datetime import UTC, datetime

import dagster as dg
import redis

import mlops_assets as ml
from tests.projects.tail_file import fixes, positions

STREAM, GROUP, CONSUMER = "positions", "mlops", "one"


def parsed(entry: bytes, fields: dict[bytes, bytes]) -> dict:
    """Return a row; it became known when it came into the stream, which its id says."""
    heard_at = datetime.fromtimestamp(int(entry.split(b"-")[0]) / 1000, tz=UTC)
    return {
        "ship": fields[b"ship"].decode(),
        "at": datetime.fromisoformat(fields[b"at"].decode()),
        "heard_at": heard_at,
        "speed": float(fields[b"speed"]),
    }


@dg.asset(automation_condition=dg.AutomationCondition.on_cron("* * * * *"))
def positions_stream(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Push what came into the stream, first what an earlier run took and did not acknowledge."""
    pushed = 0
    with redis.Redis.from_url(os.environ["POSITIONS_REDIS"]) as client:
        if not client.exists(STREAM) or GROUP.encode() not in [group["name"] for group in client.xinfo_groups(STREAM)]:
            client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        for since in ("0", ">"):  # what is under way, then what is new
            while found := client.xreadgroup(GROUP, CONSUMER, {STREAM: since}, count=1000):
                entries = found[0][1] if isinstance(found, list) else found[STREAM.encode()][0]
                if not entries:
                    break
                ml.push(positions, [parsed(*entry) for entry in entries])
                client.xack(STREAM, GROUP, *(entry for entry, _ in entries))
                pushed += len(entries)
    return dg.MaterializeResult(metadata={"pushed": pushed})


defs = ml.build_definitions([positions, fixes, positions_stream])
