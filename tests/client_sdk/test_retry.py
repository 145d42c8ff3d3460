"""The decision when to try again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk._protocol.retry import RETRIED_STATUSES, RetryPolicy, next_wait, retry_after_s

POLICY = RetryPolicy(base_s=1.0, cap_s=30.0, patience_s=100.0)


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(0, 1.0), (1, 2.0), (2, 4.0), (4, 16.0), (5, 30.0), (50, 30.0), (10_000, 30.0)]
)
def test_ceiling_doubles_up_to_the_cap(failures, ceiling):
    wait = next_wait(POLICY, failures=failures, elapsed_s=0, left_s=math.inf, draw=0.5)
    assert wait == ceiling / 2


@pytest.mark.parametrize(
    ("elapsed", "left", "asked", "expected"),
    [
        (0.0, math.inf, None, 0.5),
        (99.9, math.inf, None, pytest.approx(0.1)),  # the last try is at the end of patience
        (100.0, math.inf, None, None),
        (0.0, 0.0, None, None),
        (0.0, 0.25, None, 0.25),
        (0.0, math.inf, 20.0, 20.5),  # at least what was asked, and not all at once
        (0.0, math.inf, 99.9, 100.0),
        (0.0, math.inf, 101.0, None),  # asked to come back when nobody waits any more
        (0.0, 10.0, 11.0, None),
        (0.0, math.inf, math.inf, None),
    ],
)
def test_limits(elapsed, left, asked, expected):
    assert next_wait(POLICY, failures=0, elapsed_s=elapsed, left_s=left, draw=0.5, asked_s=asked) == expected


@given(
    failures=st.integers(0, 10**6),
    elapsed=st.floats(0, 1e6),
    left=st.floats(-1e6, 1e6) | st.just(math.inf),
    draw=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 1e9),
)
def test_never_waits_beyond_any_limit(failures, elapsed, left, draw, asked):
    wait = next_wait(POLICY, failures=failures, elapsed_s=elapsed, left_s=left, draw=draw, asked_s=asked)
    if wait is not None:
        assert 0 <= wait <= min(POLICY.patience_s - elapsed, left)
        assert asked is None or wait >= asked


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "9" * 30}, math.inf),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Fri, 31 Dec 2026 23:59:59 +99999999999999", "date": "x"}, None),
        ({"retry-after": "\u0663"}, None),  # a digit elsewhere, not in HTTP
        ({"retry-after": "Fri, 21 Nov 2025 10:00:10 GMT", "date": "Fri, 21 Nov 2025 10:00:00 GMT"}, 10.0),
        ({"retry-after": "Fri, 21 Nov 2025 09:00:00 GMT", "date": "Fri, 21 Nov 2025 10:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 21 Nov 2025 10:00:10 GMT"}, None),
    ],
)
def test_retry_after(headers, expected):
    assert retry_after_s(headers) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_retry_after_is_read_or_ignored(text, date):
    seconds = retry_after_s({"retry-after": text, "date": date})
    assert seconds is None or seconds >= 0


def test_refusals_are_final():
    assert {400, 401, 403, 404, 409, 410, 411, 413, 422, 501, 505}.isdisjoint(RETRIED_STATUSES)
