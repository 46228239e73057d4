"""A real PostgreSQL server on a free port of the loopback, with an empty database for each test that asks."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WAIT = 60.0


@dataclass(frozen=True)
class Postgres:
    """One server, which stops with the test session."""

    port: int

    def database(self) -> str:
        """Make an empty database and return its URL."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server and stop it; PostgreSQL refuses to run as root, so root runs it as the user ``postgres``."""
    shared = "/tmp" if os.geteuid() == 0 else None  # its user may not enter the folder of the session
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=shared))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        _own(folder)
        _as_postgres("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync", check=True, stdout=subprocess.DEVNULL)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        _as_postgres("pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "-t", str(int(WAIT)), "start", check=True)
        yield Postgres(port)
    finally:
        _as_postgres("pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop", stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def _own(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _as_postgres(program: str, *words: object, **options) -> subprocess.CompletedProcess[bytes]:
    line = [str(_binary(program)), *map(str, words)]
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    return subprocess.run(line, timeout=2 * WAIT, cwd="/", **options)


def _binary(program: str) -> Path:
    """Find a program of Debian's package, which keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    on_path = shutil.which(program)
    if not found and not on_path:
        raise FileNotFoundError(f"{program} is not installed: `apt-get install postgresql`; these tests need a real server")
    return found[-1] if found else Path(str(on_path))
