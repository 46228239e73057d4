"""The documentation site: it builds without a warning, fetches nothing, and has every public name, command, decision and benchmark."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

import mlops_assets
from mlops_assets.cli.main import mlops
from tests.conftest import ROOT

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)\"|<link\b[^>]*\brel=\"(?:stylesheet|preconnect|icon)\"[^>]*>")


def build(project: Path, target: Path) -> subprocess.CompletedProcess:
    """Build the site of a checkout as `make site` does, without a network."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        project / "mkdocs.yml",
        "--site-dir",
        target,
    ]
    nowhere = "http://127.0.0.1:9"  # a request would be refused
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": nowhere, "https_proxy": nowhere}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def every_command(command: click.Command, path: str = "mlops") -> list[str]:
    children = command.commands.items() if isinstance(command, click.Group) else ()
    return [path, *(found for name, child in children for found in every_command(child, f"{path} {name}"))]


def test_every_command_has_a_heading(site) -> None:
    pages = "\n".join(path.read_text() for path in (site / "cli").glob("*.html"))
    headings = {re.sub(r"<[^>]+>|&para;|\xb6", "", text).strip() for text in re.findall(r"<h[1-6][^>]*>(.*?)</h[1-6]>", pages)}
    assert set(every_command(mlops)[1:]) - headings == set()


def test_every_public_name_has_a_page_with_its_documentation(site) -> None:
    pages = {path.stem: path.read_text() for path in (site / "api").glob("*/*.html")}
    assert set(pages) == {*mlops_assets.__all__, "reading", "testing"}
    for name in mlops_assets.__all__:
        assert f'id="mlops_assets.{name}' in pages[name] or f"mlops_assets.{name}." in pages[name], name
        assert ":func:`" not in pages[name], name
    assert 'href="lookup.html#mlops_assets.lookup"' in pages["load_model"]  # from its section "See Also"


def test_every_decision_guide_and_benchmark_is_a_page_in_the_navigation(site) -> None:
    start = (site / "index.html").read_text()
    for folder, shown in (("docs/adr", "adr"), ("docs/guides", "guides"), ("bench/results", "benchmarks")):
        for path in (ROOT / folder).glob("*.md"):
            assert (site / shown / f"{path.stem}.html").exists(), path
    for section in ("Tutorials", "How-to guides", "Concepts", "CLI reference", "API reference", "Decisions", "Benchmarks"):
        assert re.search(rf"\b{section}\b", start), section


def test_no_page_loads_anything_from_elsewhere(site) -> None:
    for path in site.rglob("*.html"):
        for match in LOADED.finditer(path.read_text()):
            assert "//" not in match[0], (path.name, match[0])
    for path in site.rglob("*.css"):
        assert re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", path.read_text()) is None, path.name


def test_a_broken_link_or_anchor_stops_the_build(tmp_path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("mkdocs.yml", "bench", "mlops_assets", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "definitions.py"):
        (copy / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", copy / "docs")
    page = copy / "docs" / "maturity.md"
    page.write_text(page.read_text() + "\n[a](guides/none.md) [b](guides/features.md#none)\n")
    done = build(copy, tmp_path / "out")
    assert done.returncode != 0
    assert "guides/none.md" in done.stderr
    assert "#none" in done.stderr


def anchors(path: Path) -> set[str]:
    """Return the anchors that a repository's page gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_files_of_the_repository_lead_somewhere() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    broken = []
    for page in (ROOT / name for name in tracked if (ROOT / name).exists()):
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", FENCED.sub("", page.read_text())):
            file = page.parent / unquote(target) if target else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []
