"""Let people in to the operators' page: by a link, or by an identity provider. One of the two, never both."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from service.audit_events.event import make_event
from service.monitor.dashboard.access import SESSION_S, Access
from service.monitor.dashboard.oidc import Begun, Person, Provider, SignInError
from service.monitor.dashboard.sessions import Session, Sessions
from service.monitor.monitoring import Watching

__all__ = ["Entrance", "LinkEntrance", "OidcEntrance", "Place", "cookie_name", "refusal", "source"]

_MAX_LOGIN_BYTES = 1000
_LOGIN_S = 10.0
_TOKEN = re.compile(rb'\{"token": ?"([0-9a-z.]*)"\}\Z')
_BEGUN_S = 600.0
_MOST_BEGUN = 1000
_CALLBACK = "signed-in"

Handler = Callable[[Request], Awaitable[Response]]


class Place:
    """Where the page is, as browsers have it.

    Args:
        url: the operator's, of a proxy that does TLS; None without one.

    Attributes:
        hostname: the proxy's.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self.hostname = None if url is None else urlsplit(url).hostname

    def is_by_proxy(self, request: Request) -> bool:
        """Tell whether a request has come by the proxy."""
        return self.hostname is not None and request.url.hostname == self.hostname

    def address_of(self, request: Request, path: str) -> str:
        """Return the address of one of the page's paths."""
        if self._url is not None and self.is_by_proxy(request):
            return f"{self._url.rstrip('/')}/{path}"
        return str(request.url.replace(path=f"/{path}", query=""))


class Entrance(Protocol):
    """One way in.

    Attributes:
        kind: "link" or "oidc", for the page.
        routes: what it answers.
    """

    kind: str
    routes: list[Route]

    def session(self, request: Request) -> Session | None:
        """Return the session that a request belongs to."""

    def leave(self, request: Request) -> None:
        """End it."""


def cookie_name(request: Request) -> str:
    """Name a session's cookie. Cookies do not know ports: two aggregators on a machine would log each other's out."""
    return f"he-agg-{request.url.port or 0}"


def source(request: Request) -> str:
    """Return the address that a request has come from."""
    return "" if request.client is None else request.client.host


def refusal(status: int, detail: str) -> JSONResponse:
    """Answer that something is not granted."""
    return JSONResponse({"status": status, "detail": detail}, status)


class LinkEntrance:
    """By a link that `he-agg operator link` makes. Whoever comes by one may look."""

    kind = "link"

    def __init__(self, access: Access, watching: Watching, place: Place) -> None:
        self._access, self._watching, self._place = access, watching, place
        self.routes = [Route("/login", self._login, methods=["POST"])]

    def new_link(self) -> str:
        """Make a token that is good once."""
        return self._access.new_link()

    def session(self, request: Request) -> Session | None:
        """Return the session that a request belongs to."""
        return self._access.find(request.cookies.get(cookie_name(request), ""))

    def leave(self, request: Request) -> None:
        """Do nothing: such a session is a time and a MAC, and its cookie is taken away."""

    async def _login(self, request: Request) -> Response:
        # Not a simple request: a page from elsewhere could not send it without being asked first.
        if request.headers.get("content-type", "") != "application/json":
            return refusal(415, "expected application/json")
        body = b""
        try:
            async with asyncio.timeout(_LOGIN_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MAX_LOGIN_BYTES:
                        return refusal(413, "expected a token")
        except TimeoutError:
            return refusal(408, "expected a token")
        # The page writes it in this form; nothing that nests is ever parsed.
        token = _TOKEN.match(body)
        if token is None:
            return refusal(400, "expected a token")
        cookie = self._access.redeem(token[1].decode())
        if cookie is None:
            self._watching.repeats.tell(
                "operator.sign-in-failed", via="link", source=source(request), reason="bad-link"
            )
            return refusal(401, "this link is not valid, was used, or is too old; a new one: `he-agg operator link`")
        self._watching.tell(make_event("operator.signed-in", via="link", role="viewer", source=source(request)))
        response = Response(status_code=204)
        _give(response, request, cookie, SESSION_S, self._place)
        return response


class OidcEntrance:
    """By an identity provider. Sign-ins that were begun, and sessions, are remembered by this process alone."""

    kind = "oidc"

    def __init__(self, provider: Provider, watching: Watching, place: Place, session_s: float) -> None:
        self._provider, self._watching, self._place, self._session_s = provider, watching, place, session_s
        self._sessions = Sessions()
        self._begun: dict[str, Begun] = {}
        self.routes = [Route("/sign-in", self._begin), Route(f"/{_CALLBACK}", self._finish)]

    def session(self, request: Request) -> Session | None:
        """Return the session that a request belongs to."""
        return self._sessions.find(request.cookies.get(cookie_name(request), ""))

    def leave(self, request: Request) -> None:
        """End it."""
        self._sessions.end(request.cookies.get(cookie_name(request), ""))

    async def _begin(self, request: Request) -> Response:
        now = time.time()
        try:
            address, begun = await self._provider.begin(self._place.address_of(request, _CALLBACK), now + _BEGUN_S)
        except SignInError as error:
            return self._refuse(request, error)
        self._begun = {state: each for state, each in self._begun.items() if each.expires_at > now}
        if len(self._begun) >= _MOST_BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[begun.state] = begun
        response = RedirectResponse(address, 303)
        # Lax, since it has to come back with a request that the provider's page makes the browser send.
        response.set_cookie(
            _begun_cookie(request),
            begun.state,
            max_age=int(_BEGUN_S),
            httponly=True,
            samesite="lax",
            secure=self._place.is_by_proxy(request),
        )
        return response

    async def _finish(self, request: Request) -> Response:
        answer = request.query_params
        # Once, and only in the browser that has begun it.
        own = request.cookies.get(_begun_cookie(request), "")
        begun = self._begun.pop(answer["state"], None) if own and answer.get("state") == own else None
        try:
            if begun is None or begun.expires_at <= time.time():
                raise SignInError("state")
            person = await self._provider.finish(begun, answer)
        except SignInError as error:
            return self._refuse(request, error)
        return self._admit(request, person)

    def _admit(self, request: Request, person: Person) -> Response:
        role = "operator" if person.may_act else "viewer"
        told = make_event("operator.signed-in", by=person.by, via="oidc", role=role, source=source(request))
        self._watching.tell(told)
        self.leave(request)  # another person's, or an older one of the same
        session = Session(person.by, person.may_act, "oidc", time.time() + self._session_s)
        response = RedirectResponse("./", 303)
        response.delete_cookie(_begun_cookie(request))
        _give(response, request, self._sessions.begin(session), self._session_s, self._place)
        return response

    def _refuse(self, request: Request, error: SignInError) -> Response:
        self._watching.repeats.tell(
            "operator.sign-in-failed", via="oidc", source=source(request), reason=error.reason, by=error.by
        )
        # The page says it in words; a fragment is sent to nobody.
        response = RedirectResponse(f"./#refused={error.reason}", 303)
        response.delete_cookie(_begun_cookie(request))
        return response


def _begun_cookie(request: Request) -> str:
    return f"{cookie_name(request)}-begun"


def _give(response: Response, request: Request, cookie: str, seconds: float, place: Place) -> None:
    response.set_cookie(
        cookie_name(request),
        cookie,
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=place.is_by_proxy(request),
    )
