"""The package as others install it: a built wheel in an environment of its own, outside of the repository.

The environment finds the libraries of the development environment by a path file, but neither its scripts nor its editable install: what is
imported of `mlops_assets`, and every file that a command writes or reads, comes from the wheel.
"""

import json
import os
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest

from tests.browser import web_ui
from tests.client import predict
from tests.conftest import ROOT

NEEDS = ("dagster", "dagster-webserver")  # commands that `mlops ui` starts


def run(command: list, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder outside of the repository, and the environment variables of a shell in which the wheel's environment is active."""
    folder = tmp_path_factory.mktemp("elsewhere")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MLOPS_", "DAGSTER_", "PYTHON", "COV_", "VIRTUAL_ENV"))}
    uv = str(Path(sys.executable).parent / "uv")
    build = [uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT]
    if subprocess.run([*build, "--offline"], cwd=folder, env=kept, capture_output=True).returncode:  # the build backend is not cached
        run(build, folder, kept)
    (wheel,) = folder.glob("mlops_assets-*.whl")
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder, kept)
    run([uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel], folder, kept)
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder, kept).strip())
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    for name in NEEDS:  # as an installer writes them for this interpreter
        script = (Path(sys.executable).parent / name).read_text().splitlines(keepends=True)
        (python.parent / name).write_text(f"#!{python}\n{''.join(script[1:])}")
        (python.parent / name).chmod(0o755)
    return folder, kept | {"PATH": f"{python.parent}:{kept['PATH']}", "DAGSTER_DISABLE_TELEMETRY": "1"}


def test_the_package_is_the_wheels(installed) -> None:
    folder, environment = installed
    code = "import mlops_assets, importlib.metadata as m; print(mlops_assets.__file__, m.distribution('mlops_assets').locate_file(''))"
    found = run(["python", "-c", code], folder, environment)
    assert str(ROOT) not in found
    assert found.count(str(folder / "venv")) == 2


def test_a_project_is_begun_run_served_and_shown(installed) -> None:
    folder, environment = installed
    run(["mlops", "init", "tumours"], folder, environment)
    file = folder / "tumours" / "definitions.py"
    text = (
        file.read_text().replace("defs = ", 'api = ml.Service("api", model=benign)\ndefs = ').replace("predictions])", "predictions, api])")
    )
    file.write_text(text)
    try:
        assert "service/api" in run(["mlops", "run"], file.parent, environment)
        (status,) = json.loads(run(["mlops", "serve", "status", "--json", "-"], file.parent, environment))
        row = {"mean_radius": 14.0, "mean_texture": 19.0, "mean_smoothness": 0.1}
        assert len(predict(status["url"], [row])["predictions"]) == 1
    finally:
        run(["mlops", "serve", "stop", "api"], file.parent, environment)
    with web_ui(file, environment | {"MLOPS_HOME": str(file.parent / ".mlops")}, ["mlops"]) as url:
        assert "dagster_webserver_version" in urllib.request.urlopen(f"{url}/server_info", timeout=60).read().decode()  # noqa: S310  (our own server)
