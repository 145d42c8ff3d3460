"""Verdicts: what sites say about the sums that they are in."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.roster import Role
from he_agg.documents.verdict import MAX_VERDICT_BYTES
from he_agg.errors import Reason
from service.core.find import find_round
from service.core.verdicts import accept_verdict
from service.http.auth import Caller, member_of
from service.http.routes.common import (
    DOCUMENT,
    RoundPath,
    SendingSite,
    body_of,
    running,
    take_document,
    taken,
)
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.transaction import Transaction

__all__ = ["router"]

router = signed_router("verdicts")

Checking = Annotated[Caller, Depends(member_of(Role.SITE, Role.COORDINATOR, Role.AUDITOR, Role.OPERATOR))]


@router.put(
    "/v1/rounds/{round_id}/verdicts/{site}",
    summary="Say whether this site could open the sum",
    status_code=201,
    response_class=Response,
    responses={
        **taken("verdict"),
        **answers(Reason.UNKNOWN_ROUND, Reason.SUM_NOT_READY, Reason.ROUND_FAILED, Reason.ALREADY_EXISTS, *DOCUMENT),
    },
    openapi_extra=body_of("The signed verdict, by the site."),
)
async def put_verdict(
    request: Request,
    round_id: RoundPath,
    site: Annotated[str, Path(description="Name of the calling site.", examples=["hospital-a"])],
    caller: SendingSite,
) -> Response:
    """Store a site's signed word on a sum that it is in, once for each round. It never changes."""
    aggregator = running(request)
    if site != caller.name:
        raise RefusedError(Reason.FORBIDDEN, f"{caller.name} cannot judge for another site")

    def accept(tx: Transaction, document: bytes) -> bool:
        row = find_round(tx, caller.federation, round_id)
        return accept_verdict(tx, row, document, site, int(aggregator.conductor.now()))

    return await take_document(request, caller, MAX_VERDICT_BYTES, accept)


@router.get(
    "/v1/rounds/{round_id}/verdicts",
    summary="What sites have said about the sum",
    response_class=Response,
    responses={
        200: {"description": "The signed verdicts, sorted by site.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_ROUND),
    },
)
async def verdicts(request: Request, round_id: RoundPath, caller: Checking) -> Response:
    """Return the verdicts that are here; more may come."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            found = tx.verdict_documents(find_round(tx, caller.federation, round_id).id)
        return b'{"v":1,"verdicts":[' + b",".join(found) + b"]}"

    return Response(await run_in_threadpool(look), media_type="application/json")
