"""The console as an ASGI application: routes, security headers and error pages."""

import asyncio
import contextlib
import difflib
import hashlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.console_page import (
    ConsoleCell,
    ConsoleFrame,
    ConsoleNotice,
    ConsoleNotices,
    ConsolePage,
    render_console,
    render_console_style,
)
from mlops_assets.errors import MlopsError
from mlops_assets.orchestrate.console import (
    feature_pages,
    front_page,
    model_pages,
    monitor_pages,
    replay_pages,
    run_pages,
    score_page,
    service_pages,
    window_pages,
)
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, MissingPageError, StoredDocument

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_PageFunction = Callable[[ConsoleSite, ConsoleRequest], ConsolePage | StoredDocument]
_LOGGER = logging.getLogger(__name__)
_MAX_MESSAGE = 500  # characters of an unexpected error
_THREADS = 2  # each has a connection to the lake, which takes a moment to open
_SECTIONS = (
    ("Overview", front_page.SECTION),
    ("Models", model_pages.SECTION),
    ("Runs", run_pages.SECTION),
    ("Monitors", monitor_pages.SECTION),
    ("Services", service_pages.SECTION),
    ("Features", feature_pages.SECTION),
    ("Replays", replay_pages.SECTION),
)
PAGES: dict[str, _PageFunction] = {
    "/": front_page.show_front_page,
    "/models": model_pages.list_models,
    "/models/{model}": model_pages.show_model,
    "/models/{model}/compare": model_pages.compare_versions,
    "/models/{model}/score": score_page.show_score,
    "/models/{model}/versions/{version}": model_pages.show_version,
    "/models/{model}/versions/{version}/card": model_pages.show_card,
    "/runs": run_pages.list_runs,
    "/runs/compare": run_pages.compare_runs,
    "/runs/{run}": run_pages.show_run,
    "/monitors": monitor_pages.list_monitors,
    "/monitors/{monitor}": monitor_pages.show_monitor,
    "/monitors/{monitor}/windows/{window}": window_pages.show_window,
    "/monitors/{monitor}/windows/{window}/report": window_pages.show_report,
    "/services": service_pages.list_states,
    "/services/{service}": service_pages.show_service,
    "/features": feature_pages.list_features,
    "/features/{view}": feature_pages.show_view,
    "/predictions/{name}": feature_pages.show_predictions,
    "/replays": replay_pages.list_replays,
    "/replays/{replay}": replay_pages.show_replay,
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# A stored document has its style within itself; its scripts, if it has any, do not run.
_DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
)


