"""Hold a request to the one form that PROTOCOL.md gives it. What is allowed follows from what its route declares.

A framework reads `+1`, `01`, `1_0` and `%31` as 1, takes the last of two parameters, and passes over those that it does
not know. Whoever signs a request should know that it means one thing only.
"""

from __future__ import annotations

import re
from typing import get_args

from fastapi import Request
from fastapi.routing import APIRoute

from he_agg.errors import Reason
from service.refusal import RefusedError

__all__ = ["check_form"]

_QUERY = re.compile(r"[a-z_]+=[A-Za-z0-9._-]+(&[a-z_]+=[A-Za-z0-9._-]+)*\Z")
_FORMS = {
    int: (re.compile(r"(0|[1-9][0-9]{0,17})\Z"), "a whole number in decimal digits"),
    float: (re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?\Z"), "a number in decimal digits"),
}


async def check_form(request: Request) -> None:
    """Check address, query and Content-Type. What values mean is for the route to say.

    Raises:
        RefusedError: something is there that the route does not declare, or in another spelling.
    """
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        raise TypeError(f"expected a route with declared parameters, got {type(route).__name__}")
    if b"%" in request.scope["raw_path"]:
        raise _refused("path", "an address without percent-encoding")
    for field in route.dependant.path_params:
        _check_value(field.alias, request.scope["path_params"][field.alias], field.field_info.annotation)
    declared = {field.alias: field.field_info.annotation for field in route.dependant.query_params}
    query = request.scope["query_string"].decode("latin-1")
    if query and not _QUERY.match(query):
        raise _refused("query", "name=value pairs, without percent-encoding")
    seen = set()
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in declared or name in seen:
            raise _refused("query", f"{' and '.join(sorted(declared)) or 'no parameters'}, each at most once")
        seen.add(name)
        _check_value(name, value, declared[name])
    body = (route.openapi_extra or {}).get("requestBody")
    expected = [] if body is None else list(body["content"])
    if request.headers.getlist("content-type") != expected:
        raise _refused("Content-Type", expected[0] if expected else "none, as there is no body")


def _check_value(name: str, value: str, kind: object) -> None:
    for each in (kind, *get_args(kind)):
        form, what = _FORMS.get(each, (None, ""))
        if form is not None and not form.match(value):
            raise _refused(name, what)


def _refused(where: str, expected: str) -> RefusedError:
    # What came is not repeated.
    return RefusedError(Reason.BAD_REQUEST, f"{where}: expected {expected}, got something else")
