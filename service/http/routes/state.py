"""Serve the federation's state: the one thing that members poll."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from he_agg.documents.roster import Role
from service.core.state import SignedState
from service.http.auth import Caller, member_of
from service.http.routes.common import FederationPath, Wait, etag, find_federation, poll, running
from service.http.signed_route import signed_router
from service.problems import answers

__all__ = ["router"]

router = signed_router("state")

Watching = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR, Role.OPERATOR))]


@router.get(
    "/v1/federations/{federation}/state",
    summary="Where the federation stands, signed",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed state.", "content": {"application/json": {}}},
        **answers(),
    },
)
async def state(
    request: Request,
    federation: FederationPath,
    caller: Watching,
    wait: Wait = 0,
    after: Annotated[
        str | None,
        Query(
            pattern="^[0-9a-f]{64}$",
            description="SHA-256 of the state that the caller knows: it waits for another one.",
        ),
    ] = None,
) -> Response:
    """Return the state, the same bytes for every member, at once if their SHA-256 is not `after`.

    Otherwise it answers when the state changes, or after `wait` seconds with the same one again.
    """
    aggregator = running(request)

    def look() -> SignedState:
        with aggregator.conductor.reading(caller.federation) as tx:
            return aggregator.states.of(tx, find_federation(tx, caller, federation))

    found = await poll(aggregator, wait, look, lambda seen: seen.digest != after)
    return Response(found.document, headers={"ETag": etag(found.digest)}, media_type="application/json")
