"""Tell monitoring of each request that was answered, and of each run of folding.

One layer looks at requests from the outside, so that routes know nothing of metrics, lists of problems or traces.
Whoever listens is told ids, sizes, times and reasons, and never a header, a body or an address that a client wrote; of
a request that is refused for its signature, the name that it gave.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from he_agg.ids import RoundId
from service.limits import BODY, Body
from service.logs import METHODS, NOTES, ids_in, log

__all__ = ["PHASES", "Answered", "Fold", "Observed", "Observer"]

PHASES = {
    ("PUT", "/v1/rounds/{round_id}/submissions/{upload}"): "put",
    ("GET", "/v1/rounds/{round_id}/sum"): "download",
}
"""Which requests are a step of a round. A test sees that each of them is a route of the application."""


@dataclass(frozen=True)
class Answered:
    """A request that has been answered, or whose peer has gone away.

    Attributes:
        began_at: Units: seconds since 1970, UTC.
        seconds: until the last byte was handed over. Units: seconds.
        method: one of HTTP's, or "other".
        route: the template of its address; "-" where there is none.
        status: of the answer; 0 if there was none.
        federation: empty unless the sender has proved to belong to it.
        member: who sent it; empty unless that is proved.
        round_id: which round it is about; empty where that is not known.
        reason: of the problem; empty if there was none.
        source: address that the connection came from; a proxy's, if there is one.
        claimed: federation/name of who a refused request says it is from, in the form of such names; nobody has proved
            it.
    """

    began_at: float
    seconds: float
    method: str
    route: str
    status: int
    received: int
    sent: int
    request_id: str
    federation: str
    member: str
    round_id: str
    reason: str
    source: str = ""
    claimed: str = ""

    @property
    def phase(self) -> str | None:
        """Which step of a round it was."""
        return PHASES.get((self.method, self.route))


@dataclass(frozen=True)
class Fold:
    """A run of folding.

    Attributes:
        outcome: "published"; "unfinished": the server stops, or a part is damaged; "error": it is tried again.
    """

    round_id: RoundId
    began_at: float
    ended_at: float
    outcome: str


class Observer(Protocol):
    """Who wants to know. Called on the event loop or in a worker's thread, so quick and free of locks held for long."""

    def answered(self, request: Answered) -> None:
        """Note that a request has been answered."""

    def folded(self, fold: Fold) -> None:
        """Note that folding has ended, with success or without."""


class Observed:
    """ASGI layer outside all others that tells observers of each request.

    Args:
        observers: whom to tell. If one fails, that is logged, and the answer is not touched.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at, began = time.time(), time.perf_counter()
        status = received = sent = 0
        request_id = ""

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = next((v.decode() for k, v in message["headers"] if k == b"x-request-id"), "")
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            notes: dict[str, Any] = scope.get(NOTES, {})
            body: Body | None = scope.get(BODY)
            if "federation" in notes:  # whoever has proved nothing may name any round
                notes = ids_in(scope.get("path_params", {})) | notes
            answered = Answered(
                began_at=began_at,
                seconds=time.perf_counter() - began,
                method=scope["method"] if scope["method"] in METHODS else "other",
                route=getattr(scope.get("route"), "path", "-"),
                status=status,
                received=received if body is None else body.taken,
                sent=sent,
                request_id=request_id,
                federation=notes.get("federation", ""),
                member=notes.get("member", ""),
                round_id=notes.get("round_id", ""),
                reason=notes.get("reason", "internal" if status == 500 else ""),
                source=(scope.get("client") or ("",))[0],
                claimed=notes.get("claimed", ""),
            )
            for observer in self._observers:
                try:
                    observer.answered(answered)
                except Exception as error:
                    log(logging.ERROR, "monitoring failed", error=error)
