"""Submissions: announce, put parts, one by one or all that are left, look, complete."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.errors import Reason
from he_agg.protocol.http_signatures import known_digest_field, manifest_field
from he_agg.protocol.messages import Receipt, SubmissionStatus
from service.core.parts import ExpectedPart, Parts, in_groups
from service.http.bodies import (
    BodyReader,
    announced_length,
    check_body,
    check_names_manifest,
    content_digest,
    read_body,
)
from service.http.routes.common import Limited, RoundPath, Running, SendingSite, SiteCaller, read_document
from service.limits import Limits
from service.logs import note
from service.problems import answers
from service.refusal import RefusedError

__all__ = ["router"]

router = APIRouter(tags=["submissions"])

Taken = TypeVar("Taken")

SubmissionPath = Annotated[str, Path(description="Submission id: SHA-256 of the signed manifest, in hex.")]
PartPath = Annotated[int, Path(description="Number of the part, from 0 through all sections.", examples=[0])]

_MANIFEST_EXAMPLE = {
    "body": {
        "attempt": 1,
        "epoch": 1,
        "federation": "stroke",
        "key_id": "5d" * 32,
        "nonce": "00" * 16,
        "parts": ["ab" * 32],
        "plan_id": "c0" * 32,
        "previous": "7e" * 32,
        "roster": "a5" * 32,
        "round": 3,
        "site": "hospital-a",
        "tags": [["17", "4"]],
        "v": 2,
    },
    "kind": "manifest",
    "signatures": {"hospital-a": "0f" * 64},
    "v": 1,
}
_CONTENT = (
    Reason.LENGTH_REQUIRED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.BAD_DIGEST,
    Reason.BAD_FIELD,
    Reason.PLAN_MISMATCH,
    Reason.SECRET_REFUSED,
    Reason.TOO_SLOW,
)
_PARTS = (
    Reason.BAD_MAGIC,
    Reason.BAD_VERSION,
    Reason.BAD_PADDING,
    Reason.RESIDUE_OUT_OF_RANGE,
    Reason.STORAGE_FULL,
    *_CONTENT,
)


def _body(media_type: str, description: str, **more: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": {media_type: more}}}


def _digest_header(description: str, example: str) -> dict[str, Any]:
    header = {"name": "Content-Digest", "in": "header", "required": True, "description": description}
    return {"parameters": [{**header, "schema": {"type": "string"}, "example": example}]}


@router.post(
    "/v1/rounds/{round_id}/submissions",
    summary="Announce a submission by its manifest",
    status_code=201,
    response_model=SubmissionStatus,
    responses={
        200: {"description": "The same manifest was announced before.", "model": SubmissionStatus},
        **answers(
            Reason.UNKNOWN_ROUND,
            Reason.NOT_INVITED,
            Reason.FORBIDDEN,
            Reason.ROUND_CLOSED,
            Reason.SECOND_SUBMISSION,
            Reason.NOT_CANONICAL,
            Reason.KEY_MISMATCH,
            Reason.BAD_SIGNATURE,
            Reason.ROSTER_MISMATCH,
            Reason.CHAIN_MISMATCH,
            Reason.STORAGE_FULL,
            Reason.QUOTA_EXCEEDED,
            *_CONTENT,
        ),
    },
    openapi_extra=_body(
        "application/json",
        "The signed manifest in canonical JSON; its SHA-256 becomes the submission's id.",
        schema={"type": "object"},
        example=_MANIFEST_EXAMPLE,
    ),
)
async def announce(
    request: Request,
    response: Response,
    round_id: RoundPath,
    caller: SendingSite,
    aggregator: Running,
    limits: Limited,
) -> SubmissionStatus:
    """Announce a submission: 201 when it is new, 200 when the very same bytes were announced before.

    A different manifest of the same site for the same attempt is refused; the first one stays.
    """
    announced_length(request, at_most=MAX_MANIFEST_BYTES)
    async with limits.body():
        body = await read_document(request, limits, MAX_MANIFEST_BYTES)
        intake = aggregator.intake
        status, new = await run_in_threadpool(intake.announce, caller.federation, caller.name, round_id, body)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/submissions/{status.id}"
    return status


@router.put(
    "/v1/submissions/{submission_id}/parts/{n}",
    summary="Put one part",
    status_code=201,
    response_class=Response,
    responses={
        201: {"description": "Stored, durably."},
        204: {"description": "It was stored before."},
        **answers(
            Reason.UNKNOWN_SUBMISSION,
            Reason.UNKNOWN_PART,
            Reason.ROUND_CLOSED,
            *_PARTS,
        ),
    },
    openapi_extra={
        **_body(
            "application/octet-stream",
            "The part as FORMAT.md says, of exactly the plan's length. No Content-Encoding.",
            schema={"type": "string", "format": "binary"},
        ),
        **_digest_header(
            "RFC 9530, as with every request; here the digest that the manifest names for this part.",
            known_digest_field("00" * 32),
        ),
    },
)
async def put_part(
    request: Request,
    submission_id: SubmissionPath,
    n: PartPath,
    caller: SendingSite,
    aggregator: Running,
    limits: Limited,
) -> Response:
    """Store a part; in any order, at the same time and again. Once answered with 201 it is durable."""
    part = await run_in_threadpool(aggregator.parts.expect, caller.federation, caller.name, submission_id, n)
    note(request.scope, round_id=str(part.submission.round_id))
    expected = part.place.wire_bytes
    length = announced_length(request, at_most=expected)
    if length < expected:
        raise RefusedError(Reason.TRUNCATED, f"part {n}: expected {expected} bytes, got {length} announced")
    named = content_digest(request)
    if named != part.digest:
        raise RefusedError(
            Reason.BAD_DIGEST,
            f"part {n}: expected Content-Digest {part.digest[:12]} as in the manifest, got {named[:12]}",
            "send the bytes that the manifest was made of",
        )
    async with limits.body():
        # A repeated part is read to its end all the same: proxies and simple clients do not expect an early answer.
        body = await read_body(request, expected, limits.time_for(expected))
        new = await run_in_threadpool(_take, aggregator.parts, part, body)
    return Response(status_code=201 if new else 204)


def _take(parts: Parts, part: ExpectedPart, body: bytearray) -> bool:
    check_body(body, part.digest)
    return not part.stored and parts.store(part, memoryview(body))


@router.put(
    "/v1/submissions/{submission_id}",
    summary="Put consecutive parts; with the last one, get the receipt",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed receipt.", "content": {"application/json": {}}},
        204: {"description": "These parts are stored, durably; parts after them are not in the body."},
        **answers(
            Reason.UNKNOWN_SUBMISSION,
            Reason.UNKNOWN_PART,
            Reason.INCOMPLETE,
            Reason.ROUND_CLOSED,
            *_PARTS,
        ),
    },
    openapi_extra={
        **_body(
            "application/octet-stream",
            "Whole parts one after another, in order. No Content-Encoding.",
            schema={"type": "string", "format": "binary"},
        ),
        **_digest_header(
            "The digest of the manifest, which is the submission's id and names that of each part.",
            manifest_field("00" * 32),
        ),
    },
)
async def put_run(
    request: Request,
    submission_id: SubmissionPath,
    caller: SendingSite,
    aggregator: Running,
    limits: Limited,
    first: Annotated[int, Query(alias="from", description="The first part in the body.")] = 0,
) -> Response:
    """Put each of these parts, and complete the submission if the last part is one of them.

    Each part is stored as soon as it is here, and the request may be repeated. After an interruption `GET` says what is
    missing.
    """
    found = await run_in_threadpool(aggregator.parts.expect_from, caller.federation, caller.name, submission_id, first)
    note(request.scope, round_id=str(found[0].submission.round_id))
    run = _announced_run(request, found)
    check_names_manifest(request, found[0].submission.id)
    reader = BodyReader(request)
    *others, last = in_groups(run)
    for group in others:
        await _take_next(limits, reader, group, aggregator.intake.take, last=False)
    if len(run) < len(found):
        await _take_next(limits, reader, last, aggregator.intake.take, last=True)
        return Response(status_code=204)
    receipt = await _take_next(limits, reader, last, aggregator.intake.take_last, last=True)
    aggregator.worker.poke()
    return Response(receipt.encode(), media_type="application/json")


def _announced_run(request: Request, parts: Sequence[ExpectedPart]) -> Sequence[ExpectedPart]:
    """Return as many of these parts as a body of the announced length holds, to the end of one."""
    ends = list(itertools.accumulate(part.place.wire_bytes for part in parts))
    length = announced_length(request, at_most=ends[-1])
    if length not in ends:
        raise RefusedError(
            Reason.TRUNCATED, f"expected whole parts, {ends[0]} to {ends[-1]} bytes, got {length} announced"
        )
    return parts[: ends.index(length) + 1]


async def _take_next(
    limits: Limits,
    reader: BodyReader,
    group: Sequence[ExpectedPart],
    take: Callable[[Sequence[ExpectedPart], memoryview], Taken],
    *,
    last: bool,
) -> Taken:
    # Turn by turn: a long submission on a slow link keeps nobody else waiting longer than a part does.
    length = sum(part.place.wire_bytes for part in group)
    async with limits.body():
        body = await reader.read(length, limits.time_for(length), last=last)
        return await run_in_threadpool(take, group, memoryview(body))


@router.get(
    "/v1/submissions/{submission_id}",
    summary="How far a submission has come",
    responses=answers(Reason.UNKNOWN_SUBMISSION),
)
async def status(
    request: Request, submission_id: SubmissionPath, caller: SiteCaller, aggregator: Running
) -> SubmissionStatus:
    """Tell which parts are missing, to go on with an interrupted upload. A site sees its own only."""
    found = await run_in_threadpool(aggregator.intake.status, caller.federation, caller.name, submission_id)
    note(request.scope, round_id=found.round_id)
    return found


@router.post(
    "/v1/submissions/{submission_id}/complete",
    summary="Say that all parts are here, and get the receipt",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed receipt.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_SUBMISSION, Reason.INCOMPLETE, Reason.ROUND_CLOSED),
    },
)
async def complete(
    request: Request, submission_id: SubmissionPath, caller: SiteCaller, aggregator: Running
) -> Response:
    """Complete a submission. The receipt promises that it is in the sum, or the record says why not.

    Asked again, the same receipt is given again.
    """
    receipt = await run_in_threadpool(aggregator.intake.complete, caller.federation, caller.name, submission_id)
    aggregator.worker.poke()
    note(request.scope, round_id=Receipt.parse(receipt.body).round_id)
    return Response(receipt.encode(), media_type="application/json")
