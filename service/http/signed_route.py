"""Take requests of members to their endpoints: who calls, then what the address says, then the endpoint.

Endpoints are declared as FastAPI wants them, and its OpenAPI page, the rules for parameters and their errors come from
that. The request itself goes a shorter way: the general one keeps stacks for dependencies with an end, finds out anew
what each parameter is and turns models into JSON, and takes as long for a request as everything else together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

__all__ = ["signed_router"]

_Parameter = tuple[str, str, Any]
"""Its name in the address, its name at the endpoint, and FastAPI's field, which validates it."""


class _SignedRoute(APIRoute):
    """An endpoint with one dependency, its caller, that takes parameters from the address and returns a response."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        declared = self.dependant
        others = (declared.body_params, declared.header_params, declared.cookie_params)
        called = [(each.call, each.name) for each in declared.dependencies]
        if len(called) != 1 or None in called[0] or any(others) or declared.request_param_name is None:
            raise TypeError(f"{path}: expected request, caller and parameters of the address, got others")
        if any(field.field_info.is_required() for field in declared.query_params):
            raise TypeError(f"{path}: expected a default for what a query may say")
        self._authenticate: Callable[[Request], Awaitable[Any]] = called[0][0]  # type: ignore[assignment]
        self._request_name, self._caller_name = declared.request_param_name, str(called[0][1])
        self._in_path = _parameters(declared.path_params)
        self._in_query = _parameters(declared.query_params)
        self._defaults = {field.name: field.get_default() for field in declared.query_params}
        self._endpoint: Callable[..., Awaitable[Response]] = endpoint
        self.app = self._take

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        request = Request(scope, receive, send)
        who = {self._request_name: request, self._caller_name: await self._authenticate(request)}
        response = await self._endpoint(**who, **self._said(scope))
        await response(scope, receive, send)

    def _said(self, scope: Scope) -> dict[str, Any]:
        """Read what an address says, whose form is checked already."""
        path: dict[str, str] = scope["path_params"]
        values: dict[str, Any] = dict(self._defaults)
        errors: list[Any] = []
        found = [(("path", alias), name, field, path[alias]) for alias, name, field in self._in_path]
        if query := scope["query_string"]:
            pairs = dict(pair.split("=") for pair in query.decode("latin-1").split("&"))
            found += [
                (("query", alias), name, field, pairs[alias]) for alias, name, field in self._in_query if alias in pairs
            ]
        for where, name, field, text in found:
            values[name], wrong = field.validate(text, {}, loc=where)
            errors += wrong or []  # None in older versions
        if errors:
            raise RequestValidationError(errors)
        return values


def _parameters(fields: Sequence[Any]) -> list[_Parameter]:
    return [(field.alias, field.name, field) for field in fields]


def signed_router(tag: str) -> APIRouter:
    """Make a router for endpoints that members call."""
    return APIRouter(tags=[tag], route_class=_SignedRoute)
