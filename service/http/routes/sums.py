"""Sums: all parts from one on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from he_agg.errors import Reason
from service.aggregator import Aggregator
from service.core.find import federation_named, find_round, require_sum
from service.http.auth import Caller
from service.http.routes.common import RoundPath, SiteCaller, running
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.parts.base import SUM, PartKey, PartLostError

__all__ = ["router"]

router = signed_router("sums")


_MEDIA_TYPE = "application/octet-stream"

_AT_ONCE_BYTES = 2**18
"""A sum that is as short is read where its rows are: each part of a stream costs a change of thread."""


_PIECE_BYTES = 2**20
"""What lies in memory is handed to the connection so much at a time: TLS copies what it is given."""


@router.get(
    "/v1/rounds/{round_id}/sum",
    summary="The sum, from one of its parts on",
    response_class=Response,
    responses={
        200: {
            "description": "The parts as FORMAT.md says, one after another.",
            "content": {_MEDIA_TYPE: {}},
        },
        **answers(
            Reason.UNKNOWN_ROUND, Reason.UNKNOWN_PART, Reason.SUM_NOT_READY, Reason.SUM_GONE, Reason.ROUND_FAILED
        ),
    },
)
async def sum_from(
    request: Request,
    round_id: RoundPath,
    caller: SiteCaller,
    first: Annotated[int, Query(alias="from", description="The first part to send.")] = 0,
) -> Response:
    """Return all parts of the sum from one on. The record names the SHA-256 of each."""
    aggregator = running(request)
    return await run_in_threadpool(_answer, aggregator, caller, round_id, first)


def _answer(aggregator: Aggregator, caller: Caller, round_id: str, first: int) -> Response:
    parts = _find(aggregator, caller, round_id, first)
    length = sum(size for _, size in parts)
    if length <= _AT_ONCE_BYTES:
        with contextlib.suppress(PartLostError):
            body = b"".join(aggregator.made_sums.find(key) or aggregator.part_store.read(key) for key, _ in parts)
            if len(body) == length:
                return Response(body, media_type=_MEDIA_TYPE)
    pieces = _pieces(aggregator, parts)
    return StreamingResponse(pieces, headers={"Content-Length": str(length)}, media_type=_MEDIA_TYPE)


async def _pieces(aggregator: Aggregator, parts: Sequence[tuple[PartKey, int]]) -> AsyncIterator[memoryview]:
    for key, size in parts:
        if (made := aggregator.made_sums.find(key)) is not None:
            for begin in range(0, size, _PIECE_BYTES):
                yield made[begin : begin + _PIECE_BYTES]
            continue
        # An error closes the connection; uvicorn leaves it open for an answer that is too short.
        async for piece in aggregator.part_store.stream(key, size):
            yield piece


def _find(aggregator: Aggregator, caller: Caller, round_text: str, first: int) -> Sequence[tuple[PartKey, int]]:
    with aggregator.store.read() as tx:
        row = find_round(tx, caller.federation, round_text)
        plan = federation_named(tx, caller.federation).parsed.plan
        places = plan.places[first:]
        if not places:
            raise RefusedError(
                Reason.UNKNOWN_PART,
                f"expected a part number from 0 to {len(plan.places) - 1}, got {first}",
            )
        require_sum(row)
        if row.sum_scrubbed:
            raise RefusedError(
                Reason.SUM_GONE,
                f"the sum of round {row.id} is not kept any longer",
                "newer ones are: GET /v1/federations/{federation}/records/{index} says of which rounds",
                round_id=str(row.id),
            )
    return [(PartKey(row.id, SUM, place.number), place.wire_bytes) for place in places]
