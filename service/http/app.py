"""The application: wiring, and the lifespan that opens and closes what it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from service import problems
from service.aggregator import Aggregator
from service.http.auth import DOCUMENTED
from service.http.bodies import Linger
from service.http.form import check_form
from service.http.held import Held
from service.http.routes import health, holding, records, sharing, state, submissions, sums, trust, verdicts
from service.limits import Limits
from service.logs import RequestLog
from service.monitor.monitoring import Watching
from service.observers import Observed
from service.settings import Settings

__all__ = ["create_app"]

_THREADS = 12
"""Requests that compute or wait for the disk at once. More would fight for the interpreter: with 40 of them the same
requests took a sixth more time of the processor (benchmarks/load.py, 64 sites)."""

_DESCRIPTION = """
Adds encrypted updates of sites, and can read none of them: it holds no key and no HE library.

A site puts the **parts** of a **submission** in any order, and behind the last one its manifest; the receipt is a
promise. When the round closes, the closed set is folded into a **sum**, and the **record** says what is in it. Who
may do so is said by the **roster**, which the coordinators sign. Every request is signed, and may be repeated. Errors
are problem documents (RFC 9457) whose `reason` is for programs; digests are RFC 9530.
"""


def create_app(settings: Settings, aggregator: Aggregator | None = None, watching: Watching | None = None) -> FastAPI:
    """Make the application.

    Args:
        aggregator: one that is open already; otherwise the lifespan opens one. Either way the lifespan closes it.
        watching: what listens; by default whatever the settings ask for.
    """
    watching = Watching(settings) if watching is None else watching
    limits = Limits(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = aggregator if aggregator is not None else await run_in_threadpool(Aggregator.open, settings)
        app.state.aggregator = running
        current_default_thread_limiter().total_tokens = _THREADS
        watching.attach(running, limits)
        try:
            await running.worker.start()
            yield
        finally:
            await running.worker.stop()
            await run_in_threadpool(running.close)
            await run_in_threadpool(watching.close)

    app = FastAPI(
        title="he-agg aggregator",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Such a page loads its scripts from somewhere else; whatever shows OpenAPI can read /openapi.json.
        docs_url=None,
        redoc_url=None,
        # An address has one spelling, and an answer never repeats the host that was asked for.
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.limits = limits
    modules = (state, submissions, sums, records, verdicts, sharing, holding, trust)
    problems.install(app, [route for module in (*modules, health) for route in module.router.routes])
    # The last one added is the outermost: the log sees every answer, lingering included.
    app.add_middleware(Held)
    app.add_middleware(Linger, seconds=settings.linger_s)
    app.add_middleware(RequestLog)
    if watching.observers:
        app.add_middleware(Observed, observers=watching.observers)
    for module in modules:
        # Not included as routers: those look for a route twice, in one after another, for as long as a query takes.
        app.router.routes += module.router.routes
    app.include_router(health.router, dependencies=[Depends(check_form)])
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.PROBLEM_SCHEMA
        document["components"]["securitySchemes"] = DOCUMENTED
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/"):
                    operation["security"] = [{name: []} for name in DOCUMENTED]
                # FastAPI adds its own 422; ours are problem documents, and a bad argument is a 400.
                unprocessable = operation["responses"].get("422", {})
                if "application/json" in unprocessable.get("content", {}):
                    unprocessable["content"].pop("application/json")
                # Of no operation: an address or method that is none, a request that is not HTTP, the machine's trouble.
                operation["responses"]["default"] = problems.ANY
                if "422" in operation["responses"] and not unprocessable.get("content"):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
