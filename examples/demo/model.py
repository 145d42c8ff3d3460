"""A small network in plain NumPy: two hidden layers, one output, 9,473 numbers.

Small enough that a demonstration takes seconds, large enough that its update fills several
ciphertexts. It is written out here rather than taken from a framework so that the demonstration
installs none and repeats bit for bit: results are compared with `==`, not with a tolerance.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats: TypeAlias = NDArray[np.floating[Any]]
Params: TypeAlias = dict[str, Floats]

HIDDEN = (128, 64)
LAYERS = len(HIDDEN) + 1
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
BATCH = 32


def init_params(n_features: int, seed: int) -> Params:
    """Draw the common starting point: every hospital calls this with the same seed.

    Args:
        n_features: width of the input.
        seed: public; part of what the hospitals agree on.

    Returns:
        `layer1.weight` `(n_features, 128)`, `layer1.bias` `(128,)`, and so on to `layer3.bias` `(1,)`.
    """
    rng = np.random.default_rng(seed)
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise((n_features, *HIDDEN, 1)), start=1):
        spread = np.sqrt(2 / fan_in) * (1.0 if layer < LAYERS else 0.3)  # start undecided: small logits
        params[f"layer{layer}.weight"] = (spread * rng.standard_normal((fan_in, fan_out))).astype(np.float32)
        params[f"layer{layer}.bias"] = np.zeros(fan_out, np.float32)
    return params


def _forward(params: Params, features: NDArray[np.float32]) -> tuple[list[Floats], Floats]:
    """The input of each layer, and the logits."""
    inputs = [features]
    for layer in range(1, LAYERS):
        sums = inputs[-1] @ params[f"layer{layer}.weight"] + params[f"layer{layer}.bias"]
        inputs.append(np.maximum(sums, 0))
    logits = inputs[-1] @ params[f"layer{LAYERS}.weight"] + params[f"layer{LAYERS}.bias"]
    return inputs, logits[:, 0]


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    half = np.float32(0.5)
    # Unlike 1 / (1 + exp(-x)) this cannot overflow.
    risk: NDArray[np.float32] = half + half * np.tanh(half * logits)
    return risk


def loss_and_gradient(params: Params, features: NDArray[np.float32], died: NDArray[np.float32]) -> tuple[float, Params]:
    """Mean binary cross-entropy plus `WEIGHT_DECAY / 2` times the squared weights (not the biases).

    Args:
        params: as from `init_params`; any float dtype, which the gradient keeps.
        features: Shape: `(n, n_features)`, n > 0.
        died: Shape: `(n,)`, 0 or 1.

    Returns:
        The loss and its gradient, tensor by tensor.
    """
    inputs, logits = _forward(params, features)
    loss = float(np.mean(np.logaddexp(0, logits) - died * logits))
    gradient: Params = {}
    upstream = ((_sigmoid(logits) - died) / np.float32(len(died)))[:, None]
    for layer in range(LAYERS, 0, -1):
        weight = params[f"layer{layer}.weight"]
        loss += WEIGHT_DECAY / 2 * float(np.sum(weight**2))
        gradient[f"layer{layer}.weight"] = inputs[layer - 1].T @ upstream + np.float32(WEIGHT_DECAY) * weight
        gradient[f"layer{layer}.bias"] = upstream.sum(axis=0)
        upstream = (upstream @ weight.T) * (inputs[layer - 1] > 0)
    return loss, {name: gradient[name] for name in params}


def fit_local(
    params: Params,
    features: NDArray[np.float32],
    died: NDArray[np.float32],
    epochs: int,
    lr: float,
    seed: int | Sequence[int],
) -> Params:
    """Train on one hospital's patients: minibatch gradient descent with momentum.

    Momentum starts at zero in every call: carried over from round to round it would pull a hospital
    back to where it went before the others were averaged in.

    Args:
        params: where to start; left as it is.
        features: Shape: `(n, n_features)`, n > 0.
        died: Shape: `(n,)`, 0 or 1.
        epochs: passes over the data.
        lr: step size.
        seed: order of the patients. The same seed gives the same bits in every process with the same processor
            and the same BLAS settings (`OPENBLAS_CORETYPE` picks other kernels, which round differently), whatever
            the number of threads.

    Returns:
        New parameters, float32.
    """
    rng = np.random.default_rng(seed)
    trained = {name: tensor.copy() for name, tensor in params.items()}
    velocity = {name: np.zeros_like(tensor) for name, tensor in params.items()}
    for _ in range(epochs):
        order = rng.permutation(len(died))
        for start in range(0, len(died), BATCH):
            rows = order[start : start + BATCH]
            _, gradient = loss_and_gradient(trained, features[rows], died[rows])
            for name, tensor in trained.items():
                velocity[name] *= np.float32(MOMENTUM)
                velocity[name] += gradient[name]
                tensor -= np.float32(lr) * velocity[name]
    return trained


def predict(params: Params, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of death within the horizon, per patient. Shape: `(n,)`."""
    return _sigmoid(_forward(params, features)[1])


def auc(died: NDArray[np.float32], risk: NDArray[np.float32]) -> float:
    """Chance that a patient who died was given a higher risk than one who lived; ties count half.

    Args:
        died: Shape: `(n,)`, 0 or 1.
        risk: Shape: `(n,)`.

    Returns:
        Area under the ROC curve, 0.5 for guessing.

    Raises:
        ValueError: nobody died, or everybody.
    """
    positive = died > 0.5
    n_died, n_lived = int(positive.sum()), int((~positive).sum())
    if not n_died or not n_lived:
        raise ValueError(f"AUC needs patients of both outcomes, got {n_died} dead and {n_lived} living")
    _, level = np.unique(risk, return_inverse=True)
    lived_at = np.bincount(level, weights=~positive)
    died_at = np.bincount(level, weights=positive)
    below = np.cumsum(lived_at) - lived_at / 2
    return float(died_at @ below) / (n_died * n_lived)


def subtract(after: Params, before: Params) -> Params:
    """The update: what training changed, tensor by tensor."""
    return {name: after[name] - before[name] for name in before}
