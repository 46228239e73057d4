"""Small models that are registered and promoted, a service of them, a client over kept connections."""

import asyncio
import http.client
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from mlops_assets.compute.features.on_demand import apply_on_demand
from mlops_assets.serving.formats.packaging import OnDemandSource, pack
from mlops_assets.serving.http.control import ServiceSpec
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.registry.records import CandidateRecord
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.platform import Platform

CLOCK = """
import numpy as np


def clock(at: np.ndarray) -> dict[str, np.ndarray]:
    return {"hour": at.astype("datetime64[h]").astype(int) % 24}
"""
VIEW = "carrier_punctuality"
FEATURES = ["late_share", "mean_delay"]
COLUMNS = [*FEATURES, "hour", "carrier", "distance", "wind"]
AT = "2013-04-01T12:00:00Z"
EVENT = datetime(2013, 4, 1, 12, tzinfo=UTC)
CARRIERS = ["AA", "B6", "UA"]


def describe_request_fields() -> list[dict]:
    rows = [
        ("at", "datetime", False, "time"),
        ("carrier", "str", False, "column"),
        ("distance", "int", False, "column"),
        ("wind", "float", True, "column"),
        ("flight", "str", False, "key"),
    ]
    return [dict(zip(("name", "type", "nullable", "role"), row, strict=True)) for row in rows]


def training_rows(n: int = 400, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    hours = rng.integers(0, 24, n)
    return pl.DataFrame(
        {
            "late_share": pl.Series([None if x < 0.1 else float(x) for x in rng.random(n)], dtype=pl.Float64),
            "mean_delay": rng.normal(5, 10, n),
            "hour": pl.Series(hours, dtype=pl.Int64),
            "carrier": rng.choice(CARRIERS, n).tolist(),
            "distance": pl.Series(rng.integers(100, 3000, n), dtype=pl.Int64),
            "wind": pl.Series([None if x > 9 else float(x) for x in rng.random(n) * 10], dtype=pl.Float64),
        }
    )


def estimator(seed: int = 0, trees: int = 10):
    X = training_rows(seed=seed)
    late = np.random.default_rng(seed + 1).random(X.height) < 0.3 + 0.4 * (X["hour"].to_numpy() > 15)
    encoder = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["carrier"]), remainder="passthrough"
    )
    model = HistGradientBoostingClassifier(max_iter=trees, max_leaf_nodes=7, random_state=seed, early_stopping=False)
    return make_pipeline(encoder, model).fit(X, late), X


def facts(**more) -> dict:
    steps = [
        {"view": VIEW, "join_keys": ["carrier"], "features": FEATURES, "ttl": 86_400.0, "defaults": {"mean_delay": 0.0}},
        {"function": "clock", "parameters": ["at"]},
    ]
    return {"model": "lateness", "event_timestamp": "at", "request": describe_request_fields(), "steps": steps} | more


@dataclass
class Stage:
    """A platform with versions of one model."""

    home: Path
    seeds: dict[int, int] = field(default_factory=dict)  # version → seed

    def __post_init__(self) -> None:
        self.platform = Platform.at(self.home)
        self.artifacts = open_artifacts(self.platform.artifacts)
        self.registry = open_registry(self.platform.registry)

    def register(self, fitted, X: pl.DataFrame, digest: str, *, form: str = "skops", **more) -> int:
        artifact = pack(self.artifacts, fitted, X=X, modules=[OnDemandSource(CLOCK, "clock")], requested_format=form, facts=facts(**more))
        record = CandidateRecord("lateness", digest, "run", artifact, 1, datetime.now(UTC))
        self.registry.submit(record, [])
        return self.registry.register("lateness", {}).version

    def add(self, seed: int, **more) -> int:
        version = self.register(*estimator(seed), f"digest-{seed}-{len(self.seeds)}", **more)
        self.seeds[version] = seed
        return version

    def promote(self, version: int) -> None:
        self.registry.promote("lateness", {}, actor="ada", reason="test", version=version)

    def artifact(self, version: int) -> str:
        return next(v.artifact for v in self.registry.versions("lateness") if v.version == version)

    def corrupt(self, version: int) -> Path:
        """Change one byte of the estimator of a version."""
        sha = json.loads(self.artifacts.get(self.artifact(version)))["estimator"]
        path = Path(self.platform.artifacts) / "sha256" / sha[:2] / sha
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        return path

    def spec(self, **more) -> ServiceSpec:
        at = self.platform
        stores = {"home": at.home, "registry": at.registry, "artifacts": at.artifacts, "online": at.online}
        return ServiceSpec(**{"name": "lateness_api", "model": "lateness", **stores, **more})

    @property
    def log(self) -> Path:
        return self.spec().folder.log

    def features(self) -> None:
        """Write one row of features for AA and one for B6, whose share is null."""
        event = pl.Series([EVENT, EVENT], dtype=pl.Datetime("us", "UTC"))
        rows = pl.DataFrame(
            {"carrier": ["AA", "B6"], "__valid_from": event, "__event": event, "late_share": [0.25, None], "mean_delay": [7.0, 9.0]}
        )
        open_online(self.platform.online).replace(VIEW, rows, join_keys=["carrier"], features=FEATURES)


def offline(fitted, row: dict) -> float:
    """Return the probability that the estimator itself gives a row without features."""
    at = np.array([np.datetime64(row["at"].rstrip("Z"), "us")])
    namespace: dict = {}
    exec(CLOCK, namespace)
    hour = apply_on_demand([namespace["clock"]], {"at": at})["hour"]
    values = {"late_share": None, "mean_delay": 0.0, "hour": int(hour[0]), **{k: row[k] for k in ("carrier", "distance", "wind")}}
    frame = pl.DataFrame({name: [values[name]] for name in COLUMNS}, schema=training_rows(10).schema)
    return float(fitted.predict_proba(frame)[0, 1])


def row(i: int = 0, **more) -> dict:
    return {"at": AT, "carrier": CARRIERS[i % 3], "distance": 100 + i % 2500, "wind": None if i % 7 == 0 else i % 10 / 2, **more}


class Client:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self.connection.request(method, path, data, {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        return reply.status, reply.read()

    def predict(self, body: object) -> dict:
        status, data = self("POST", "/predict", body)
        assert status == 200, (status, data)
        return json.loads(data)

    def close(self) -> None:
        self.connection.close()


@dataclass
class Sent:
    """One request that was sent, and what came back."""

    index: int
    begun: float
    status: int | None = None
    reply: dict | None = None
    ended: float = 0.0
    reused: bool = True
    written: bool = False


class Connection:
    """A kept connection in asyncio; opened again when the server closes it."""

    def __init__(self, url: str) -> None:
        self.host, _, port = url.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def predict(self, index: int) -> Sent:
        """Send one row; ``status`` stays None when the connection ends without an answer."""
        body = json.dumps(row(index, flight=str(index))).encode()
        sent = Sent(index, time.time())
        try:
            if self.streams is None:
                self.streams, sent.reused = await asyncio.open_connection(self.host, self.port), False
            reader, writer = self.streams
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            sent.written = True
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            data = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return sent
        sent.status, sent.reply, sent.ended = int(lines[0].split()[1]), json.loads(data), time.time()
        if "connection: close" in lines:
            self.close()
        return sent

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def load(url: str, indexes, *, connections: int = 8, rate: float | None = None, until=None) -> list[Sent]:
    """Send rows over kept connections; ``rate`` a second in all when given; until ``until`` is set or the rows are sent."""
    rows, done = iter(indexes), []
    begun, given = time.monotonic(), 0

    async def one(connection: Connection) -> None:
        nonlocal given
        for index in rows:
            given += 1
            if rate:
                await asyncio.sleep(max(0.0, begun + given / rate - time.monotonic()))
            done.append(await connection.predict(index))
            if until is not None and until.is_set():
                break
        connection.close()

    await asyncio.gather(*(one(Connection(url)) for _ in range(connections)))
    return done


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return every process that was started for a service's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition, timeout: float = 60) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
