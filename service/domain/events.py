"""Define rounds and federations, what can happen to them, and what is then written down.

The words of `rounds`, which says what follows from what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "Accepted",
    "Action",
    "Closed",
    "Completed",
    "Concluded",
    "Ended",
    "EpochChanged",
    "Event",
    "Extended",
    "Failed",
    "Federation",
    "FoldBegan",
    "FoldBroke",
    "Folded",
    "Folding",
    "GaveUp",
    "GivenUp",
    "Opened",
    "Paused",
    "Phase",
    "Published",
    "Ready",
    "Resumed",
    "RosterChanged",
    "Round",
    "Settled",
    "Skipped",
    "Stage",
    "StageChanged",
    "Started",
    "Stopped",
    "Sum",
    "Terms",
    "Tick",
]


class Phase(StrEnum):
    """Where one attempt at a round stands. `ENDED` is the one that never opened, since the federation has ended."""

    OPEN = "open"
    CLOSED = "closed"
    FOLDING = "folding"
    PUBLISHED = "published"
    FAILED = "failed"
    REJECTED = "rejected"
    ENDED = "ended"


class Stage(StrEnum):
    """Where a federation stands."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(frozen=True)
class Terms:
    """What plan and roster say about rounds. `splits`: one-time keys are split among holders.

    Units: `deadline_s` in seconds.
    """

    min_sites: int
    rounds: int
    deadline_s: int
    sample_percent: int = 100
    splits: bool = False


@dataclass(frozen=True)
class Round:
    """One attempt at one round. Units: `opened_at`, `deadline_at` in seconds since 1970, UTC.

    `min_sites` is what the roster that it opened under asks for, or all of the invited where a sum of the number was
    given up: a later roster may ask for more, and then more are needed, but never for less.

    `settled`: it is published, and nothing more is awaited of its holders: so many have answered that the sum opens, or
    the operator has skipped it. Where keys are shared it is as soon as it is published. `holders` are those of the
    roster that it opened under.
    """

    number: int
    attempt: int
    phase: Phase
    opened_at: int
    deadline_at: int
    invited: frozenset[str]
    complete: frozenset[str] = frozenset()
    min_sites: int = 0
    settled: bool = False
    holders: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sum:
    """The newest sum: the attempt, its members, and whether it was given up, so that they try its number again."""

    number: int
    attempt: int
    members: frozenset[str]
    given_up: bool = False

    def least(self, number: int, invited: Collection[str], min_sites: int) -> int:
        """Return how many sites an attempt at a number needs: all that are invited, where its sum was given up."""
        return max(min_sites, len(invited)) if self.is_tried_again(number) else min_sites

    def is_tried_again(self, number: int) -> bool:
        """Tell whether attempts at a number are for the members of this sum, which was given up."""
        return self.given_up and self.number == number


@dataclass(frozen=True)
class Federation:
    """A federation and its newest attempt, which is the only one that can still change.

    `paused_at` is set while it is paused. `name`, `roster` (a digest), `counted` and, if the newest attempt is
    published in this step, `submitted` are what the next draw depends on: see `he_agg.documents.draw`.
    `later` is how many attempts the number after the newest one's has had. `sum` is the newest sum, if there is one.

    `ready`: an attempt may open. Where keys are split, so many holders have a sharing key of the epoch that it can end.
    `burnt`: the newest roster has another list of holders than that of the newest attempt. A number's attempts are all
    under one list, so if that one fails, or has failed, its number is not tried again.
    """

    terms: Terms
    sites: frozenset[str]
    stage: Stage = Stage.CREATED
    round: Round | None = None
    paused_at: int | None = None
    name: str = ""
    roster: str = ""
    counted: str = ""
    submitted: Mapping[str, str] = field(default_factory=dict)
    later: int = 0
    sum: Sum | None = None
    ready: bool = True
    burnt: bool = False


# What happens.


@dataclass(frozen=True)
class Started:
    """The operator starts the federation."""


@dataclass(frozen=True)
class Stopped:
    """The operator ends the federation."""


@dataclass(frozen=True)
class Paused:
    """The operator lets the federation rest."""


@dataclass(frozen=True)
class Resumed:
    """The operator lets it go on."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Completed:
    """A site has all its parts here and says that it is done."""

    number: int
    attempt: int
    site: str


@dataclass(frozen=True)
class FoldBegan:
    """The adder took the closed set up."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Folded:
    """Every part of the sum is durable."""

    number: int
    attempt: int


@dataclass(frozen=True)
class FoldBroke:
    """A stored part is not what its site sent: its bytes changed on the disk."""

    number: int
    attempt: int
    site: str


@dataclass(frozen=True)
class EpochChanged:
    """There is a new group key: updates under the old one cannot be added to the others."""


@dataclass(frozen=True)
class Ready:
    """A sharing key has come: perhaps what is due may open now."""


@dataclass(frozen=True)
class Settled:
    """So many holders have answered that the sum opens."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Skipped:
    """The operator does not wait for the holders any longer, though the sum may never open."""

    number: int
    attempt: int


@dataclass(frozen=True)
class GaveUp:
    """The operator gives up a published sum that sites have rejected: its number is to be tried again.

    Not where keys are split: holders answer for one record of a number, ever.
    """

    number: int
    attempt: int


@dataclass(frozen=True)
class RosterChanged:
    """There is a new roster. `removed` are sites and holders that are not in it any more, or have another key in it."""

    removed: frozenset[str]


Event = (
    Started
    | Stopped
    | Paused
    | Resumed
    | Tick
    | Completed
    | FoldBegan
    | Folded
    | FoldBroke
    | EpochChanged
    | RosterChanged
    | GaveUp
    | Ready
    | Settled
    | Skipped
)

# What to do about it.


@dataclass(frozen=True)
class StageChanged:
    """The federation is at another stage. `at` is when it was paused, if it is. Units: seconds since 1970, UTC."""

    stage: Stage
    at: int | None = None


@dataclass(frozen=True)
class Opened:
    """Write down a new attempt and its invitations."""

    round: Round


@dataclass(frozen=True)
class Extended:
    """The attempt has another deadline."""

    round: Round


@dataclass(frozen=True)
class Accepted:
    """The site's submission is in the set: its receipt may be given."""

    round: Round
    site: str


@dataclass(frozen=True)
class Closed:
    """The set is final: fold it."""

    round: Round


@dataclass(frozen=True)
class Folding:
    """Note that folding is under way."""

    round: Round


@dataclass(frozen=True)
class Published:
    """Write the record of a sum."""

    round: Round


@dataclass(frozen=True)
class Concluded:
    """Write down that nothing more is awaited of the holders of a published round."""

    round: Round


@dataclass(frozen=True)
class Failed:
    """Write the record of a failure. `why` is the reason for sites whose submissions were complete.

    `gives_up` are number and attempt of a published sum that is given up by this record.
    """

    round: Round
    why: str
    corrupt: str | None = None
    gives_up: tuple[int, int] | None = None


@dataclass(frozen=True)
class GivenUp:
    """The sum of this attempt, published before, is not one of the federation's any more."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Ended:
    """Write the record of the federation's end, under number and attempt of what would have opened next."""

    number: int
    attempt: int


Action = (
    StageChanged | Opened | Extended | Accepted | Closed | Folding | Published | Concluded | Failed | GivenUp | Ended
)
