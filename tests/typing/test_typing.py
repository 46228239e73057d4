"""Types survive the decorators: what mypy says of good and bad uses."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_mypy_says_what_the_comments_expect() -> None:
    source = HERE / "examples.py"
    # With the options and the cache of `make check`, which holds what mypy knows of the package and of its libraries.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--config-file", "pyproject.toml", str(source)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r".*examples\.py:(\d+): (?:note|error): (.*)", line):
            said.setdefault(int(match[1]), match[2].replace("[*Any, **Any]", "..."))  # as a type from the cache is printed
    expected = {
        n: match[1].strip() for n, line in enumerate(source.read_text().splitlines(), 1) if (match := re.search(r"# >> (.*)", line))
    }
    assert len(expected) >= 14
    assert {n: said.get(n, "nothing") for n in expected if expected[n] not in said.get(n, "nothing")} == {}
    assert {n: text for n, text in said.items() if n not in expected} == {}, done.stdout
