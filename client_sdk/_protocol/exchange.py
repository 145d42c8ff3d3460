"""One request until it is answered: retries, and what an error answer means."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client_sdk._effects import Flow, Report, Request, Response, Sleep, now
from client_sdk._protocol.retry import RETRIED_STATUSES, RetryPolicy, next_wait, retry_after_s
from client_sdk.progress import Retrying
from he_agg import canonical
from he_agg.documents.record import MAX_RECORD_BYTES
from he_agg.errors import ConfigError, HeAggError, ProtocolError, Reason, TransportError, WireError
from he_agg.protocol.http_signatures import WINDOW_S

__all__ = ["Retries", "answer_error", "exchange", "problem_of"]

_LEAST_S = 1.0
"""How long a request gets when there is no time left, which is when there must be one try all the same."""

_MAX_TEXT = 500
_MAX_PROBLEM_BYTES = MAX_RECORD_BYTES + 2**16
"""A record is the longest that one carries; an answer that may be longer may be so only if it is none."""
_BY_STATUS = {
    401: Reason.UNAUTHENTICATED,
    403: Reason.FORBIDDEN,
    409: Reason.BAD_REQUEST,
    413: Reason.TOO_LARGE,
    429: Reason.BAD_REQUEST,
}
_HINTS = {
    Reason.UNAUTHENTICATED: "a proxy on the way may have removed the signature's header fields",
    Reason.BAD_SIGNATURE: "the aggregator's roster has another key for this site, or a proxy on the way changed the "
    "request: compare fingerprints with the coordinator",
    Reason.FORBIDDEN: "the newest roster does not let this site do that: ask the coordinator",
    Reason.UNKNOWN_SITE: "the newest roster does not list this site: ask the coordinator",
    Reason.ROSTER_EXPIRED: "ask the coordinator to sign a new roster: `he-agg roster next`",
    Reason.NOT_INVITED: "ask the operator which sites the round was opened for",
    Reason.UNKNOWN_FEDERATION: "check the url, and that the operator has created the federation there",
}


@dataclass(frozen=True)
class Retries:
    """How failures are met: a policy, and where its random numbers come from.

    Attributes:
        policy: how patient to be.
        draw: gives a number in [0, 1).
    """

    policy: RetryPolicy
    draw: Callable[[], float]


def exchange(
    retries: Retries,
    request: Request,
    until: float = math.inf,
    again: Callable[[], Flow[Request]] | None = None,
) -> Flow[Response]:
    """Send a request until it gets an answer that it expects, or patience ends.

    Patience counts from when the aggregator had its time to answer: neither the wait that a request asks for nor
    the bytes that got through use it up.

    Args:
        until: when trying again becomes pointless, on the driver's clock. Units: seconds.
        again: finds out what to send after a failure, if not the same once more.

    Raises:
        TransportError: the aggregator could not be reached for too long.
        ProtocolError: it refused, or answered what no aggregator should.
        ConfigError: this machine's clock is wrong, or `NO_LONGER_MEMBER`.
    """
    failures = 0
    first = 0.0
    while True:
        asked_s = None
        asked_at = yield from now()
        policy = retries.policy
        left_s = min(policy.patience_s - (asked_at - first if failures else 0.0), until - asked_at)
        limit_s = request.wait_s + max(_LEAST_S, min(policy.request_s, left_s))
        limited = dataclasses.replace(request, budget_s=limit_s, least_bytes_per_s=policy.least_bytes_per_s)
        try:
            response: Response = yield limited
        except TransportError as error:
            fault: HeAggError = error
        else:
            if response.status in request.expect:
                return response
            fault = answer_error(response, request)
            if response.status not in RETRIED_STATUSES:
                raise fault
            asked_s = retry_after_s(response.headers)
        time = yield from now()
        if failures == 0:
            first = min(time, max(asked_at + request.wait_s, time - limit_s))
        wait_s = next_wait(
            policy,
            failures=failures,
            elapsed_s=time - first,
            left_s=until - time,
            draw=retries.draw(),
            asked_s=asked_s,
        )
        failures += 1
        if wait_s is None:
            tries = f"gave up after {failures} {'tries' if failures > 1 else 'try'} in {time - first:.0f} s"
            raise type(fault)(fault.reason, f"{fault.message} ({tries})", fault.hint, fault.shell) from fault
        left_s = min(policy.patience_s - (time - first), until - time)
        yield Report(Retrying(fault.message, failures, wait_s, left_s))
        yield Sleep(wait_s)
        if again is not None:
            request = yield from again()


def answer_error(response: Response, request: Request) -> HeAggError:
    """Return the error that an unexpected answer means.

    A problem document (RFC 9457) gives its own reason and hint. Its words are somebody else's: they are cut to one
    line of printable characters, so that an aggregator cannot write escape sequences to a terminal or fill a log.

    Returns:
        The error to raise: a `ProtocolError`, a `TransportError` for a gateway that speaks for nobody, or a
        `ConfigError` when this machine's clock is wrong or its site is not a member any more.
    """
    problem = problem_of(response)
    what = f"{request.method} {request.path.split('?')[0]}"
    if problem is not None and problem.get("reason") == Reason.CLOCK_SKEW:
        return _clock_skew(problem.get("server_time"), response.signed_at)
    if problem is not None:
        reason = _reason(problem.get("reason")) or _BY_STATUS.get(response.status, Reason.BAD_REQUEST)
        text = _line(problem.get("detail")) or _line(problem.get("title")) or f"{what}: refused ({response.status})"
        # The same error as where this site's own roster says so.
        error = ConfigError if reason == Reason.NO_LONGER_MEMBER else ProtocolError
        return error(reason, text, _line(problem.get("hint")) or _HINTS.get(reason, ""))
    if response.status in RETRIED_STATUSES:
        return TransportError(Reason.UNREACHABLE, f"{what}: got status {response.status} instead of an answer")
    if 300 <= response.status < 400:
        return ProtocolError(
            Reason.BAD_ANSWER,
            f"{what}: expected an answer, got a redirect ({response.status}), which is never followed",
            "configure the aggregator's own url",
        )
    reason = _BY_STATUS.get(response.status, Reason.BAD_ANSWER)
    expected = " or ".join(str(status) for status in sorted(request.expect))
    return ProtocolError(
        reason,
        f"{what}: expected status {expected}, got {response.status} without a problem document",
        _HINTS.get(reason, "check the url: is this an he-agg aggregator, or a proxy in front of it?"),
    )


def _clock_skew(server_time: Any, signed_at: float | None) -> ConfigError:
    difference = "is more than that off"
    if type(server_time) is int and abs(server_time) < 2**40 and signed_at is not None:
        ahead = signed_at - server_time
        difference = f"is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
    return ConfigError(
        Reason.CLOCK_SKEW,
        f"clock: expected it within {WINDOW_S} s of the aggregator's, this machine's {difference}",
        "let the operating system set the clock (NTP); if this machine's is right, tell the operator",
    )


def problem_of(response: Response) -> dict[str, Any] | None:
    """Read a problem document; None if the answer is none."""
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/problem+json" or len(response.body) > _MAX_PROBLEM_BYTES:
        return None
    try:
        document = canonical.loads(response.body)
    except WireError:
        return None
    return document if isinstance(document, dict) else None


def _reason(word: Any) -> Reason | None:
    try:
        return Reason(word)
    except ValueError:
        return None


def _line(text: Any) -> str:
    if not isinstance(text, str):
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _MAX_TEXT]).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."
