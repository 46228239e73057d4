"""The Dagster web server and a real browser, for tests of pages and for the pictures of the documentation."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Page, expect, sync_playwright

MLOPS = (sys.executable, "-W", "ignore", "-m", "mlops_assets.cli.main")
PATIENCE = 300  # seconds that anything on a page may take on a loaded machine
# Without these a headless Chromium without a network tries to reach its maker's hosts for minutes.
_QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def web_ui(file: Path, environment: dict[str, str], mlops: Sequence[str] = MLOPS, console_port: int | None = None) -> Iterator[str]:
    """Run `mlops ui` (web server, daemon, code location and console) on a project file; yield its URL once it answers."""
    port = free_port()
    command = [*mlops, "ui", "-f", file.name, "--port", str(port), *(["--console-port", str(console_port)] if console_port else [])]
    log = Path(environment["MLOPS_HOME"]) / "ui.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=file.parent, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        family = psutil.Process(server.pid)
        try:
            _wait_for(f"http://127.0.0.1:{port}/server_info", server, log)
            if console_port:
                _wait_for(f"http://127.0.0.1:{console_port}/", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            everyone = [family, *family.children(recursive=True)]
            server.send_signal(signal.SIGINT)
            _, left = psutil.wait_procs(everyone, timeout=PATIENCE)
            for process in left:
                process.kill()
            server.wait()
            assert not left, f"left behind by `mlops ui`: {left}"


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  (our own server)
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the web server does not answer: {log.read_text()}") from None
            time.sleep(0.2)
        else:
            return


@contextmanager
def browser_page(width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """Open a page in the system's Chromium."""
    executable = shutil.which("chromium")
    assert executable, "chromium is missing: `make test` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*_QUIET, "--no-sandbox"])
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(PATIENCE * 1000)
            page = context.new_page()
            expect.set_options(timeout=PATIENCE * 1000)  # of its own, and five seconds when nothing is said
            yield page
        finally:
            browser.close()


def open_graph(page: Page, url: str, groups: Sequence[str]) -> None:
    """Open the asset graph with the given groups expanded, as the page writes it into its own address."""
    page.goto(f"{url}/asset-groups?expanded=" + urllib.parse.quote(",".join(f"global@global:{group}" for group in groups)))
    page.wait_for_selector("svg foreignObject")
    page.wait_for_timeout(1500)  # the graph is laid out in a worker


def launch(page: Page, url: str, asset: str, config: str) -> None:
    """Materialise one asset as a person does it: its page, its launchpad, the configuration typed, the button."""
    page.goto(f"{url}/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    editor = page.locator(".CodeMirror").first
    expect(editor).to_be_visible()
    editor.evaluate("(element, text) => element.CodeMirror.setValue(text)", config)
    selected = page.get_by_role("button", name="Materialize selected")
    button = page.get_by_role("dialog").get_by_role("button", name="Materialize").or_(selected).last
    expect(button).to_be_enabled()
    button.click()
