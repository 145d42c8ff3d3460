"""Sums: all parts from one on, or one of them, with ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from he_agg.errors import Reason
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Section
from he_agg.protocol.http_signatures import known_digest_field
from service.aggregator import Aggregator
from service.core.find import find_round
from service.domain.events import Phase
from service.http.auth import Caller
from service.http.routes.common import RoundPath, Running, SiteCaller, etag, tag_matches
from service.problems import answers
from service.refusal import RefusedError
from service.store.base import Transaction
from service.store.parts.base import SUM, PartKey, PartStore
from service.store.rows import RoundRow

__all__ = ["router"]

router = APIRouter(tags=["sums"])


_PIECE_BYTES = 2**20
"""Read from a file at a time: each piece costs two changes of thread, and Starlette's own are 64 KiB."""


class _PartResponse(FileResponse):
    chunk_size = _PIECE_BYTES


@router.get(
    "/v1/rounds/{round_id}/sum/{section}/parts/{n}",
    summary="One part of the sum",
    response_class=Response,
    responses={
        200: {"description": "The part as FORMAT.md says.", "content": {"application/octet-stream": {}}},
        206: {"description": "The range that was asked for."},
        304: {"description": "The caller has it already (If-None-Match)."},
        416: {"description": "There are no such bytes."},
        **answers(
            Reason.UNKNOWN_ROUND, Reason.UNKNOWN_PART, Reason.SUM_NOT_READY, Reason.SUM_GONE, Reason.ROUND_FAILED
        ),
    },
)
async def sum_part(
    request: Request,
    round_id: RoundPath,
    section: Annotated[int, Path(description="Index of the section in the plan.", examples=[0])],
    n: Annotated[int, Path(description="Index of the part within the section.", examples=[0])],
    caller: SiteCaller,
    aggregator: Running,
) -> Response:
    """Return a part of the sum. The ETag is its SHA-256 and survives restarts, so downloads resume.

    `Repr-Digest` always names the whole part; `Content-Digest` is given where the answer is the whole part.
    """
    path, digest = await run_in_threadpool(_find, aggregator, caller, round_id, section, n)
    headers = {"ETag": etag(digest), "Repr-Digest": known_digest_field(digest)}
    if tag_matches(request, digest):
        return Response(status_code=304, headers=headers)
    if "range" not in request.headers or request.headers.get("if-range", etag(digest)) != etag(digest):
        headers["Content-Digest"] = known_digest_field(digest)
    return _PartResponse(path, headers=headers, media_type="application/octet-stream")


@router.get(
    "/v1/rounds/{round_id}/sum",
    summary="The sum, from one of its parts on",
    response_class=Response,
    responses={
        200: {
            "description": "The parts as FORMAT.md says, one after another.",
            "content": {"application/octet-stream": {}},
        },
        **answers(
            Reason.UNKNOWN_ROUND, Reason.UNKNOWN_PART, Reason.SUM_NOT_READY, Reason.SUM_GONE, Reason.ROUND_FAILED
        ),
    },
)
async def sum_from(
    round_id: RoundPath,
    caller: SiteCaller,
    aggregator: Running,
    first: Annotated[int, Query(alias="from", description="The first part to send.")] = 0,
) -> Response:
    """Return all parts of the sum from one on. The record names the SHA-256 of each."""
    parts = await run_in_threadpool(_find_all, aggregator, caller, round_id, first)
    headers = {"Content-Length": str(sum(size for _, size in parts))}
    pieces = _pieces(aggregator.part_store, parts)
    return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")


def _pieces(part_store: PartStore, parts: Sequence[tuple[PartKey, int]]) -> Iterator[bytes]:
    for key, size in parts:
        # An error closes the connection; uvicorn leaves it open for an answer that is too short.
        yield from part_store.stream(key, size)


def _find_all(aggregator: Aggregator, caller: Caller, round_text: str, first: int) -> Sequence[tuple[PartKey, int]]:
    with aggregator.store.read() as tx:
        row, plan = _round_and_plan(tx, caller, round_text)
        places = plan.places[first:] if first >= 0 else ()
        if not places:
            raise RefusedError(
                Reason.UNKNOWN_PART,
                f"expected a part number from 0 to {len(plan.places) - 1}, got {max(-1, min(first, 10**9))}",
            )
        _check_published(row)
    return [(PartKey(row.id, SUM, place.number), place.wire_bytes) for place in places]


def _find(aggregator: Aggregator, caller: Caller, round_text: str, section: int, index: int) -> tuple[str, str]:
    with aggregator.store.read() as tx:
        row, plan = _round_and_plan(tx, caller, round_text)
        number = _number(plan.sections, section, index)
        _check_published(row)
        digest = tx.sum_digests(row.id)[number]
    return str(aggregator.part_store.path(PartKey(row.id, SUM, number))), digest  # type: ignore[attr-defined]


def _round_and_plan(tx: Transaction, caller: Caller, round_text: str) -> tuple[RoundRow, PublicPlan]:
    row = find_round(tx, caller.federation, round_text)
    federation = tx.federation(caller.federation)
    if federation is None:
        raise RefusedError(Reason.UNKNOWN_ROUND, f"there is no round {row.id} here")
    return row, federation.parsed.plan


def _check_published(row: RoundRow) -> None:
    if row.phase is Phase.FAILED:
        raise RefusedError(
            Reason.ROUND_FAILED,
            f"round {row.id} failed and has no sum",
            "go on with the next attempt",
            round_id=str(row.id),
        )
    if row.phase is not Phase.PUBLISHED:
        raise RefusedError(
            Reason.SUM_NOT_READY,
            f"round {row.id} is {row.phase}; its sum is not there yet",
            "wait for the record: GET /v1/rounds/{round}/record?wait=30",
            round_id=str(row.id),
        )
    if row.sum_scrubbed:
        raise RefusedError(
            Reason.SUM_GONE,
            f"the sum of round {row.id} is not kept any longer",
            "newer sums are: GET /v1/federations/{federation}/rounds/current names the newest",
            round_id=str(row.id),
        )


def _number(sections: tuple[Section, ...], section: int, index: int) -> int:
    if 0 <= section < len(sections) and 0 <= index < sections[section].parts:
        return sum(s.parts for s in sections[:section]) + index
    raise RefusedError(Reason.UNKNOWN_PART, "the plan has no part of that section and index")