def build_console(site: ConsoleSite) -> "Starlette":
    """Return the application that serves the pages of a project.

    Parameters
    ----------
    site
        The project and its platform.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    style = render_console_style()
    frame = _build_frame(site, f"/console-{hashlib.sha256(style.encode()).hexdigest()[:12]}.css")
    pool = ThreadPoolExecutor(_THREADS, "console")
    ready = threading.Barrier(_THREADS)
    for _ in range(_THREADS):
        pool.submit(_prepare_thread, site, ready)
    routes = [Route(path, _build_endpoint(site, frame, pool, show), methods=["GET"]) for path, show in PAGES.items()]
    return Starlette(
        routes=[*routes, Route(frame.style, _build_style(style), methods=["GET"])],
        middleware=[Middleware(HostGuard)],
        exception_handlers={404: _build_refusal(frame, "There is no such page"), 405: _build_refusal(frame, "This console is read-only")},
    )


def _prepare_thread(site: ConsoleSite, ready: threading.Barrier) -> None:
    """Open this thread's connection to the lake and resolve the asset graph, so that no request waits for them.

    If a store cannot be opened, the pages that need it report that.
    """
    ready.wait()  # so that each thread gets one of the calls
    with contextlib.suppress(MlopsError):
        site.stores.lake.snapshot()
        site.definitions.resolve_asset_graph()


def _build_frame(site: ConsoleSite, style: str) -> ConsoleFrame:
    sections = tuple(ConsoleCell(name, path) for name, path in _SECTIONS)
    facts = (("platform", site.platform.home), ("environment", site.platform.environment))
    return ConsoleFrame(sections, site.dagster_url, facts, style)


def _build_endpoint(site: ConsoleSite, frame: ConsoleFrame, pool: ThreadPoolExecutor, show: _PageFunction) -> Callable[["Request"], object]:
    async def answer(request: "Request") -> "Response":
        query: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            query.setdefault(name, []).append(value)
        asked = ConsoleRequest({name: str(value) for name, value in request.path_params.items()}, query)
        return await asyncio.get_running_loop().run_in_executor(pool, _show, site, frame, show, asked)

    return answer


def _show(site: ConsoleSite, frame: ConsoleFrame, show: _PageFunction, request: ConsoleRequest) -> "Response":
    from starlette.responses import HTMLResponse

    try:
        page = show(site, request)
        if isinstance(page, StoredDocument):
            return HTMLResponse(page.content, headers=_HEADERS | {"Content-Security-Policy": _DOCUMENT_POLICY})
        return HTMLResponse(render_console(page, frame), page.status, _HEADERS)
    except MissingPageError as error:
        page = _build_missing_page(error)
    except MlopsError as error:
        page = _build_failure_page(site, error.message, error.hint)
    except Exception as error:
        _LOGGER.exception("a page of the console failed: %s %s", show.__name__, dict(request.path))
        page = _build_failure_page(
            site, f"{type(error).__name__}: {str(error)[:_MAX_MESSAGE]}", "The log of the console has the traceback."
        )
    return HTMLResponse(render_console(page, frame), page.status, _HEADERS)


def _build_failure_page(site: ConsoleSite, message: str, hint: str) -> ConsolePage:
    notice = ConsoleNotice("bad", message, hint, command=site.build_command("doctor"))
    return ConsolePage("This page cannot be shown", "", "", [ConsoleNotices("", (notice,))], status=500)


def _build_missing_page(error: MissingPageError) -> ConsolePage:
    """Return the page for a name that does not exist, with a link to the most similar one."""
    match = difflib.get_close_matches(error.name, list(error.known), n=1, cutoff=0.5)
    notices = [ConsoleNotice("warn", f"Did you mean {name}?", "It has a similar name.", error.known[name]) for name in match]
    if not match:
        some = ", ".join(list(error.known)[:10]) or "none"
        notices = [ConsoleNotice("", "No similar name is known", f"There are: {some}.")]
    commands = [("List what there is", error.command)] if error.command else []
    return ConsolePage(f"There is no {error.noun} '{error.name}'", "", "", [ConsoleNotices("", tuple(notices))], commands, status=404)


def _build_style(style: str) -> Callable[["Request"], object]:
    async def answer(_request: "Request") -> "Response":
        from starlette.responses import Response

        return Response(style, media_type="text/css", headers=_HEADERS | {"Cache-Control": "max-age=31536000, immutable"})

    return answer


def _build_refusal(frame: ConsoleFrame, title: str) -> "Callable[[Request, Exception], Awaitable[Response]]":
    async def answer(request: "Request", error: Exception) -> "Response":
        from starlette.responses import HTMLResponse

        status = getattr(error, "status_code", 404)
        known = {path: path for _, path in _SECTIONS}
        match = difflib.get_close_matches(request.url.path, list(known), n=1, cutoff=0.5)
        notices = tuple(ConsoleNotice("warn", f"Did you mean {path}?", "It has a similar address.", path) for path in match)
        page = ConsolePage(title, "", "", [ConsoleNotices("", notices)], status=status)
        return HTMLResponse(render_console(page, frame), status, _HEADERS | dict(getattr(error, "headers", None) or {}))

    return answer


class HostGuard:
    """Refuses requests whose ``Host`` is neither an address nor a name of this machine, against DNS rebinding.

    Parameters
    ----------
    app
        The application behind it.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower()}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Forward a request, or answer 421."""
        if scope["type"] == "http" and not self._accepts(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
            from starlette.responses import PlainTextResponse

            text = "This console answers to localhost, an IP address or the name of its machine only.\n"
            await PlainTextResponse(text, 421, _HEADERS)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _accepts(self, host: str) -> bool:
        """Return whether a host is an IP address or a name of this machine; after DNS rebinding, a browser sends the name of another site."""
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self._names
        return True
