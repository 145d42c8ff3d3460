"""Follow an analysis through its steps: whose data it is about, and what comes next.

**One rule for membership.** An analysis is about the sites of its first sum, its members; every step is about all of
them and nobody else.

* A site that was late for the first sum takes it over and adds nothing to the later ones, so it stays in step and gets
  the same result, which is not about its patients. So does one that was started when the others were at a later step.
* A sum in which a member is missing is not used: the step is asked again. If the member stays away, the analysis ends
  with an error that names it.

What a site does is a function of the sums that all sites see, so all do the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.integers import decode, encode, encoded_size
from client_sdk.analytics.question import QUESTION_VALUES, asked_by_all, check_same, question_values
from he_agg.errors import ProtocolError, Reason

__all__ = ["ABSENCES", "Course", "Finished", "vector_size"]

D = TypeVar("D")
S = TypeVar("S")
R = TypeVar("R")

ABSENCES = 5
"""So many sums in a row without some member end an analysis."""


@dataclass(frozen=True)
class Finished(Generic[R]):
    """What `Analysis.advance` returns instead of a state when there is nothing left to ask."""

    result: R


class Course(Generic[D, S]):
    """Where an analysis stands.

    Args:
        analysis: what is asked.
        magnitude: M, the largest absolute value of one plaintext integer.

    Attributes:
        members: the sites whose data it is about; empty before the first sum.
    """

    def __init__(self, analysis: Any, magnitude: int) -> None:
        self._analysis, self._magnitude = analysis, magnitude
        self._state: S = analysis.start()
        self._step, self._absences = 1, 0
        self.members: tuple[str, ...] = ()

    def vector(self, site: str, own: D, size: int) -> NDArray[np.int64]:
        """Return what a site sends for the next step; no data unless it is a member. Shape: (size,)."""
        vector = np.zeros(size, dtype=np.int64)
        end = encoded_size(self._analysis.fields, self._magnitude)
        if not self.members or site in self.members:
            values = self._analysis.contribution(self._state, own)
            vector[:end] = encode(self._analysis.fields, values, self._magnitude)
        vector[end : end + QUESTION_VALUES] = question_values(self._analysis.question, self._state)
        return vector

    def is_asked(self, sums: NDArray[np.int64], n_sites: int, *, first: bool = False) -> bool:
        """Tell whether a sum is about this analysis; with `first`, about its first step."""
        end = encoded_size(self._analysis.fields, self._magnitude)
        told, question = sums[end : end + QUESTION_VALUES], self._analysis.question
        if first:
            return np.array_equal(told, n_sites * question_values(question, self._analysis.start()))
        return asked_by_all(question, told, n_sites)

    def take(self, sums: NDArray[np.int64], sites: tuple[str, ...]) -> Finished[Any] | None:
        """Go on with a sum, or ask the step again if members are missing in it.

        Args:
            sums: of the sites' vectors.
            sites: whose.

        Returns:
            `Finished` with the result; None while there is more to ask.

        Raises:
            InputError: the sites asked different things, or the data have no answer.
            ProtocolError: members have been missing for too long.
        """
        fields = self._analysis.fields
        end = encoded_size(fields, self._magnitude)
        check_same(self._analysis.question, self._state, sums[end : end + QUESTION_VALUES], len(sites))
        self.members = self.members or sites
        if missing := [site for site in self.members if site not in sites]:
            self._absences += 1
            if self._absences >= ABSENCES:
                raise ProtocolError(
                    Reason.ROUND_FAILED,
                    f"step {self._step} of the analysis: {', '.join(missing)} missing in {ABSENCES} sums in a row; an "
                    f"answer would be about the patients of {', '.join(self.members)} in some steps only",
                    "start the analysis again at all sites that can stay until its end",
                )
            return None
        self._absences = 0
        integers = decode(fields, sums, self._magnitude, len(sites))
        after = self._analysis.advance(self._state, integers, len(self.members))
        if isinstance(after, Finished):
            return after
        self._state, self._step = after, self._step + 1
        return None


def vector_size(analysis: Any, magnitude: int) -> int:
    """Return how many plaintext integers an analysis needs."""
    return encoded_size(analysis.fields, magnitude) + QUESTION_VALUES
