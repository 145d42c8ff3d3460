"""Let operators pause, resume and skip from the page, as `he-agg federation` does; viewers are refused, and told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from he_agg.errors import HeAggError, Reason
from service.aggregator import Aggregator
from service.audit_events.event import acting
from service.core.conductor import Conductor
from service.logs import ids_in
from service.monitor.dashboard.entrance import Entrance, refusal, source
from service.monitor.dashboard.sessions import Session
from service.monitor.monitoring import Watching
from service.store.sql import Store

__all__ = ["Action", "action_route"]

Action = Callable[[Store, Conductor, str], None]
"""Does something with a federation of that name, or raises an error that says why not."""


def action_route(
    aggregator: Aggregator, entrance: Entrance, watching: Watching, actions: Mapping[str, Action]
) -> Route:
    """Make the route of what can be done with a federation.

    A page from elsewhere cannot send such a request: the cookie goes with requests of this page only, and the type of
    the body is one that a form has not.
    """

    async def act(request: Request) -> Response:
        federation, action = request.path_params["federation"], request.path_params["action"]
        session = entrance.session(request)
        if session is None:
            return refusal(401, "sign in first")
        if request.headers.get("content-type", "") != "application/json":
            return refusal(415, "expected application/json")
        if action not in actions:
            return refusal(404, f"expected one of {', '.join(actions)}")
        if not session.may_act:
            watching.repeats.tell(
                "operator.refused",
                by=session.by,
                via="page",
                federation=ids_in(request.path_params).get("federation"),
                action=action,
                source=source(request),
            )
            return refusal(403, f"{action} is for operators, and you are signed in as a viewer")
        try:
            await run_in_threadpool(partial(_act, aggregator, session, federation, actions[action]))
        except HeAggError as error:
            return refusal(404 if error.reason is Reason.UNKNOWN_FEDERATION else 409, error.message)
        aggregator.worker.poke()
        return Response(status_code=204)

    return Route("/federations/{federation}/{action}", act, methods=["POST"])


def _act(aggregator: Aggregator, session: Session, federation: str, action: Action) -> None:
    with acting(session.by, "page"):
        action(aggregator.store, aggregator.conductor, federation)
