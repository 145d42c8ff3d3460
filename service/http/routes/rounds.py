"""Rounds: which one is open."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from he_agg.documents.roster import Role
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.protocol.messages import CurrentRound
from service.aggregator import Aggregator
from service.domain.events import Phase, Stage
from service.domain.submissions import State
from service.http.auth import Caller, member_of
from service.http.routes.common import FederationPath, Running, Wait, find_federation, poll
from service.problems import answers
from service.refusal import RefusedError

__all__ = ["router"]

router = APIRouter(tags=["rounds"])

Watching = Annotated[Caller, Depends(member_of(Role.SITE, Role.OPERATOR))]


@router.get(
    "/v1/federations/{federation}/rounds/current",
    summary="Where the federation stands, for the calling site",
    responses=answers(),
)
async def current(
    federation: FederationPath,
    caller: Watching,
    aggregator: Running,
    wait: Wait = 0,
    after: Annotated[
        str | None,
        Query(description="The round that the caller knows already; an open one with this id is not reported again."),
    ] = None,
) -> CurrentRound:
    """Return the open round, at once if its id is not `after` or if the federation has ended.

    Otherwise it answers after `wait` seconds with what is true then. For sites and operators.
    """
    if federation != caller.federation:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, "this is not the caller's federation")
    if after is not None:
        try:
            RoundId.parse(after)
        except WireError as error:
            raise RefusedError(Reason.BAD_REQUEST, f"after: {error.message}") from None

    def news(answer: CurrentRound) -> bool:
        return answer.stage == "ended" or answer.round_id not in (None, after)

    return await poll(aggregator, wait, lambda: _current(aggregator, caller), news)


def _current(aggregator: Aggregator, caller: Caller) -> CurrentRound:
    now = aggregator.conductor.now()
    with aggregator.conductor.reading(caller.federation) as tx:
        row = find_federation(tx, caller, caller.federation)
        newest, epoch = tx.newest_round(row.name), tx.newest_epoch(row.name)
        last, roster = tx.last_published(row.name), tx.newest_roster(row.name)
        answer = CurrentRound(
            federation=row.name,
            stage=row.stage.value,
            epoch=epoch.number,
            key_id=epoch.key_id,
            plan_id=row.parsed.plan.plan_id,
            last_published=None if last is None else str(last),
            records=tx.chain_head(row.name).index,
            roster_version=roster.version,
        )
        if row.stage is not Stage.RUNNING or newest is None or newest.phase is not Phase.OPEN:
            return answer
        submission = tx.submission_of(newest.id, caller.name)
        return replace(
            answer,
            round_id=str(newest.id),
            number=newest.id.number,
            attempt=newest.id.attempt,
            opened_at=newest.opened_at,
            deadline_at=newest.deadline_at,
            remaining_s=max(0, int(newest.deadline_at - now)),
            invited=caller.name in tx.invited(newest.id),
            submitted=submission is not None and submission.state is State.COMPLETE,
        )
