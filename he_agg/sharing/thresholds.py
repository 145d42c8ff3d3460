"""Choose how many holders it takes, and say against whom that helps.

Of m holders, e (the *quorum*) have to see the same record before any of them answers, and t (the *threshold*) answers
give a sum of keys back. With f = floor((m-1)/3) holders away or lying a round still ends: e = m - f, t = m - 2f.

The *claim* c: the aggregator together with at most c holders, and with any sites that leave two honest ones in a sum,
learns one sum of a round and nothing else. It is the least of

    t - 1            holders who know nothing together
    2e - m - 1       so that two quorums have more than c holders in common, one of them honest, who sees one record
    min_sites - 2    holders who are sites leave two honest ones in the sum
"""

from __future__ import annotations

from dataclasses import dataclass

from he_agg.errors import PlanError, Reason, counted

__all__ = ["MAX_HOLDERS", "Thresholds"]

MAX_HOLDERS = 64
"""Of all 2^64 groups of them, one is deceived by a wrong proof with a probability below 2^-127 (proof.py)."""


@dataclass(frozen=True)
class Thresholds:
    """How many holders there are, and how many it takes. Make it with `choose`, or check what a roster says.

    Attributes:
        holders: m.
        quorum: e, echoes of one record before any answer.
        threshold: t, answers that give a sum of keys back.

    Raises:
        PlanError: numbers that no list of holders can have.
    """

    holders: int
    quorum: int
    threshold: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.quorum <= self.holders <= MAX_HOLDERS:
            raise PlanError(
                Reason.INSECURE_PARAMETERS,
                f"expected a threshold of at most the quorum, and a quorum of at most the number of holders, "
                f"{MAX_HOLDERS} at most, got {self.threshold}, {self.quorum} and {self.holders}",
            )

    @classmethod
    def choose(cls, holders: int, threshold: int | None = None) -> Thresholds:
        """Choose quorum and threshold for so many holders.

        Args:
            threshold: another one than the default, up to the quorum: more secrecy, fewer wrong answers corrected.

        Raises:
            PlanError: no holders or too many, or a threshold that cannot be.
        """
        away = max(holders - 1, 0) // 3
        return cls(holders, holders - away, holders - 2 * away if threshold is None else threshold)

    @property
    def may_be_away(self) -> int:
        """How many holders a round can do without."""
        return self.holders - self.quorum

    def corrected(self, answers: int) -> int:
        """Return how many wrong ones out of so many answers are certain to be found."""
        return max(answers - self.threshold, 0) // 2

    def claim(self, min_sites: int) -> int:
        """Return c, how many holders may be the aggregator's; 0 or less: nothing is claimed.

        Args:
            min_sites: fewest sites whose sum is opened.
        """
        return min(self.threshold - 1, 2 * self.quorum - self.holders - 1, min_sites - 2)

    def require_claim(self, min_sites: int) -> int:
        """Return c, if it is one at least.

        Raises:
            PlanError: the aggregator with one single holder could read an update, or take two sums apart.
        """
        claim = self.claim(min_sites)
        if claim < 1:
            raise PlanError(
                Reason.INSECURE_PARAMETERS,
                "expected holders who keep updates from the aggregator and any one of themselves; "
                + self._why(min_sites),
                "take four holders or more, one of them outside the sites if need be, and sums of three sites or more",
            )
        return claim

    def _why(self, min_sites: int) -> str:
        """Say which of the three numbers is too small."""
        if min_sites < 3:
            return f"in a sum of {counted(min_sites, 'site')} each site computes the others' by subtraction"
        if self.threshold < 2:
            return "with a threshold of 1 each holder has every key"
        return (
            f"with a quorum of {self.quorum} of {self.holders} one lying holder and the aggregator can get answers for "
            f"two different sums of a round"
        )
