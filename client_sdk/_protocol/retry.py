"""Decide when to try again, and after how long.

Every request of the protocol is idempotent (ids are derived from content), so any of them may be repeated.

Source: full jitter, "sleep a random time between 0 and min(cap, base * 2^failures)": M. Brooker, Exponential Backoff
And Jitter, AWS Architecture Blog, 2015, where it beats equal jitter and no jitter in both work and time. Base 0.5 s
and a cap of 30 s are ours: an aggregator restarts in about a second, and 64 sites that wait for one then send
about two requests a second in all. Statuses: RFC 9110 15.5.9 (408), 15.6 (5xx), RFC 8470 (425), RFC 6585 (429),
RFC 4918 11.5 (507: an operator may make room).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

__all__ = ["RETRIED_STATUSES", "RetryPolicy", "next_wait", "retry_after_s"]

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
"""Answers that may be another one next time. All others are final: repeating a refused request changes nothing."""


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a site is.

    Attributes:
        base_s: ceiling of the first wait. Units: seconds.
        cap_s: ceiling of every wait. Units: seconds.
        patience_s: how long failures in a row go on before giving up. Units: seconds.
        request_s: how long one request may take beside its bytes and the wait that it asks for. Units: seconds.
        least_bytes_per_s: so much longer it may take for each byte. Units: bytes per second.
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    patience_s: float = 300.0
    request_s: float = 60.0
    least_bytes_per_s: float = 20_000.0

    def transfer_s(self, n_bytes: int) -> float:
        """Return how long it may take at most to have so many bytes on the other side, failures and all."""
        return self.patience_s + n_bytes / self.least_bytes_per_s


def next_wait(
    policy: RetryPolicy,
    *,
    failures: int,
    elapsed_s: float,
    left_s: float,
    draw: float,
    asked_s: float | None = None,
) -> float | None:
    """Decide whether to try again.

    Args:
        failures: how many failures in a row came before this one.
        elapsed_s: since the first of them. Units: seconds.
        left_s: until trying becomes pointless, infinity if never. Units: seconds.
        draw: a random number in [0, 1).
        asked_s: what Retry-After said, if anything. Units: seconds.

    Returns:
        The pause before the next try in seconds, or None to give up.
    """
    remaining = min(policy.patience_s - elapsed_s, left_s)
    if remaining <= 0 or (asked_s is not None and asked_s > remaining):
        return None
    # 2.0**1024 overflows; long before that the cap decides.
    jitter = draw * min(policy.cap_s, policy.base_s * 2.0 ** min(failures, 60))
    # Whoever was told the same Retry-After must not come back in the same instant either.
    return min(jitter + (asked_s or 0.0), remaining)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After (RFC 9110 10.2.3): seconds, or a date, which is compared to the answer's own Date.

    The two clocks of a site and an aggregator need not agree, so the local clock plays no part.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 9 else math.inf
    try:
        later, sent = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (later - sent).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
