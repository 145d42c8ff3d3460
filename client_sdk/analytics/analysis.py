"""Define analyses, and run them: a step is a round, a round is one exact sum.

An `Analysis` is a question that all sites have agreed on beforehand, without any data in it. It is written as pure
functions of a public state, so every site that takes in the same sums has the same state and the same answer, to the
bit.

Every vector carries the question: a site with other bins cannot spoil a histogram unnoticed (question.py). Every step
is about the same sites (course.py).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from client_sdk.agreed import settle
from client_sdk.analytics.course import Course, Finished, vector_size
from client_sdk.analytics.question import text_of
from client_sdk.federated import Federated, fetch_missed
from he_agg.errors import InputError, KeystoreError, PlanError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean
from he_agg.plan.layout import Layout, TensorSpec
from he_agg.plan.plan import Plan

__all__ = ["VALUE_BITS", "AbsentWarning", "Analysis", "Finished", "OneRound", "dry_run", "layout_for", "run"]

VALUE_BITS = 24
"""Width of the plaintext integers: the widest there is, so that most numbers fit in one or two digits."""

TENSOR = "integers"
"""Name of the one tensor of a federation for analyses."""

D = TypeVar("D")
S = TypeVar("S")
R = TypeVar("R")


class Analysis(ABC, Generic[D, S, R]):
    """A question to all sites together. Subclasses are frozen dataclasses of public parameters: no data.

    D is a site's data as `prepared` checked it, S the public state between steps, R the result. The integers that are
    summed are members of a `NamedTuple`: `fields` has each one's layout, a contribution a site's numbers, and `advance`
    gets their sums.
    """

    def __post_init__(self) -> None:
        """Bring the parameters into their one form."""
        settle(self)

    @property
    @abstractmethod
    def fields(self) -> NamedTuple:
        """The integers that every step sums, each a `Field`."""

    @abstractmethod
    def prepared(self, *data: Any) -> D:
        """Check a site's data and put it on the grid.

        Raises:
            InputError: data that the analysis cannot take; the message names positions, never values.
        """

    @abstractmethod
    def start(self) -> S:
        """Return the state before the first step."""

    @abstractmethod
    def contribution(self, state: S, data: D) -> NamedTuple:
        """Return a site's integers for the step that comes next."""

    @abstractmethod
    def advance(self, state: S, sums: Any, n_sites: int) -> S | Finished[R]:
        """Return the state after the sums of a step are known, or the result."""

    @property
    def question(self) -> str:
        """Everything that the sites must agree on, as text."""
        return text_of(self)


class OneRound(Analysis[Any, tuple[()], R]):
    """A question that one sum answers: there is no state, and `prepared` gives the integers themselves."""

    @abstractmethod
    def result(self, sums: Any, n_sites: int) -> R:
        """Return the answer."""

    def start(self) -> tuple[()]:
        """Return a state in which nothing is known."""
        return ()

    def contribution(self, state: tuple[()], data: Any) -> Any:  # noqa: ARG002 - there is no state
        """Return a site's integers."""
        return data

    def advance(self, state: tuple[()], sums: Any, n_sites: int) -> Finished[R]:  # noqa: ARG002
        """Return the finished answer."""
        return Finished(self.result(sums, n_sites))


class AbsentWarning(UserWarning):
    """The answer is not about this site's patients."""


def layout_for(*analyses: Analysis[Any, Any, Any], value_bits: int = VALUE_BITS) -> Layout:
    """Make the layout of a federation in which these analyses, and smaller ones, can run one after another.

    Args:
        value_bits: the plan's `value_bits`; `Plan.create` must be given the same.
    """
    magnitude = (1 << (value_bits - 1)) - 1
    size = max((vector_size(analysis, magnitude) for analysis in analyses), default=0)
    if size == 0:
        raise PlanError(
            Reason.BAD_PLAN,
            "layout_for: expected at least one analysis, got none",
            "hand in the questions that will be asked",
        )
    return Layout((TensorSpec(TENSOR, (size,), "float64", float(magnitude)),), 1)


