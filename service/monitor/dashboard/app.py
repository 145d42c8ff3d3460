"""The application of the operators' listener, and the one that has metrics only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from he_agg.host.addresses import is_this_machine
from service.aggregator import Aggregator
from service.audit_events.event import make_event
from service.limits import KNOWN
from service.monitor.dashboard.access import SESSION_S, Access
from service.monitor.dashboard.live import MAX_VIEWERS, Live
from service.monitor.monitoring import Watching
from service.settings import Settings

__all__ = ["make_metrics_app", "make_operator_app"]

STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/holders.js": ("holders.js", "text/javascript"),
    "/dom.js": ("dom.js", "text/javascript"),
    "/format.js": ("format.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    # Nothing from elsewhere, nothing inline, in nobody's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MAX_LOGIN_BYTES = 1000
_LOGIN_S = 10.0
_TOKEN = re.compile(rb'\{"token": ?"([0-9a-z.]*)"\}\Z')

Handler = Callable[[Request], Awaitable[Response]]


def make_operator_app(settings: Settings, aggregator: Aggregator, watching: Watching, access: Access) -> Starlette:
    """Make the app of page, data and metrics. Static files are public; all else needs a session."""
    live = Live(aggregator, watching)
    outside = None if settings.operator_url is None else urlsplit(settings.operator_url).hostname

    def is_by_proxy(request: Request) -> bool:
        return outside is not None and request.url.hostname == outside

    def protected(handler: Handler) -> Handler:
        async def check(request: Request) -> Response:
            if not access.is_session(request.cookies.get(_cookie(request), "")):
                return _refusal(401, "log in with a link: `he-agg operator link`")
            if KNOWN in request.scope:
                request.scope[KNOWN]()
            return await handler(request)

        return check

    async def login(request: Request) -> Response:
        # Not a simple request: a page from elsewhere could not send it without being asked first.
        if request.headers.get("content-type", "") != "application/json":
            return _refusal(415, "expected application/json")
        body = b""
        try:
            async with asyncio.timeout(_LOGIN_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MAX_LOGIN_BYTES:
                        return _refusal(413, "expected a token")
        except TimeoutError:
            return _refusal(408, "expected a token")
        # The page writes it in this form; nothing that nests is ever parsed.
        token = _TOKEN.match(body)
        if token is None:
            return _refusal(400, "expected a token")
        session = access.redeem(token[1].decode())
        if session is None:
            watching.repeats.tell("operator.sign-in-failed", via="link", source=_source(request), reason="bad-link")
            return _refusal(401, "this link is not valid, was used, or is too old; a new one: `he-agg operator link`")
        watching.tell(make_event("operator.signed-in", via="link", source=_source(request)))
        response = Response(status_code=204)
        response.set_cookie(
            _cookie(request),
            session,
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=is_by_proxy(request),
        )
        return response

    async def logout(request: Request) -> Response:
        if access.is_session(request.cookies.get(_cookie(request), "")):
            watching.tell(make_event("operator.signed-out", via="link", source=_source(request)))
        response = Response(status_code=204)
        secure = is_by_proxy(request)
        response.delete_cookie(_cookie(request), httponly=True, samesite="strict", secure=secure)
        return response

    async def snapshot(_: Request) -> Response:
        return JSONResponse(await live.snapshot())

    async def events(_: Request) -> Response:
        return _Events(live)

    routes = [Route(path, _file(name, kind)) for path, (name, kind) in _FILES.items()]
    routes += [
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/snapshot.json", protected(snapshot)),
        Route("/events", protected(events)),
        Route("/metrics", protected(_metrics(watching))),
    ]
    return _application(routes, lambda name: name == outside or is_this_machine(name))


def make_metrics_app(settings: Settings, watching: Watching) -> Starlette:
    """Make the app of metrics and nothing else, for whoever reaches the address."""
    local = is_this_machine(settings.metrics_host)
    return _application([Route("/metrics", _metrics(watching))], lambda name: not local or is_this_machine(name))


def _application(routes: list[Route], is_ours: Callable[[str], bool]) -> Starlette:
    app = Starlette(routes=routes, middleware=[Middleware(_Guarded, is_ours=is_ours)])
    app.router.redirect_slashes = False
    return app


class _Guarded:
    """ASGI layer: the headers of every answer, and no answer to a page that calls this address by its own name.

    A name that somebody else's DNS server points at 127.0.0.1 makes a browser treat their page as ours. So the listener
    goes by loopback's names, and by the one that the operator gave it.
    """

    def __init__(self, app: ASGIApp, is_ours: Callable[[str], bool]) -> None:
        self._app = app
        self._is_ours = is_ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                kept = [(k, v) for k, v in message.get("headers", []) if k not in dict(ours)]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        name = Request(scope).url.hostname or ""
        if not self._is_ours(name):
            await _refusal(421, "this address has another name")(scope, receive, with_headers)
            return
        if scope["method"] not in ("GET", "HEAD") and _is_from_elsewhere(Request(scope), name):
            await _refusal(403, "only this page may send this")(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def _is_from_elsewhere(request: Request, name: str) -> bool:
    """Tell whether a browser sends this for another site's page, as it does with a form of theirs."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).hostname != name
    except ValueError:
        return True


class _Events(StreamingResponse):
    """The event stream, or 503: counted before it begins, so that a burst is counted as well."""

    def __init__(self, live: Live) -> None:
        super().__init__(live.events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        if self._live.viewers >= MAX_VIEWERS:
            refused = _refusal(503, f"{MAX_VIEWERS} pages are open, and no more are served")
            await refused(scope, receive, send)
            return
        self._live.viewers += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.viewers -= 1


def _file(name: str, kind: str) -> Handler:
    content = (STATIC / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind)

    return send


def _metrics(watching: Watching) -> Handler:
    async def send(_: Request) -> Response:
        from service.monitor.metrics import CONTENT_TYPE

        if watching.metrics is None:
            return _refusal(404, "there are no metrics")
        return Response(await run_in_threadpool(watching.metrics.render), headers={"Content-Type": CONTENT_TYPE})

    return send


def _source(request: Request) -> str:
    return "" if request.client is None else request.client.host


def _cookie(request: Request) -> str:
    # Cookies do not know ports: two aggregators on one machine would log each other's operators out.
    return f"he-agg-{request.url.port or 0}"


def _refusal(status: int, detail: str) -> Response:
    return JSONResponse({"status": status, "detail": detail}, status)
