"""A platform that a small project has filled, and the console of it."""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.console.app import build_console
from mlops_assets.orchestrate.console.site import ConsoleSite
from tests.conftest import Runner, open_dagster
from tests.projects import shop, watched_shop

DAGSTER = "http://127.0.0.1:3000"
FIRST = "2024-03-01...2024-03-05"
GOOD_DAY, BAD_DAY = "2024-03-06", "2024-03-07"


class Console:
    """Asks the pages of a console without a server."""

    def __init__(self, site: ConsoleSite) -> None:
        self.site = site
        self._app = build_console(site)

    def ask(self, path: str, method: str = "GET", host: str = "127.0.0.1:3001") -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url=f"http://{host}") as client:
                return await client.request(method, path)

        return asyncio.run(call())

    def read(self, path: str) -> str:
        answer = self.ask(path)
        assert answer.status_code == 200, answer.text
        return answer.text


def open_site(home: Path, nouns: list) -> Iterator[ConsoleSite]:
    """Yield the site of a project on a platform."""
    platform = ml.Platform.at(home)
    definitions = ml.build_definitions(nouns, platform=platform)
    with open_dagster(home / "dagster") as instance:
        yield ConsoleSite(compiled_projects()[-1:], definitions, platform, instance, DAGSTER)


def fill(site: ConsoleSite) -> None:
    """Train both models, predict two days and report them; in the second, buyers look at something else."""
    world = Path(site.platform.home) / "world.json"
    world.write_text(json.dumps({"shift_from": 6, "drift_from": 6}))
    os.environ["SHOP_WORLD"] = str(world)
    try:
        run = Runner(site.definitions, site.instance)
        run(*shop.DATA, partitions=FIRST)
        run(*shop.TRAIN)
        run(*watched_shop.CAREFUL)
        for day in (GOOD_DAY, BAD_DAY):
            run(*shop.DATA, partitions=day)
            run("training_set/examples")
            for report in watched_shop.REPORTS:
                run(report, partitions=day)
    finally:
        del os.environ["SHOP_WORLD"]


@pytest.fixture(scope="session")
def filled(tmp_path_factory) -> Iterator[Console]:
    """The console of a platform with versions, reports and predictions."""
    for site in open_site(tmp_path_factory.mktemp("console") / "home", watched_shop.NOUNS):
        fill(site)
        yield Console(site)


@pytest.fixture
def empty(tmp_path) -> Iterator[Console]:
    """The console of a platform on which nothing has run."""
    for site in open_site(tmp_path / "home", watched_shop.NOUNS):
        yield Console(site)


def hash_files(folder: Path) -> dict[str, str]:
    """Return file → hash, without the bookkeeping of open databases."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
