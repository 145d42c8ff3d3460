"""Define analyses, and run them: a step is a round, a round is one exact sum.

An `Analysis` is a question that all sites have agreed on beforehand, without any data in it. It is written as pure
functions of a public state, so every site that folds the same sums has the same state and the same answer, to the bit.

Two numbers of every vector carry a digest of the question and its state. Unless all sites that are in a sum asked the
same thing, the digests do not add up and no result is released: a site with other bins cannot spoil a histogram
unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.agreed import settle
from client_sdk.analytics.integers import decode, encode, encoded_size
from client_sdk.federated import Federated
from he_agg.errors import InputError, PlanError, ProtocolError, Reason
from he_agg.plan.layout import Layout, TensorSpec
from he_agg.plan.plan import Plan

__all__ = ["VALUE_BITS", "Analysis", "Finished", "OneRound", "dry_run", "layout_for", "run"]

VALUE_BITS = 24
"""Width of the plaintext integers: the widest there is, so that most numbers fit in one or two digits."""

TENSOR = "integers"
"""Name of the one tensor of a federation for analyses."""

_DIGEST_VALUES = 2
_DIGEST_BITS = 22

D = TypeVar("D")
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Finished(Generic[R]):
    """What `Analysis.fold` returns instead of a state when there is nothing left to ask."""

    result: R


class Analysis(ABC, Generic[D, S, R]):
    """A question to all sites together. Subclasses are frozen dataclasses of public parameters: no data.

    D is a site's data as `prepared` checked it, S the public state between steps, R the result. The integers that are
    summed are members of a `NamedTuple`: `fields` has each one's layout, a contribution a site's numbers, and `fold`
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
    def fold(self, state: S, sums: Any, n_sites: int) -> S | Finished[R]:
        """Return the state after the sums of a step are known, or the result."""

    @property
    def question(self) -> str:
        """Everything that the sites must agree on, as text."""
        own: Any = self
        members = {field.name: getattr(own, field.name) for field in fields(own)}
        return f"{type(self).__name__} {json.dumps(members, default=_plain)}"


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

    def fold(self, state: tuple[()], sums: Any, n_sites: int) -> Finished[R]:  # noqa: ARG002
        """Return the finished answer."""
        return Finished(self.result(sums, n_sites))


def layout_for(*analyses: Analysis[Any, Any, Any], value_bits: int = VALUE_BITS) -> Layout:
    """Make the layout of a federation in which these analyses, and smaller ones, can run one after another.

    Args:
        value_bits: the plan's `value_bits`; `Plan.create` must be given the same.
    """
    magnitude = (1 << (value_bits - 1)) - 1
    size = max((encoded_size(analysis.fields, magnitude) for analysis in analyses), default=0)
    if size == 0:
        raise PlanError(Reason.BAD_PLAN, "layout_for: expected at least one analysis, got none")
    return Layout((TensorSpec(TENSOR, (size + _DIGEST_VALUES,), "float64", float(magnitude)),), 1)


def run(site: Federated, analysis: Analysis[D, S, R], *data: Any) -> R:
    """Run an analysis as one site, together with all other sites that call this with the same analysis.

    A round that failed is repeated. A round that this site missed is taken over from the others: its data are then
    not in that step, which the result's `n_sites` shows.

    Args:
        site: an open site, or one of `training.simulate`, of a federation whose plan has the layout of `layout_for`.
        analysis: the same at all sites.

    Raises:
        PlanError: the federation's plan is not for analyses, or too small for this one.
        InputError: data that the analysis cannot take, sites that ask different things, or a round to which this site
            had submitted something else before.
        HeAggError: as for `Round.aggregate`.
    """
    magnitude, size = _checked_plan(site.plan, analysis)
    own = analysis.prepared(*data)
    state: S = analysis.start()
    for round in site.rounds():
        vector = _vector(analysis, state, own, magnitude, size)
        outcome = round.take_part({TENSOR: vector.astype(np.float64)}, weight=1)
        if outcome.reason is Reason.SECOND_SUBMISSION:
            # Not what was asked now: the answer could be about data that were corrected since.
            raise InputError(
                outcome.reason,
                outcome.why,
                "start the analysis again at all sites: the round is used up",
            )
        if outcome.mean is None:
            continue  # failed: its next attempt comes by itself
        after = _folded(analysis, state, outcome.mean.sums, outcome.mean.n_sites, magnitude)
        if isinstance(after, Finished):
            return after.result
        state = after
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
    owns = [analysis.prepared(*share) for share in shares]
    size = encoded_size(analysis.fields, magnitude) + _DIGEST_VALUES
    state = analysis.start()
    while True:
        vectors = [_vector(analysis, state, own, magnitude, size) for own in owns]
        after = _folded(analysis, state, np.sum(vectors, axis=0), len(owns), magnitude)
        if isinstance(after, Finished):
            return after.result
        state = after


def _checked_plan(plan: Plan, analysis: Analysis[Any, Any, Any]) -> tuple[int, int]:
    magnitude = plan.public.magnitude
    needed = encoded_size(analysis.fields, magnitude) + _DIGEST_VALUES
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


def _vector(
    analysis: Analysis[D, S, Any],
    state: S,
    own: D,
    magnitude: int,
    size: int,
) -> NDArray[np.int64]:
    values = analysis.contribution(state, own)
    digits = encode(analysis.fields, values, magnitude)
    vector = np.zeros(size, dtype=np.int64)
    vector[: digits.size] = digits
    vector[digits.size : digits.size + _DIGEST_VALUES] = _digest(analysis, state)
    return vector


def _folded(
    analysis: Analysis[Any, S, R], state: S, sums: NDArray[np.int64], n_sites: int, magnitude: int
) -> S | Finished[R]:
    end = encoded_size(analysis.fields, magnitude)
    if not np.array_equal(sums[end : end + _DIGEST_VALUES], n_sites * _digest(analysis, state)):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected all {n_sites} sites to run the same analysis at the same step, got different ones: the digests "
            "of their questions do not agree; no result was released",
            "compare the parameters (bins, bounds, categories, seeds) and the versions of numpy, then start the "
            f"analysis again at all sites. Here: {analysis.question[:300]}",
        )
    return analysis.fold(state, decode(analysis.fields, sums, magnitude, n_sites), n_sites)


def _digest(analysis: Analysis[Any, Any, Any], state: Any) -> NDArray[np.int64]:
    text = f"he-agg analytics v1\n{analysis.question}\n{json.dumps(state, sort_keys=True, default=_plain)}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    mask = (1 << _DIGEST_BITS) - 1
    return np.array([number & mask, number >> _DIGEST_BITS & mask], dtype=np.int64)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be a parameter of an analysis")
