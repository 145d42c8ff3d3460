"""Find out who sends a request. Only this module knows how that is proved: by a signature over its head.

The key is that of the federation's newest roster, so whoever is removed from it is a stranger from that moment on.
What is signed names the digest of the body, or of the manifest that has those of the parts in it. The routes hold the
body to that once it is here, and not one byte of it is read before the signature has been verified. A request that is
repeated within the window does nothing new, as all of them may be repeated: nonces need not be remembered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from he_agg.documents.roster import Role
from he_agg.errors import Reason, WireError
from he_agg.ids import check_name
from he_agg.protocol.http_signatures import FEDERATION_HEADER, WINDOW_S, Claim, RequestHead, parse_claim, verify_request
from service.aggregator import Aggregator
from service.http.bodies import refuse_body
from service.http.form import check_form
from service.http.held import hold
from service.http.reading import run_reading
from service.limits import KNOWN, Limits
from service.logs import note
from service.refusal import RefusedError

__all__ = ["DOCUMENTED", "Caller", "member_of"]

DOCUMENTED = {
    "signed request": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "RFC 9421, in the one form that PROTOCOL.md describes: with the fields Content-Digest, "
        "He-Agg-Federation, Signature-Input and Signature, by the key that the roster lists for the member.",
    }
}
"""For the OpenAPI page; `member_of` does the work."""

_FIELDS = ("content-digest", FEDERATION_HEADER.lower(), "signature-input", "signature")


@dataclass(frozen=True)
class Caller:
    """A member that has proved who it is."""

    federation: str
    name: str
    roles: frozenset[Role]


def member_of(*roles: Role, body: bool = False) -> Callable[[Request], Awaitable[Caller]]:
    """Make the dependency of a route: a member with one of these roles sends the request.

    Args:
        body: whether a body belongs to the request; otherwise one is refused.
    """

    async def authenticate(request: Request) -> Caller:
        limits: Limits = request.app.state.limits
        with limits.unproved():
            caller = await _authenticate(request)
        if not caller.roles & frozenset(roles):
            raise RefusedError(
                Reason.FORBIDDEN,
                f"this is for members with the role {' or '.join(roles)}; {caller.name} has "
                f"{', '.join(sorted(caller.roles)) or 'none'}",
            )
        await check_form(request)
        if not body:
            refuse_body(request)
        hold(request, limits.request(caller.federation, caller.name))
        return caller

    return authenticate


async def _authenticate(request: Request) -> Caller:
    head, claim = _read_head(request)
    aggregator: Aggregator = request.app.state.aggregator
    try:
        caller = await run_reading(aggregator, partial(_identify, aggregator, head, claim))
        if caller is None:
            # Who has proved nothing may not have older rosters read on the event loop.
            raise await run_in_threadpool(_stranger, aggregator, head, claim)
    except RefusedError:
        note(request.scope, claimed=f"{head.federation}/{claim.name}")
        raise
    if KNOWN in request.scope:
        request.scope[KNOWN]()
    note(request.scope, federation=caller.federation, member=caller.name)
    return caller


def _identify(aggregator: Aggregator, head: RequestHead, claim: Claim) -> Caller | None:
    """Return who has signed a request; None if the newest roster does not list the name."""
    roster = aggregator.newest_roster(head.federation)
    now = aggregator.conductor.now()
    if now >= roster.body.expires_at:
        raise RefusedError(
            Reason.ROSTER_EXPIRED,
            f"version {roster.body.version} of the roster of {head.federation} has expired",
            "the coordinator signs a new one, which the operator brings in: `he-agg federation roster`",
        )
    member = roster.body.members.get(claim.name)
    if member is None:
        return None
    if not verify_request(head, claim, member.public_key):
        raise RefusedError(
            Reason.BAD_SIGNATURE,
            f"the signature of this request is not that of {claim.name}",
            "a proxy may have changed path, query or Content-Digest; or the roster lists another key: compare "
            "fingerprints with the coordinator",
            status=401,
        )
    if abs(now - claim.created) > WINDOW_S:
        raise RefusedError(
            Reason.CLOCK_SKEW,
            f"the request was signed {abs(now - claim.created):.0f} s before or after the aggregator's time, "
            f"{WINDOW_S} s at most are accepted",
            "set this machine's clock",
            server_time=int(now),
        )
    return Caller(head.federation, claim.name, member.roles)


def _read_head(request: Request) -> tuple[RequestHead, Claim]:
    # A field that comes twice has no one value that could be signed.
    values = [request.headers.getlist(name) for name in _FIELDS]
    try:
        (digest,), (federation,), (stated,), (signature,) = values
        claim = parse_claim(stated, signature)
        if not digest:
            raise ValueError
        check_name(federation, FEDERATION_HEADER)
    except (ValueError, WireError):
        raise RefusedError(
            Reason.UNAUTHENTICATED,
            "expected the fields Content-Digest, He-Agg-Federation, Signature-Input and Signature, each once and in "
            "the form of PROTOCOL.md, got none or others",
            "every request is signed with the key of its sender",
        ) from None
    scope = request.scope
    head = RequestHead(
        method=scope["method"],
        path=scope["raw_path"].decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        content_digest=digest,
        federation=federation,
    )
    return head, claim


def _stranger(aggregator: Aggregator, head: RequestHead, claim: Claim) -> RefusedError:
    """Return what somebody is told whom the newest roster does not list. That it was listed before, only itself."""
    roster, now = aggregator.newest_roster(head.federation), aggregator.conductor.now()
    last = aggregator.former_member(head.federation, claim.name)
    if last is not None and abs(now - claim.created) <= WINDOW_S:
        version, member = last
        if verify_request(head, claim, member.public_key):
            return RefusedError(
                Reason.NO_LONGER_MEMBER,
                f"{claim.name} is not a member of federation {head.federation} any more: version {version} of the "
                f"roster was the last that listed it, the newest is version {roster.body.version}",
                "coordinators have signed that roster: ask one of them",
            )
    return RefusedError(
        Reason.UNAUTHENTICATED, f"{claim.name} is not a member in {roster.body.title}", "ask the coordinator"
    )
