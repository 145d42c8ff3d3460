"""When to stop: a rule that every hospital applies alone, and all at the same round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from examples.demo.model import Params


def _squared_norm(tensors: Mapping[str, NDArray[np.floating[Any]]]) -> float:
    """Sum of squares, correctly rounded.

    A plain `sum` depends on the vector width of the processor, and two hospitals whose sums differ in
    the last bit could disagree about the last round. `fsum` gives every machine the same bits.
    """
    flat = np.concatenate([np.ravel(t).astype(np.float64) for t in tensors.values()])
    return math.fsum((flat * flat).tolist())


class Convergence:
    """Stop once the mean update has been small beside the model for some rounds in a row.

    It sees only what all hospitals share to the bit (the decrypted mean and the model), so no message
    about stopping is needed. It never looks at a test score: that would be tuning on the test set.
    """

    def __init__(self, tolerance: float = 2e-3, patience: int = 2, max_rounds: int = 25) -> None:
        """Start counting.

        Args:
            tolerance: a round is small when the L2 norm of its mean update, over that of the model, is below.
            patience: how many small rounds in a row end the training.
            max_rounds: end here in any case.
        """
        self.tolerance = tolerance
        self.patience = patience
        self.max_rounds = max_rounds
        self.rounds = 0
        self._small = 0

    def observe(self, mean_update: Mapping[str, NDArray[np.floating[Any]]], model: Params) -> bool:
        """Count one finished round.

        Args:
            mean_update: the decrypted mean of the round.
            model: the global model after the mean was applied.

        Returns:
            Whether training is over.
        """
        self.rounds += 1
        limit = self.tolerance * self.tolerance * _squared_norm(model)
        self._small = self._small + 1 if _squared_norm(mean_update) < limit else 0
        return self.done

    @property
    def done(self) -> bool:
        """Whether training is over."""
        return self._small >= self.patience or self.rounds >= self.max_rounds
