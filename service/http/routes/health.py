"""Answer supervisors and load balancers. No signature needed, nothing told."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.aggregator import NotReadyError
from service.http.routes.common import running
from service.logs import log

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    """Answer 200 while the event loop runs."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="The store and the disk can be written",
    responses={503: {"description": "They cannot: `lacks` is `database`, `parts` or `disk space`; the log says more."}},
)
async def readyz(request: Request) -> JSONResponse:
    """Check that the store's write lock can be taken and a small file written."""
    aggregator = running(request)
    if aggregator.worker.stopping:
        return JSONResponse({"status": "stopping"}, 503)
    try:
        await run_in_threadpool(aggregator.check_ready)
    except NotReadyError as error:
        log(logging.ERROR, "not ready", error=error.__cause__ or error)
        return JSONResponse({"status": "not ready", "lacks": str(error)}, 503)
    return JSONResponse({"status": "ok"})
