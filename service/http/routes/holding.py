"""Take and serve what holders say about a published record: echoes, answers and complaints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.holding import MAX_ANSWER_BYTES, MAX_COMPLAINT_BYTES, MAX_ECHO_BYTES
from he_agg.documents.roster import Role
from he_agg.errors import Reason
from service.core.find import require_sum
from service.core.holding import accept_answer, accept_complaint, accept_echo, find_held, has_quorum
from service.http.auth import Caller, member_of
from service.http.routes.common import (
    DOCUMENT,
    HolderPath,
    RoundPath,
    SendingHolder,
    Wait,
    body_of,
    poll,
    running,
    take_document,
    taken,
)
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.transaction import Transaction

__all__ = ["router"]

router = signed_router("holding")

Hearing = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR))]

_OF_A_SUM = (
    Reason.UNKNOWN_ROUND,
    Reason.SUM_NOT_READY,
    Reason.ROUND_FAILED,
    (Reason.PLAN_MISMATCH, 404),
)
_NOT_YET: dict[int | str, dict[str, Any]] = {204: {"description": "Too few have come within the wait."}}


def _own(caller: Caller, holder: str) -> None:
    if holder != caller.name:
        raise RefusedError(Reason.FORBIDDEN, f"{caller.name} cannot speak for another holder")


@router.put(
    "/v1/rounds/{round_id}/echoes/{holder}",
    summary="Say which record this holder will answer for",
    status_code=201,
    response_class=Response,
    responses={**taken("echo"), **answers(Reason.FORBIDDEN, Reason.ALREADY_EXISTS, *_OF_A_SUM, *DOCUMENT)},
    openapi_extra=body_of("The signed echo, by the holder."),
)
async def put_echo(
    request: Request,
    round_id: RoundPath,
    holder: HolderPath,
    caller: SendingHolder,
) -> Response:
    """Store a holder's echo of the published record, once for each round. It never changes."""
    aggregator = running(request)
    _own(caller, holder)

    def accept(tx: Transaction, document: bytes) -> bool:
        return accept_echo(tx, aggregator.conductor, caller.federation, round_id, document, holder)

    def enough(tx: Transaction) -> bool:
        row, holders = find_held(tx, caller.federation, round_id)
        return len(tx.echoed(row.id)) == holders.thresholds.quorum  # further ones are no news to anybody who waits

    return await take_document(request, caller, MAX_ECHO_BYTES, accept, enough)


@router.get(
    "/v1/rounds/{round_id}/echoes",
    summary="Which holders have seen the record",
    response_class=Response,
    responses={
        200: {"description": "The signed echoes, sorted by holder.", "content": {"application/json": {}}},
        **_NOT_YET,
        **answers(*_OF_A_SUM),
    },
)
async def echoes(request: Request, round_id: RoundPath, caller: Hearing, wait: Wait = 0) -> Response:
    """Return the echoes as soon as there are so many that a holder may answer."""
    aggregator = running(request)

    def look() -> list[bytes] | None:
        with aggregator.store.read() as tx:
            row, holders = find_held(tx, caller.federation, round_id)
            require_sum(row)
            return tx.echoes(row.id) if has_quorum(tx, row, holders) else None

    found = await poll(aggregator, wait, look, lambda seen: seen is not None)
    return Response(status_code=204) if found is None else _json(b'{"echoes":[' + b",".join(found) + b'],"v":1}')


@router.put(
    "/v1/rounds/{round_id}/answers/{holder}",
    summary="Give this holder's share of the sum of keys",
    status_code=201,
    response_class=Response,
    responses={
        **taken("answer"),
        **answers(Reason.FORBIDDEN, Reason.ALREADY_EXISTS, Reason.RESIDUE_OUT_OF_RANGE, *_OF_A_SUM, *DOCUMENT),
    },
    openapi_extra=body_of("The signed answer, by the holder."),
)
async def put_answer(
    request: Request,
    round_id: RoundPath,
    holder: HolderPath,
    caller: SendingHolder,
) -> Response:
    """Store a holder's answer, once enough have echoed the record. The one that makes enough settles the round."""
    aggregator = running(request)
    _own(caller, holder)

    def accept(tx: Transaction, document: bytes) -> bool:
        return accept_answer(tx, aggregator.conductor, caller.federation, round_id, document, holder)

    def enough(tx: Transaction) -> bool:
        row, holders = find_held(tx, caller.federation, round_id)
        return len(tx.answered(row.id)) >= holders.thresholds.threshold

    return await take_document(request, caller, MAX_ANSWER_BYTES, accept, enough)


@router.get(
    "/v1/rounds/{round_id}/answers",
    summary="What gives the sum of keys back",
    response_class=Response,
    responses={
        200: {
            "description": "The signed echoes and answers, each sorted by holder.",
            "content": {"application/json": {}},
        },
        **_NOT_YET,
        **answers(*_OF_A_SUM),
    },
)
async def answers_(
    request: Request,
    round_id: RoundPath,
    caller: Hearing,
    wait: Wait = 0,
    more_than: Annotated[int, Query(ge=0, le=10**3, description="How many answers the caller knows.")] = 0,
) -> Response:
    """Return echoes and answers as soon as there are so many answers that a sum opens, and more than the caller has."""
    aggregator = running(request)

    def look() -> tuple[list[bytes], list[bytes]] | None:
        with aggregator.store.read() as tx:
            row, holders = find_held(tx, caller.federation, round_id)
            require_sum(row)
            many = len(tx.answered(row.id))
            enough = many >= holders.thresholds.threshold and many > more_than
            return (tx.answers(row.id), tx.echoes(row.id)) if enough else None

    found = await poll(aggregator, wait, look, lambda seen: seen is not None)
    if found is None:
        return Response(status_code=204)
    return _json(b'{"answers":[' + b",".join(found[0]) + b'],"echoes":[' + b",".join(found[1]) + b'],"v":1}')


@router.put(
    "/v1/rounds/{round_id}/complaints/{holder}.{dealer}",
    summary="Complain of a member's dealing",
    status_code=201,
    response_class=Response,
    responses={**taken("complaint"), **answers(Reason.FORBIDDEN, Reason.ALREADY_EXISTS, *_OF_A_SUM, *DOCUMENT)},
    openapi_extra=body_of("The signed complaint, by the holder."),
)
async def put_complaint(
    request: Request,
    round_id: RoundPath,
    holder: HolderPath,
    dealer: Annotated[str, Path(description="Name of the member that dealt.", examples=["hospital-b"])],
    caller: SendingHolder,
) -> Response:
    """Store a holder's complaint, once for each round and dealer. It never changes."""
    aggregator = running(request)
    _own(caller, holder)

    def accept(tx: Transaction, document: bytes) -> bool:
        return accept_complaint(tx, aggregator.conductor, caller.federation, round_id, document, holder, dealer)

    return await take_document(request, caller, MAX_COMPLAINT_BYTES, accept)


@router.get(
    "/v1/rounds/{round_id}/complaints",
    summary="Which dealings holders complain of",
    response_class=Response,
    responses={
        200: {"description": "The signed complaints, by holder and dealer.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_ROUND, (Reason.PLAN_MISMATCH, 404)),
    },
)
async def complaints(request: Request, round_id: RoundPath, caller: Hearing) -> Response:
    """Return the complaints that are here; more may come."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            row, _ = find_held(tx, caller.federation, round_id)
            return b'{"complaints":[' + b",".join(tx.complaints(row.id)) + b'],"v":1}'

    return _json(await run_in_threadpool(look))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
