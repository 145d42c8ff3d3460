"""Hold what belongs to a request until its answer was sent, whatever becomes of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Held", "hold"]

_HELD = "he_agg.held"


class Held:
    """ASGI layer that lets go of it. Dependencies with an end cost FastAPI more than a signature costs to verify."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        with ExitStack() as scope[_HELD]:
            await self._app(scope, receive, send)


def hold(request: Request, what: AbstractContextManager[object]) -> None:
    """Enter what is left when the answer was sent."""
    stack: ExitStack = request.scope[_HELD]
    stack.enter_context(what)
