"""Rounds: which one is open, and the record of one that has ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.messages import CurrentRound
from service.aggregator import Aggregator
from service.auth import Caller, SiteCaller
from service.intake import find_round
from service.problems import answers
from service.refusal import RefusedError
from service.rounds import Phase, Stage
from service.routes.common import Running, Wait, etag, poll, tag_matches
from service.store.base import RoundRow

__all__ = ["RoundPath", "router"]

router = APIRouter(tags=["rounds"])

RoundPath = Annotated[str, Path(description="Round id: `federation.number.attempt`.", examples=["stroke.3.1"])]


@router.get(
    "/v1/federations/{federation}/rounds/current",
    summary="Where the federation stands, for the calling site",
    responses=answers(Reason.UNKNOWN_FEDERATION),
)
async def current(
    federation: Annotated[str, Path(description="Name of the federation.", examples=["stroke"])],
    caller: SiteCaller,
    aggregator: Running,
    wait: Wait = 0,
    after: Annotated[
        str | None,
        Query(description="The round that the caller knows already; an open one with this id is no news."),
    ] = None,
) -> CurrentRound:
    """Answers at once when a round is open whose id is not `after`, or when the federation has ended.

    Otherwise it answers after `wait` seconds with what is true then.
    """
    if federation != caller.federation:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, "this is not the caller's federation")
    if after is not None:
        try:
            RoundId.parse(after)
        except WireError as error:
            raise RefusedError(Reason.BAD_REQUEST, f"after: {error.message}") from None

    def news(answer: CurrentRound) -> bool:
        return answer.state == "ended" or (answer.state == "open" and answer.round_id != after)

    return await poll(aggregator, wait, lambda: _current(aggregator, caller), news)


@router.get(
    "/v1/rounds/{round_id}/record",
    summary="The record of a round that has ended",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the record.", "content": {"application/json": {}}},
        204: {"description": "The round has not ended within the wait, or waits for a part of this site."},
        304: {"description": "The caller has it already (If-None-Match)."},
        **answers(Reason.UNKNOWN_ROUND),
    },
)
async def record(
    request: Request, round_id: RoundPath, caller: SiteCaller, aggregator: Running, wait: Wait = 0
) -> Response:
    """The closed set behind a sum and the digests of the sum's parts, or why there is no sum. It never changes."""

    def look() -> tuple[RoundRow, bool]:
        aggregator.conductor.tick(caller.federation)
        with aggregator.store.read() as tx:
            row = find_round(tx, caller.federation, round_id)
            return row, any(part.site == caller.site for part in tx.damaged(row.id))

    # A site that has to send a part again hears it at once: its submission's status names the part.
    row, _ = await poll(aggregator, wait, look, lambda seen: seen[0].record is not None or seen[1])
    if row.record is None or row.record_digest is None:
        return Response(status_code=204)
    headers = {"ETag": etag(row.record_digest)}
    if tag_matches(request, row.record_digest):
        return Response(status_code=304, headers=headers)
    return Response(row.record, headers=headers, media_type="application/json")


def _current(aggregator: Aggregator, caller: Caller) -> CurrentRound:
    aggregator.conductor.tick(caller.federation)
    now = aggregator.conductor.now()
    with aggregator.store.read() as tx:
        row = tx.federation(caller.federation)
        if row is None:
            raise RefusedError(Reason.UNKNOWN_FEDERATION, f"there is no federation {caller.federation} here")
        document = row.parsed
        newest = tx.newest_round(row.name)
        last = tx.last_published(row.name)
        last_published = None if last is None else str(last)
        if row.stage is not Stage.RUNNING or newest is None or newest.phase is not Phase.OPEN:
            return CurrentRound(
                federation=row.name,
                state={Stage.ENDED: "ended", Stage.PAUSED: "paused"}.get(row.stage, "waiting"),
                epoch=document.epoch,
                key_id=document.key_id,
                plan_id=document.plan.plan_id,
                last_published=last_published,
            )
        submission = tx.submission_of(newest.id, caller.site)
        return CurrentRound(
            federation=row.name,
            state="open",
            epoch=document.epoch,
            key_id=document.key_id,
            plan_id=document.plan.plan_id,
            round_id=str(newest.id),
            number=newest.id.number,
            attempt=newest.id.attempt,
            opened_at=newest.opened_at,
            deadline_at=newest.deadline_at,
            remaining_s=max(0, int(newest.deadline_at - now)),
            invited=caller.site in tx.invited(newest.id),
            submitted=submission is not None and submission.state == "complete",
            last_published=last_published,
        )
