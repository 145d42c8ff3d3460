"""Define what the toolkits (training, analytics, privacy) need of a federation, and how a round went.

`Site` is a `Federated`, and so are the sites of `training.simulate`: what is built on the two protocols here runs on
either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np

from client_sdk.progress import Notice
from he_agg.errors import InputError, KeystoreError, ProtocolError, Reason
from he_agg.plan.fixedpoint import Mean, OnOverflow, Rounding
from he_agg.plan.plan import Plan

__all__ = [
    "Federated",
    "FederatedRound",
    "Outcome",
    "Sending",
    "ToIntegers",
    "Update",
    "fetch_missed",
    "given",
    "repeated",
]

_LAST_ATTEMPT = 1000


class ToIntegers(TypedDict, total=False):
    """How values become the plan's integers.

    Attributes:
        rounding: "nearest" if left out, or "stochastic", which is unbiased.
        on_overflow: what values beyond the clip bound get: an "error" if left out, or "clip" to the bound.
    """

    rounding: Rounding
    on_overflow: OnOverflow


class Sending(ToIntegers, total=False):
    """How an update is sent.

    Attributes:
        may_repeat: whether it may be an update that is in an earlier sum already: two sums with the same update in
            them, but not the same sites, differ by the others' updates alone. False if left out. An update that a
            failed attempt did not count may be sent to the next one without it.
    """

    may_repeat: bool


@dataclass(frozen=True)
class Update:
    """What a site wants averaged.

    Attributes:
        tensors: named arrays, exactly the plan's.
        weight: the site's sample count.
        rounding: "nearest" or "stochastic".
        on_overflow: what values beyond the clip bound get: "error" or "clip".
        may_repeat: whether it may be in another sum already.
    """

    tensors: Mapping[str, Any] = field(repr=False)
    weight: int = field(repr=False)
    rounding: Rounding = "nearest"
    on_overflow: OnOverflow = "error"
    may_repeat: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether there is no sample behind it, so that the site takes no part."""
        return isinstance(self.weight, int | np.integer) and not isinstance(self.weight, bool) and self.weight == 0


def repeated(round_id: str, where: str) -> InputError:
    """Return the error for an update that may be in another sum already.

    Args:
        where: it is.
    """
    tell = (
        "the difference of two sums with the same update in them is what the sites in one of them alone have sent, "
        "which may be a single one: submit what is new, or say"
    )
    return InputError(
        Reason.REPEATED_UPDATE,
        f"round {round_id}: this very update, with this weight, {where}; nothing was encrypted",
        f"{tell} may_repeat=True if the same numbers have come out again",
        f"{tell} --may-repeat if the same numbers have come out again",
    )


def given(update: Mapping[str, Any] | None, weight: int | None, **how: Unpack[Sending]) -> Update | None:
    """Return what was handed to `take_part`; None if that is nothing.

    Raises:
        InputError: an update without a weight. Forgotten, it must not mean "no samples".
    """
    if update is None:
        return None
    if weight is None:
        raise InputError(
            Reason.WEIGHT_OUT_OF_RANGE,
            "weight: expected this site's number of samples, got none",
            "round.take_part(update, weight=len(dataset)); 0 takes no part and gets the mean of the others",
            "give --weight with the number of samples",
        )
    return Update(update, weight, **how)


@dataclass(frozen=True)
class Outcome:
    """How a round went for a site that took part in it.

    Attributes:
        round_id: which one.
        mean: the mean, bit-identical at every site; None if the round failed. Its next attempt comes by itself.
        counted: whether the update that was given is in the mean.
        reason: why it is not: `ROUND_FAILED`, `ROUND_CLOSED` (too late, or left out) or `SECOND_SUBMISSION` (what this
            site had submitted to the round before counts instead); None if it is, or if its weight was 0.
        why: the same as a sentence; empty if it is.
    """

    round_id: str
    mean: Mean | None
    counted: bool
    reason: Reason | None = None
    why: str = ""


class FederatedRound(Protocol):
    """One open round. `Round` documents the verbs."""

    @property
    def id(self) -> str:
        """The round's id."""

    @property
    def federation(self) -> str:
        """Name of the federation."""

    @property
    def number(self) -> int:
        """Number of the round, from 1."""

    @property
    def submitted(self) -> bool:
        """Whether this site has submitted to it already."""

    def aggregate(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Mean:
        """Return the mean of all sites' updates; raise if this one is not in it."""

    def take_part(
        self, update: Mapping[str, Any] | None = None, weight: int | None = None, **how: Unpack[Sending]
    ) -> Outcome:
        """Return how the round went: its mean, with this update or without, or that it failed."""


class Federated(Protocol):
    """One site of a federation. `Site` documents the verbs."""

    @property
    def name(self) -> str:
        """The site's name."""

    @property
    def federation(self) -> str:
        """Name of the federation."""

    @property
    def plan(self) -> Plan:
        """What the federation agreed on."""

    @property
    def notices(self) -> Sequence[Notice]:
        """What people should know of the time since it was opened: pauses, waits, rounds without this site."""

    def say(self, text: str) -> None:
        """Print a line where this site's progress is printed."""

    def rounds(self) -> Iterator[FederatedRound]:
        """Yield every round that this site is invited to, as it opens."""

    def last_published(self) -> str | None:
        """Return the id of the newest round with a mean; None if there is none yet."""

    def fetch(self, round_id: str | None = None) -> Mean:
        """Return the mean of a round, of the newest one by default."""


def fetch_missed(site: Federated, number: int, otherwise: str) -> tuple[str, Mean]:
    """Fetch the mean of a round that went by without this site, of whichever attempt made one.

    Args:
        otherwise: what to do if this site cannot have it: the aggregator keeps it no longer, or it is of an epoch that
            this site has no key of.

    Returns:
        The id of the attempt, and its mean.

    Raises:
        ProtocolError: `SUM_GONE`, or the aggregator refused.
        KeystoreError: `NOT_MY_EPOCH`.
        InputError: `NOT_YET_MEMBER`, or a sum of fewer sites than the newest roster wants.
    """
    for attempt in range(1, _LAST_ATTEMPT):
        round_id = f"{site.federation}.{number}.{attempt}"
        try:
            return round_id, site.fetch(round_id)
        except ProtocolError as error:
            if error.reason == Reason.SUM_GONE:
                raise ProtocolError(
                    error.reason,
                    f"round {number}: this site has missed it, and the aggregator keeps its sum no longer",
                    f"{otherwise}; have the operator keep more sums "
                    "(the option --keep-sums of `he-agg federation create`)",
                ) from error
            if error.reason != Reason.ROUND_FAILED:
                raise
        except (KeystoreError, InputError) as error:
            hint = {
                Reason.NOT_YET_MEMBER: otherwise,
                Reason.ROSTER_MISMATCH: otherwise,
                Reason.NOT_MY_EPOCH: f"{error.hint}; or {otherwise}",
            }.get(error.reason)
            if hint is None:
                raise
            raise type(error)(error.reason, f"{error.message}; this site needs it to catch up", hint) from error
    raise ProtocolError(Reason.ROUND_FAILED, f"round {number} failed {_LAST_ATTEMPT} times")
