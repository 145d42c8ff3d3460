"""One request: retries, and what error answers mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk._effects import Request, Response
from client_sdk._protocol.exchange import Retries, answer_error, exchange, problem_of
from client_sdk._protocol.retry import RetryPolicy
from client_sdk.progress import Retrying
from he_agg.documents.record import MAX_RECORD_BYTES
from he_agg.errors import ConfigError, HeAggError, ProtocolError, Reason, TransportError
from tests.support.flows import World, problem, unreachable

RETRIES = Retries(RetryPolicy(base_s=1.0, patience_s=60.0), lambda: 0.5)
REQUEST = Request("GET", "/v1/thing?wait=1", frozenset({200, 204}))


def scripted(*answers):
    """A world that gives these answers one after the other."""
    left = list(answers)

    def meddle(request, body):
        return left.pop(0)

    return World(lambda request, body: pytest.fail("no more answers"), meddle)


def test_expected_answer_comes_back_at_once():
    world = scripted(Response(204))
    assert world.run(exchange(RETRIES, REQUEST)).status == 204
    assert world.sleeps == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_trouble_is_retried(status):
    world = scripted(Response(status), problem(status, "internal"), unreachable(), Response(200, {}, b"x"))
    assert world.run(exchange(RETRIES, REQUEST)).body == b"x"
    assert world.sleeps == [0.5, 1.0, 2.0]
    assert [event.failures for event in world.events if isinstance(event, Retrying)] == [1, 2, 3]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 418, 422, 501])
def test_refusal_is_not_repeated(status):
    world = scripted(Response(status))
    with pytest.raises(ProtocolError):
        world.run(exchange(RETRIES, REQUEST))
    assert len(world.sent) == 1


def test_retry_after_is_honoured():
    world = scripted(problem(503, "internal", retry_after="7"), Response(200))
    world.run(exchange(RETRIES, REQUEST))
    assert world.sleeps == [7.5]


def test_gives_up_when_patience_ends_and_says_so():
    world = World(lambda request, body: pytest.fail("unused"), lambda request, body: unreachable())
    with pytest.raises(TransportError, match=r"connection refused \(gave up after 9 tries in 60 s\)"):
        world.run(exchange(RETRIES, REQUEST))
    assert world.time == 60.0


def test_gives_up_when_it_becomes_pointless():
    world = World(lambda request, body: pytest.fail("unused"), lambda request, body: unreachable())
    with pytest.raises(TransportError, match=r"in 3 s"):
        world.run(exchange(RETRIES, REQUEST, until=3.0))
    assert world.time == 3.0


def test_exhausted_retries_of_a_problem_keep_its_reason():
    world = World(lambda request, body: problem(503, "internal", "disk is full", "free some"))
    with pytest.raises(ProtocolError, match=r"disk is full \(gave up after") as caught:
        world.run(exchange(RETRIES, REQUEST))
    assert (caught.value.reason, caught.value.hint) == (Reason.INTERNAL, "free some")


def test_problem_gives_reason_detail_and_hint():
    error = answer_error(problem(409, "round-closed", "closed at noon", "come tomorrow"), REQUEST)
    assert isinstance(error, ProtocolError)
    assert (error.reason, error.message, error.hint) == (Reason.ROUND_CLOSED, "closed at noon", "come tomorrow")


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Reason.UNAUTHENTICATED), (403, Reason.FORBIDDEN), (413, Reason.TOO_LARGE), (404, Reason.BAD_ANSWER)],
)
def test_refusal_without_a_problem_document(status, reason):
    error = answer_error(Response(status, {"content-type": "text/html"}, b"<html>"), REQUEST)
    assert (error.reason, bool(error.hint)) == (reason, True)
    assert "html" not in error.message


def test_unknown_reason_of_a_newer_aggregator():
    error = answer_error(problem(429, "quota-of-the-future", "too much"), REQUEST)
    assert (error.reason, error.message) == (Reason.BAD_REQUEST, "too much")


@pytest.mark.parametrize(
    ("off", "text"), [(-3600, "is 3600 s ahead"), (7, "is 7 s behind"), (86400, "is 86400 s behind")]
)
def test_wrong_clock_is_told_with_the_difference(off, text):
    """The aggregator says what time it is; the site knows what time it put into the signature."""
    now = 1_800_000_000
    skewed = problem(401, "clock-skew", "too far off")
    document = json.loads(skewed.body) | {"server_time": now + off}
    error = answer_error(Response(401, skewed.headers, json.dumps(document).encode(), now), REQUEST)
    assert isinstance(error, ConfigError)
    assert error.reason == Reason.CLOCK_SKEW
    assert error.message == f"clock: expected it within 300 s of the aggregator's, this machine's {text}"
    assert "NTP" in error.hint


@pytest.mark.parametrize("server_time", [None, "noon", 1.5, True, 2**50, []])
def test_wrong_clock_without_a_usable_time(server_time):
    skewed = problem(401, "clock-skew")
    document = json.loads(skewed.body) | {"server_time": server_time}
    error = answer_error(Response(401, skewed.headers, json.dumps(document).encode(), 5.0), REQUEST)
    assert (type(error), error.reason) == (ConfigError, Reason.CLOCK_SKEW)
    assert "is more than that off" in error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_refused(status):
    error = answer_error(Response(status, {"location": "https://elsewhere"}), REQUEST)
    assert isinstance(error, ProtocolError)
    assert "redirect" in error.message


def test_words_of_the_aggregator_cannot_reach_the_terminal_raw():
    error = answer_error(problem(400, "bad-request", "\x1b[2Jhello\r\n\x00world" + "x" * 10_000), REQUEST)
    assert error.message.startswith("[2Jhello world")
    assert error.message.isprintable()
    assert len(error.message) == 500


@given(
    st.integers(100, 599).filter(lambda status: status not in REQUEST.expect),
    st.sampled_from(["application/problem+json", "text/plain", ""]),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.dictionaries(st.sampled_from(["reason", "detail", "title", "hint"]), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_error_answer_becomes_an_error(status, kind, body):
    error = answer_error(Response(status, {"content-type": kind}, body), REQUEST)
    assert isinstance(error, HeAggError)
    assert error.message
    assert (error.message + error.hint).isprintable()


def test_deeply_nested_problem_is_ignored():
    body = b"[" * 100_000
    assert answer_error(Response(500, {"content-type": "application/problem+json"}, body), REQUEST).message


def test_an_error_answer_as_long_as_a_sum_is_not_read():
    """Some requests may be answered at length; an error is short, or a record at most."""
    document = json.dumps({"reason": "round-closed", "detail": "d" * MAX_RECORD_BYTES}).encode()
    problem = {"content-type": "application/problem+json"}
    assert problem_of(Response(409, problem, document)) is not None
    assert problem_of(Response(409, problem, document + b" " * 2**16)) is None
