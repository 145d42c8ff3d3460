"""What encryption is measured against: the same training with nothing encrypted, and with nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.demo.learner import Hospital, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from examples.demo.data import Share
    from examples.demo.model import Params


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training.

    Attributes:
        params: the final model.
        score_per_round: AUC on the common test set after each round.
        largest_update: largest absolute entry of any update in any round; the clip must lie above.
    """

    params: Params
    score_per_round: list[float]
    largest_update: float

    @property
    def score(self) -> float:
        """AUC of the final model."""
        return self.score_per_round[-1]

    @property
    def rounds(self) -> int:
        """Rounds trained."""
        return len(self.score_per_round)


def weighted_mean(
    updates: Sequence[tuple[Mapping[str, NDArray[np.floating[Any]]], int]],
) -> dict[str, NDArray[np.float64]]:
    """FedAvg: the mean of the updates, weighted by sample counts, in float64.

    Args:
        updates: (named tensors, sample count) of each hospital, at least one.

    Returns:
        The mean, tensor by tensor.

    Raises:
        ValueError: no update, or a count below 1.
    """
    if not updates:
        raise ValueError("a mean needs at least one update, got none")
    if (least := min(weight for _, weight in updates)) < 1:
        raise ValueError(f"expected sample counts of at least 1, got {least}")
    total = sum(weight for _, weight in updates)
    return {
        name: np.asarray(sum(weight * tensors[name].astype(np.float64) for tensors, weight in updates) / total)
        for name in updates[0][0]
    }


def fedavg(shares: Sequence[Share], recipe: Recipe | None = None, rounds: int | None = None) -> Run:
    """Federated averaging in the clear.

    Args:
        shares: what each hospital holds.
        recipe: the agreed recipe.
        rounds: train exactly so many; until the stopping rule says so if left out.

    Returns:
        The run. All hospitals hold the same model, so there is one score per round.
    """
    hospitals = [Hospital(share, recipe) for share in shares]
    leader = hospitals[0]
    scores: list[float] = []
    largest = 0.0
    while not (leader.done if rounds is None else len(scores) >= rounds):
        updates = [hospital.train() for hospital in hospitals]
        largest = max(largest, *(float(np.abs(t).max()) for update, _ in updates for t in update.values()))
        mean = weighted_mean(updates)
        for hospital in hospitals:
            hospital.apply(mean)
        scores.append(leader.score())
    return Run(leader.params, scores, largest)


def local_only(shares: Sequence[Share], rounds: int, recipe: Recipe | None = None) -> dict[str, Run]:
    """Each hospital alone: a federation of one, for as many epochs and with the same step sizes.

    Args:
        shares: what each hospital holds.
        rounds: as many as the federated run took.
        recipe: the agreed recipe.

    Returns:
        One run per hospital name.
    """
    return {share.hospital: fedavg([share], recipe, rounds) for share in shares}
