"""A home that many tests start from: it is built once, and each test changes a copy of it."""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from mlops_assets.values.platform import Platform
from tests.memory_instance import open_memory_instance

SQLITE = b"SQLite format 3\0"


@dataclass
class HomeTemplate:
    """The platform of the home, and the instance with the runs that built it."""

    platform: Platform
    instance: dg.DagsterInstance
    built: dict[str, str] = field(default_factory=dict)  # the content at the first copy

    def copy_to(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        """Fill an empty platform and an empty memory instance with the home and its runs."""
        self.built = self.built or hash_content(Path(self.platform.home))
        shutil.copytree(self.platform.home, platform.home)
        instance.run_storage.copy_from(self.instance.run_storage)
        instance.event_log_storage.copy_from(self.instance.event_log_storage)


@contextmanager
def open_home_template(folder: Path) -> Iterator[HomeTemplate]:
    """Open a template to build in a folder; when it closes, fail if a test has changed it."""
    with open_memory_instance() as instance:
        template = HomeTemplate(Platform.at(folder / "home"), instance)
        yield template
        assert hash_content(Path(template.platform.home)) == template.built, "a test has changed the template of its home"


def hash_content(home: Path) -> dict[str, str]:
    """Return path → hash of its content: the bytes of a file, the statements that restore a database."""
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "lock")):
            found[str(path.relative_to(home))] = _hash_file(path)
    return found


def _hash_file(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith(SQLITE):
        with closing(sqlite3.connect(path)) as connection:
            content = "\n".join(connection.iterdump()).encode()
    return hashlib.sha256(content).hexdigest()
