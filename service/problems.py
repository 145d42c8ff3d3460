"""Problem documents (RFC 9457): one table from reason to status and title, and the handlers that answer with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from he_agg.errors import HeAggError, Reason
from service.logs import log, note
from service.refusal import RefusedError
from service.store.failures import StoreError

__all__ = ["ANY", "PROBLEMS", "answers", "install", "problem"]

MEDIA_TYPE = "application/problem+json"
URN = "urn:he-agg:problem:"

PROBLEMS: Mapping[Reason, tuple[int, str]] = {
    # 400: the request itself
    Reason.BAD_REQUEST: (400, "The request is not one of this protocol"),
    Reason.BAD_ARGUMENT: (400, "An argument is out of its range"),
    Reason.BAD_DIGEST: (400, "The bytes are not the ones that their digest names"),
    Reason.LENGTH_REQUIRED: (411, "The request must say how long its body is"),
    Reason.TOO_LARGE: (413, "The body is longer than it may be"),
    # who asks
    Reason.UNAUTHENTICATED: (401, "The request does not say who sends it"),
    Reason.CLOCK_SKEW: (401, "The request was signed too long ago, or in the future"),
    Reason.ROSTER_EXPIRED: (401, "The roster is not valid any more"),
    Reason.NO_LONGER_MEMBER: (403, "The caller is not a member of the federation any more"),
    Reason.FORBIDDEN: (403, "The caller is not allowed to do this"),
    Reason.NOT_INVITED: (403, "This site does not take part in the round"),
    # what is asked for
    Reason.UNKNOWN_FEDERATION: (404, "There is no such federation here"),
    Reason.UNKNOWN_ROUND: (404, "There is no such round in the federation"),
    Reason.UNKNOWN_ROSTER: (404, "There is no such version of the roster here"),
    Reason.UNKNOWN_EPOCH: (404, "There is no such epoch, or no bundle for it"),
    Reason.UNKNOWN_SUBMISSION: (404, "This site has no such submission"),
    Reason.UNKNOWN_PART: (404, "There is no such part in the plan"),
    # what has happened already
    Reason.ALREADY_EXISTS: (409, "It exists already, with other contents"),
    Reason.CHAIN_MISMATCH: (409, "The manifest follows another history of records"),
    Reason.ROUND_CLOSED: (409, "The round takes no more submissions"),
    Reason.ROUND_FAILED: (409, "The round failed and has no sum"),
    Reason.SECOND_SUBMISSION: (409, "This site has submitted something else to the round already"),
    Reason.INCOMPLETE: (409, "Parts are missing"),
    Reason.SUM_NOT_READY: (409, "The sum is not there yet"),
    Reason.SUM_GONE: (410, "The sum is not kept any longer"),
    # too much at once
    Reason.TOO_SLOW: (408, "The body comes too slowly"),
    Reason.TOO_MANY_REQUESTS: (429, "This site has too many requests under way"),
    Reason.BUSY: (503, "The aggregator is busy"),
    Reason.STORAGE_FULL: (507, "There is no room on the disk"),
    Reason.QUOTA_EXCEEDED: (507, "The quota has no room"),
    # what was sent
    Reason.TRUNCATED: (422, "The body is shorter than the plan says"),
    Reason.TRAILING_BYTES: (422, "The body is longer than the plan says"),
    Reason.BAD_MAGIC: (422, "The body is not a part"),
    Reason.BAD_VERSION: (422, "The body is of another version of the format"),
    Reason.BAD_FIELD: (422, "A field is not what it must be"),
    Reason.BAD_PADDING: (422, "Bits that must be zero are not"),
    Reason.NOT_CANONICAL: (422, "The JSON is not in canonical form"),
    Reason.RESIDUE_OUT_OF_RANGE: (422, "A residue is not below its modulus"),
    Reason.PLAN_MISMATCH: (422, "This was made for another plan"),
    Reason.KEY_MISMATCH: (422, "This was made under another group key"),
    Reason.BAD_SIGNATURE: (422, "A signature is not by the expected signer"),
    Reason.ROSTER_MISMATCH: (422, "This was made for another version of the roster"),
    Reason.SECRET_REFUSED: (422, "This looks like a key, which the aggregator must never hold"),
    # plans, when an operator registers a federation
    Reason.BAD_PLAN: (422, "The plan does not make sense"),
    Reason.INSECURE_PARAMETERS: (422, "The plan's parameters are not secure"),
    Reason.NO_HEADROOM: (422, "The plan has no room for its sums"),
    # the aggregator's own trouble
    Reason.FILE_MISSING: (500, "A file of the aggregator is missing"),
    Reason.FILE_EXISTS: (500, "A file is in the aggregator's way"),
    Reason.BAD_CONFIG: (500, "The aggregator's settings do not make sense"),
    Reason.INTERNAL: (500, "The aggregator failed"),
}
"""Every reason that the aggregator gives. A test walks the sources for reasons that are not here."""

RETRY_AFTER_S: Mapping[Reason, int] = {
    Reason.TOO_SLOW: 1,
    Reason.TOO_MANY_REQUESTS: 1,
    Reason.BUSY: 2,
    Reason.STORAGE_FULL: 60,
    Reason.QUOTA_EXCEEDED: 60,
}
"""What passes by itself, or when the operator has acted: after how long to ask again. Units: seconds."""


_ANYWHERE = (
    Reason.BAD_REQUEST,
    Reason.BAD_DIGEST,
    Reason.UNAUTHENTICATED,
    Reason.BAD_SIGNATURE,
    Reason.CLOCK_SKEW,
    Reason.ROSTER_EXPIRED,
    Reason.NO_LONGER_MEMBER,
    Reason.FORBIDDEN,
    Reason.UNKNOWN_FEDERATION,
    Reason.TOO_MANY_REQUESTS,
    Reason.BUSY,
)
UNAUTHORIZED: Mapping[Reason, int] = {Reason.BAD_SIGNATURE: 401}
"""What has another status when it is about the request itself, not about a document in it."""


def problem(error: HeAggError) -> Response:
    """Return the answer for an error that is in the table."""
    status, title = PROBLEMS[error.reason]
    if isinstance(error, RefusedError) and error.status is not None:
        status = error.status
    document: dict[str, Any] = {
        "type": URN + error.reason,
        "title": title,
        "status": status,
        "detail": error.message,
        "reason": error.reason.value,
    }
    if error.hint:
        document["hint"] = error.hint
    if isinstance(error, RefusedError):
        document |= error.members
    headers = {"WWW-Authenticate": 'Signature realm="he-agg"'} if status == HTTPStatus.UNAUTHORIZED else {}
    if error.reason in RETRY_AFTER_S:
        headers["Retry-After"] = str(RETRY_AFTER_S[error.reason])
    return _response(document, status, headers)


def answers(*reasons: Reason | tuple[Reason, int]) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses` for OpenAPI: which problems it answers with, if need be by another status."""
    by_status: dict[int | str, dict[str, Any]] = {}
    of_documents = [one if isinstance(one, tuple) else (one, PROBLEMS[one][0]) for one in reasons]
    of_requests = [(reason, UNAUTHORIZED.get(reason, PROBLEMS[reason][0])) for reason in _ANYWHERE]
    for reason, status in dict.fromkeys((*of_requests, *of_documents)):
        title = PROBLEMS[reason][1]
        entry = by_status.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {"examples": {}}}})
        entry["description"] = "; ".join(filter(None, (entry["description"], f"`{reason}`: {title.lower()}")))
        entry["content"][MEDIA_TYPE]["schema"] = {"$ref": "#/components/schemas/Problem"}
        entry["content"][MEDIA_TYPE]["examples"][reason.value] = {
            "value": {"type": URN + reason, "title": title, "status": status, "detail": "…", "reason": reason.value}
        }
    return by_status


