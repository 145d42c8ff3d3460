"""The application of the operators' listener, and the one that has metrics only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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
from service.monitor.dashboard.access import Access
from service.monitor.dashboard.actions import Action, action_route
from service.monitor.dashboard.entrance import (
    Entrance,
    LinkEntrance,
    OidcEntrance,
    Place,
    cookie_name,
    refusal,
    source,
)
from service.monitor.dashboard.live import MAX_VIEWERS, Live
from service.monitor.dashboard.oidc import Provider
from service.monitor.monitoring import Watching
from service.settings import Settings

__all__ = ["make_metrics_app", "make_operator_app", "open_entrance"]

STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/view.js": ("view.js", "text/javascript"),
    "/actions.js": ("actions.js", "text/javascript"),
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
Handler = Callable[[Request], Awaitable[Response]]


def make_operator_app(
    settings: Settings,
    aggregator: Aggregator,
    watching: Watching,
    entrance: Entrance,
    actions: Mapping[str, Action],
) -> Starlette:
    """Make the app of page, data and metrics. Static files are public; all else needs a session.

    Args:
        actions: what operators may do with a federation, by its name in the address.
    """
    live, place = Live(aggregator, watching), Place(settings.operator_url)

    def protected(handler: Handler) -> Handler:
        async def check(request: Request) -> Response:
            if entrance.session(request) is None:
                return refusal(401, "sign in first: on the page, or with a link of `he-agg operator link`")
            if KNOWN in request.scope:
                request.scope[KNOWN]()
            return await handler(request)

        return check

    async def who(request: Request) -> Response:
        session = entrance.session(request)
        if session is None:
            return JSONResponse({"status": 401, "detail": "sign in first", "entrance": entrance.kind}, 401)
        return JSONResponse({"by": session.by, "may_act": session.may_act, "expires_at": session.expires_at})

    async def logout(request: Request) -> Response:
        if (session := entrance.session(request)) is not None:
            watching.tell(make_event("operator.signed-out", by=session.by, via=session.via, source=source(request)))
            entrance.leave(request)
        response = Response(status_code=204)
        response.delete_cookie(
            cookie_name(request), httponly=True, samesite="strict", secure=place.is_by_proxy(request)
        )
        return response

    async def snapshot(_: Request) -> Response:
        return JSONResponse(await live.snapshot())

    async def events(request: Request) -> Response:
        return _Events(live, lambda: entrance.session(request) is not None)

    routes = [Route(path, _file(name, kind)) for path, (name, kind) in _FILES.items()]
    routes += [
        *entrance.routes,
        Route("/logout", logout, methods=["POST"]),
        Route("/session.json", who),
        Route("/snapshot.json", protected(snapshot)),
        Route("/events", protected(events)),
        Route("/metrics", protected(_metrics(watching))),
        action_route(aggregator, entrance, watching, actions),
    ]
    return _application(routes, lambda name: name == place.hostname or is_this_machine(name))


def open_entrance(settings: Settings, watching: Watching, provider: Provider | None) -> LinkEntrance | OidcEntrance:
    """Open the one way in: by the identity provider if there is one, otherwise by links."""
    place = Place(settings.operator_url)
    if provider is not None:
        return OidcEntrance(provider, watching, place, settings.oidc_session_s)
    return LinkEntrance(Access.load_or_create(settings.data_dir), watching, place)


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
            await refusal(421, "this address has another name")(scope, receive, with_headers)
            return
        if scope["method"] not in ("GET", "HEAD") and _is_from_elsewhere(Request(scope), name):
            await refusal(403, "only this page may send this")(scope, receive, with_headers)
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

    def __init__(self, live: Live, lasts: Callable[[], bool]) -> None:
        super().__init__(live.events(lasts), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        if self._live.viewers >= MAX_VIEWERS:
            refused = refusal(503, f"{MAX_VIEWERS} pages are open, and no more are served")
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
            return refusal(404, "there are no metrics")
        return Response(await run_in_threadpool(watching.metrics.render), headers={"Content-Type": CONTENT_TYPE})

    return send
