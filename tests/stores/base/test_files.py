"""What is written is there as a whole, or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from mlops_assets.stores.base.files import write_atomically

KILLED = """
import os, pathlib, signal, sys
from mlops_assets.stores.base import files
files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(pathlib.Path(sys.argv[1]), b"new" * 100_000)
"""


def test_a_killed_writer_leaves_what_was_there(tmp_path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_descriptor) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_the_umask_counts(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        for mode in (0o600, 0o644):
            write_atomically(tmp_path / oct(mode), b"", mode=mode)
    finally:
        os.umask(before)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()} == {"0o600": "0o600", "0o644": "0o640"}
