"""Log lines: one JSON object each, on stderr. Ids, sizes and times; never tokens, bodies or anything out of them."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from he_agg.canonical import check_hex
from he_agg.documents.manifest import NONCE_BYTES
from he_agg.errors import WireError
from he_agg.ids import RoundId, check_name
from service.failpoints import failpoint
from service.store.failures import StoreBusyError

if TYPE_CHECKING:
    # Operators' commands log, too, and do without a web framework.
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["METHODS", "NOTES", "RequestLog", "configure", "ids_in", "log", "note"]

_logger = logging.getLogger("he_agg.service")
NOTES = "he_agg.notes"
"""Where in a request's scope the fields of its line are: ids of what has been verified, reasons, and who a refused
request claims to be from (`claimed`)."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _JsonLines(logging.Formatter):
    """One line, one object. Only what `log` put there, or the text of uvicorn's own messages."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    """Send everything to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("he_agg.service", "uvicorn", "uvicorn.error", "sqlalchemy", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level if name.startswith(("he_agg", "uvicorn")) else "WARNING")


def log(level: int, message: str, *, error: BaseException | None = None, **fields: Any) -> None:
    """Write one line. Fields are ids, numbers and reasons."""
    _logger.log(level, message, extra={"fields": fields}, exc_info=error)


def note(scope: Scope, **fields: str) -> None:
    """Add fields to the line of the request that `scope` belongs to."""
    scope.setdefault(NOTES, {}).update(fields)


class RequestLog:
    """The outermost layer: writes one line per request, and turns whatever went wrong inside into a bare 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        notes: dict[str, Any] = scope.setdefault(NOTES, {})
        request_id = secrets.token_hex(8)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A site that reports a problem can name the line.
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await _passing_failpoints(message, send)

        failure: Exception | None = None
        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            failure = error
            if not status:
                await _send_failure(watched)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            fields = {
                "id": request_id,
                "method": scope["method"] if scope["method"] in METHODS else "other",
                "route": route,
                "status": status,
                "ms": round((time.perf_counter() - began) * 1000, 1),
                **ids_in(scope.get("path_params", {})),
                **notes,
            }
            log(_level(status, failure), "request", error=failure, **fields)


def _level(status: int, failure: Exception | None) -> int:
    """Choose how loud a request's line is: an operator has to act on a full disk, not on what a site got wrong."""
    if failure is not None:
        return logging.ERROR
    return logging.WARNING if status == HTTPStatus.INSUFFICIENT_STORAGE else logging.INFO


async def _passing_failpoints(message: Message, send: Send) -> None:
    if message["type"] == "http.response.start":
        failpoint("answer.before_head")
        await send(message)
        failpoint("answer.head_sent")
    elif message.get("more_body", False):
        await send(message)
    else:
        failpoint("answer.before_end")
        await send(message)
        failpoint("answer.sent")


async def _send_failure(send: Send) -> None:
    body = json.dumps(
        {
            "type": "urn:he-agg:problem:internal",
            "title": "The aggregator failed",
            "status": 500,
            "detail": "the operator's log says more; nothing that a receipt was given for is lost",
            "reason": "internal",
        }
    ).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ids_in(path: dict[str, Any]) -> dict[str, str]:
    """Pick the ids out of an address, if they are ids: a log line holds nothing else that a client wrote."""
    found: dict[str, str] = {}
    try:
        if "federation" in path:
            found["federation"] = check_name(path["federation"], "federation")
        if "round_id" in path:
            found["round_id"] = str(RoundId.parse(path["round_id"]))
        if "upload" in path:
            check_hex(path["upload"], NONCE_BYTES, "upload")
            found["upload"] = path["upload"]
    except WireError:
        return found
    return found


def _describe(error: BaseException) -> dict[str, Any]:
    """Say where it went wrong, without the error's text and without values: either may quote a body.

    What a store says of why it cannot be used is in words of its own.
    """
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 8:
        kind = type(current).__name__
        number = getattr(current, "errno", None)
        chain.append(kind if number is None else f"{kind} errno {number}")
        current = current.__cause__ or current.__context__
    frames = traceback.extract_tb(error.__traceback__)
    why = {"why": error.why} if isinstance(error, StoreBusyError) and error.why else {}
    return {"error": chain, **why, "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