def run(site: Federated, analysis: Analysis[D, S, R], *data: Any) -> R:
    """Run an analysis as one site, together with all other sites that call this with the same analysis.

    A round that failed is repeated. All steps are about the sites of the first sum: a site that was late for it, or was
    started when the others were at a later step, takes the others' sums over and is warned that the answer is not about
    its patients (`n_sites` shows it to everybody); a step in which one of them was late is asked again.

    Args:
        site: an open site, or one of `training.simulate`, of a federation whose plan has the layout of `layout_for`.
        analysis: the same at all sites.

    Raises:
        PlanError: the federation's plan is not for analyses, or too small for this one.
        InputError: data that the analysis cannot take, sites that ask different things, or a round to which this site
            had submitted something else before.
        ProtocolError: a site stays away in the middle, or the federation ended before the analysis did.
        HeAggError: as for `Round.aggregate`.
    """
    magnitude, size = _checked_plan(site.plan, analysis)
    own = analysis.prepared(*data)
    course: Course[D, S] = Course(analysis, magnitude)
    done: int | None = None
    for round in site.rounds():
        if done is None and round.number > 1 and not isinstance(analysis, OneRound):
            others: Course[D, S] | None = _under_way(site, Course(analysis, magnitude), round.number)
            if others is not None:
                course, done = others, round.number - 1
        finished = None if done is None else _taken_over(site, course, range(done + 1, round.number))
        if finished is None:
            vector = course.vector(site.name, own, size)
            # Counts repeat: those of a clustering at its end, or of the same question asked again.
            outcome = round.take_part({TENSOR: vector.astype(np.float64)}, weight=1, may_repeat=True)
            if outcome.reason is Reason.SECOND_SUBMISSION:
                # Not what was asked now: the answer could be about data that were corrected since.
                raise InputError(
                    outcome.reason,
                    outcome.why,
                    "start the analysis again at all sites: the round is used up",
                )
            if outcome.mean is None:
                done = round.number - 1
                continue  # failed: its next attempt comes by itself
            finished, done = course.take(outcome.mean.sums, outcome.mean.sites), round.number
        if finished is not None:
            return cast(R, _told(site, course, finished))
    last = site.last_published()
    if done is not None and last is not None:
        finished = _taken_over(site, course, range(done + 1, RoundId.parse(last).number + 1))
        if finished is not None:
            return cast(R, _told(site, course, finished))
    raise ProtocolError(
        Reason.ROUND_CLOSED,
        "the federation ended before the analysis did",
        "found it with more rounds: `Plan.create(..., rounds=...)`",
    )


def dry_run(analysis: Analysis[D, S, R], shares: Iterable[Sequence[Any]], value_bits: int = VALUE_BITS) -> R:
    """Do the same arithmetic without encryption and network, for one's own data or for tests.

    Args:
        shares: each site's data, as `run` takes them.
    """
    magnitude = (1 << (value_bits - 1)) - 1
    owns = {f"site {i}": analysis.prepared(*share) for i, share in enumerate(shares)}
    if not owns:
        raise InputError(
            Reason.BAD_ARGUMENT,
            "dry_run: expected the data of at least one site, got none",
            "hand in a list of tuples, one for each site",
        )
    size = vector_size(analysis, magnitude)
    course: Course[D, S] = Course(analysis, magnitude)
    while True:
        vectors = [course.vector(name, own, size) for name, own in owns.items()]
        finished = course.take(np.sum(vectors, axis=0), tuple(owns))
        if finished is not None:
            return cast(R, finished.result)


def _under_way(site: Federated, course: Course[D, S], before: int) -> Course[D, S] | None:
    """Take over what the others have asked in the rounds before; None unless they are in the middle of it without us.

    Only as far back as sums are kept. A site that was a member and starts again gets no way back in: nobody could see
    whether its data are still the same.
    """
    means: list[Mean] = []
    for number in range(before - 1, 0, -1):
        try:
            _, mean = fetch_missed(site, number, "")
        except (ProtocolError, KeystoreError):  # kept no longer, or of an epoch that this site has no key of
            return None
        if not course.is_asked(mean.sums, mean.n_sites):
            return None
        means.append(mean)
        if course.is_asked(mean.sums, mean.n_sites, first=True):
            break
    if not means or any(course.take(mean.sums, mean.sites) is not None for mean in reversed(means)):
        return None
    return None if site.name in course.members else course


def _taken_over(site: Federated, course: Course[D, S], numbers: range) -> Finished[Any] | None:
    """Take over the sums of rounds that went by without this site."""
    for number in numbers:
        _, mean = fetch_missed(site, number, "start the analysis again at all sites")
        finished = course.take(mean.sums, mean.sites)
        if finished is not None:
            return finished
    return None


def _told(site: Federated, course: Course[Any, Any], finished: Finished[R]) -> R:
    if site.name not in course.members:
        warnings.warn(
            f"{site.name} was late for the first sum: the answer is about the patients of {', '.join(course.members)}, "
            "not of its own; to have them in it, start the analysis again at all sites",
            AbsentWarning,
            stacklevel=3,
        )
    return finished.result


def _checked_plan(plan: Plan, analysis: Analysis[Any, Any, Any]) -> tuple[int, int]:
    magnitude = plan.public.magnitude
    needed = vector_size(analysis, magnitude)
    specs = plan.layout.tensors
    fits = (
        len(specs) == 1
        and specs[0].name == TENSOR
        and specs[0].clip == magnitude
        and specs[0].dtype == "float64"
        and plan.layout.weight_cap == 1
    )
    if not fits or specs[0].size < needed:
        raise PlanError(
            Reason.LAYOUT_MISMATCH,
            f"expected a plan for analyses with at least {needed} integers of {plan.public.value_bits} bits, got "
            f"{specs[0]}",
            "found the federation with the layout of `analytics.layout_for(...)` and the same value_bits",
        )
    return magnitude, specs[0].size
