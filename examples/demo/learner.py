"""A hospital's side of federated averaging, without any encryption or network.

The process that speaks to the aggregator and the plaintext run that it is compared with use this very
class; they differ only in how the mean comes about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.demo.convergence import Convergence
from examples.demo.model import auc, fit_local, init_params, predict, subtract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from examples.demo.data import Share
    from examples.demo.model import Params

# Public, and the same for every hospital. The largest entry of any update in training is about 0.5.
CLIP = 1.0
# A round number above the largest hospital's patients, so that the cap tells nobody's exact count.
WEIGHT_CAP = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the hospitals agreed on before the first round.

    In five-fold cross-validation on the hospitals' own training rows these settings score 0.8353, the best of
    27 (step size, epochs, weight decay) 0.8364; they were taken because they also stop by the rule, after 15
    or 16 rounds, with updates half as large as the clip.
    """

    seed: int = 0
    epochs: int = 2
    lr: float = 0.02
    lr_decay: float = 0.85
    tolerance: float = 2e-3
    max_rounds: int = 25


class Hospital:
    """One hospital's model, patients and stopping rule.

    Attributes:
        name: the hospital's name.
        params: the global model as this hospital holds it.
        convergence: the stopping rule, fed by `apply`.
    """

    def __init__(self, share: Share, recipe: Recipe | None = None) -> None:
        self.name = share.hospital
        self._share = share
        self._recipe = recipe or Recipe()
        self.params = init_params(share.train.features.shape[1], self._recipe.seed)
        self.convergence = Convergence(self._recipe.tolerance, max_rounds=self._recipe.max_rounds)

    @property
    def round_number(self) -> int:
        """The round to train next, counted from 1. Attempts that failed do not count."""
        return self.convergence.rounds + 1

    @property
    def done(self) -> bool:
        """Whether the stopping rule has ended training."""
        return self.convergence.done

    def train(self, global_params: Params | None = None, round_number: int | None = None) -> tuple[Params, int]:
        """Train on this hospital's own patients, starting from the global model.

        A pure function of its arguments and the share: the same call gives the same bits again, in
        this process or in another one of the same machine and environment (see `fit_local`).

        Args:
            global_params: where to start; this hospital's `params` if left out.
            round_number: from 1; the next round if left out. Sets step size and order of patients.

        Returns:
            The update (difference to the start) and the number of patients, which is its weight.
        """
        start = self.params if global_params is None else global_params
        number = self.round_number if round_number is None else round_number
        lr = self._recipe.lr * self._recipe.lr_decay ** (number - 1)
        # The name, not a position in a list: a hospital shuffles the same whoever else takes part.
        seed = [self._recipe.seed, number, int.from_bytes(self.name.encode())]
        train = self._share.train
        trained = fit_local(start, train.features, train.died, self._recipe.epochs, lr, seed)
        return subtract(trained, start), len(train)

    def apply(self, mean_update: Mapping[str, NDArray[np.floating[Any]]]) -> bool:
        """Move the global model by the mean of the round.

        Args:
            mean_update: float32 or float64. The sum is made in float64 and rounded once, so hospitals that
                hold the same mean hold the same model, to the bit.

        Returns:
            Whether training is over.
        """
        self.params = {
            name: (tensor.astype(np.float64) + mean_update[name]).astype(np.float32)
            for name, tensor in self.params.items()
        }
        return self.convergence.observe(mean_update, self.params)

    def score(self) -> float:
        """AUC of the current model on the common test set."""
        return auc(self._share.test.died, predict(self.params, self._share.test.features))
