"""Count patients by how and when they left: what Kaplan-Meier curves and competing events sum. One round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.analytics.analysis import OneRound
from client_sdk.analytics.integers import Field
from client_sdk.analytics.survival.followup import TimeGrid, groups_of
from client_sdk.columns import expected, refuse

__all__ = ["ExitCounts", "Exits"]

R = TypeVar("R")
T = TypeVar("T")


class Exits(NamedTuple, Generic[T]):
    """Patients per group and grid time: who left with each kind of event, who left with none, who came after it."""

    events: T
    censored: T
    entered: T


class ExitCounts(OneRound[R]):
    """A question that the sum of `Exits` answers. Subclasses, which are dataclasses, say which events there are."""

    step: float
    horizon: float
    groups: Sequence[str]
    late_entry: bool
    max_rows: int

    column: ClassVar[str]
    """What the column is called that says how each patient left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        who = type(self).__name__
        object.__setattr__(self, "horizon", TimeGrid.asked(who, self.step, self.horizon).horizon)
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise refuse(f"{who}: expected different groups, at least one")

    @property
    @abstractmethod
    def kinds(self) -> int:
        """How many kinds of events there are."""

    @abstractmethod
    def kind_of(self, values: Any, rows: int) -> NDArray[np.int64]:
        """Check the column of events; the number of each one's kind from 1, and 0 for none."""

    @property
    def grid(self) -> TimeGrid:
        """The times that all sites share."""
        return TimeGrid(self.step, self.horizon)

    @property
    def fields(self) -> Exits[Field]:
        """Events by kind, censored and late patients per group and grid time."""
        groups, points = len(self.groups), self.grid.last + 1
        return Exits(
            events=Field((groups, self.kinds, points), self.max_rows),
            censored=Field((groups, points), self.max_rows),
            entered=Field((groups, points if self.late_entry else 0), self.max_rows),
        )

    def prepared(self, *data: Any) -> Exits[NDArray[np.int64]]:
        """Return the site's counts.

        Args:
            data: times, how each one left, with several groups the group of each patient, and with late entry the time
                from which on each was watched.
        """
        several = len(self.groups) > 1
        names = ("times", self.column, *["groups"] * several, *["entries"] * self.late_entry)
        columns = dict(zip(names, expected(data, type(self).__name__, *names), strict=True))
        patients = self.grid.follow_up(columns["times"], columns.get("entries"), self.max_rows)
        kind = self.kind_of(columns[self.column], patients.kept.size)[patients.kept]
        groups = groups_of(columns.get("groups"), self.groups, patients.kept)[patients.kept]
        counts = Exits(*(np.zeros(field.shape, dtype=np.int64) for field in self.fields))
        happened = patients.happened & (kind > 0)
        np.add.at(counts.events, (groups[happened], kind[happened] - 1, patients.exits[happened]), 1)
        np.add.at(counts.censored, (groups[~happened], patients.exits[~happened]), 1)
        if self.late_entry:
            np.add.at(counts.entered, (groups, patients.entries), 1)
        return counts