def _allowed(routes: Sequence[BaseRoute], path: str) -> str:
    """List the methods of an address; the framework names those of its first route only."""
    found = (route for route in routes if isinstance(route, APIRoute) and route.path_regex.match(path))
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))


ANY: dict[str, Any] = {
    "description": "Whatever else goes wrong: 400 what is not HTTP, 404 and 405 unknown addresses and methods, 500.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
"""For OpenAPI: what may come instead of an answer."""

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. Further members depend on the reason: `record`, `round_id`, `submission_id`, `manifest`, "
    "`missing`, `server_time`.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": [URN + Reason.ROUND_CLOSED]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence: what was expected, what came, which ids."},
        "hint": {"type": "string", "description": "What to do next."},
        "reason": {"type": "string", "enum": sorted(PROBLEMS)},
    },
}


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error with a problem document. What is not expected goes on to `logs`, which answers 500.

    Args:
        routes: all of the application's own.
    """

    async def on_refusal(request: Request, error: Exception) -> Response:
        if not isinstance(error, HeAggError) or error.reason not in PROBLEMS:
            raise error
        if isinstance(error, StoreError):
            log(logging.ERROR, "the store failed", error=error)
        note(request.scope, reason=error.reason.value)
        if isinstance(error, RefusedError) and isinstance(error.members.get("round_id"), str):
            note(request.scope, round_id=error.members["round_id"])
        return problem(error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        # Only places and rules are repeated, never what came.
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return await on_refusal(request, RefusedError(Reason.BAD_REQUEST, found))

    async def on_http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        note(request.scope, reason=Reason.BAD_REQUEST.value)
        document = {
            "type": "about:blank",
            "title": HTTPStatus(error.status_code).phrase,
            "status": error.status_code,
            "detail": "there is no such address or method here; /openapi.json lists them",
            "reason": Reason.BAD_REQUEST.value,
        }
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(routes, request.url.path)):
            headers["Allow"] = allowed
        return _response(document, error.status_code, headers)

    async def on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
        # Nobody is there to read it. 499 is what proxies write in their logs for this.
        note(request.scope, reason="disconnected")
        return Response(status_code=499)

    app.add_exception_handler(HeAggError, on_refusal)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)


def _response(document: dict[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    body = json.dumps(document, ensure_ascii=False).encode()
    return Response(body, status, {"Cache-Control": "no-store", **headers}, MEDIA_TYPE)
