"""A file of a version is written once, whoever else writes it at the same moment."""

import subprocess
import sys

from mlops_assets.stores.registry.version_files import open_version_files

PROCESS = """
import sys
from mlops_assets.stores.registry.version_files import open_version_files
files = open_version_files(sys.argv[1])
print(files.add("m", 1, {"card.md": sys.argv[2], f"own.{sys.argv[2][0]}": sys.argv[2]})["card.md"])
"""


def test_an_existing_name_is_kept(url) -> None:
    files = open_version_files(url)
    assert files.list_files("m", 1) == {}
    assert files.add("m", 1, {"card.md": "a" * 64}) == {"card.md": "a" * 64}
    assert files.add("m", 1, {"card.md": "b" * 64, "model.onnx": "c" * 64}) == {"card.md": "a" * 64, "model.onnx": "c" * 64}
    assert files.add("m", 1, {}) == files.list_files("m", 1) == {"card.md": "a" * 64, "model.onnx": "c" * 64}
    assert files.list_files("m", 2) == files.list_files("other", 1) == {}


def test_of_six_processes_at_once_one_wins_and_all_report_it(url) -> None:
    open_version_files(url)
    asked = [letter * 64 for letter in "abcdef"]
    running = [subprocess.Popen([sys.executable, "-c", PROCESS, url, sha256], stdout=subprocess.PIPE, text=True) for sha256 in asked]
    told = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * 6
    assert len(set(told)) == 1
    assert told[0] in asked
    kept = open_version_files(url).list_files("m", 1)
    assert kept == {"card.md": told[0], **{f"own.{sha256[0]}": sha256 for sha256 in asked}}
