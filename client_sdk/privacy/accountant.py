"""From noise to epsilon, by dp-accounting (extra `privacy`), which is loaded when something is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.privacy.mechanism import ORDERS
from he_agg.errors import ConfigError, InputError, Reason

__all__ = ["epsilon_of", "gaussian_epsilon", "gaussian_noise_for"]


def epsilon_of(rdp: NDArray[np.float64], delta: float, orders: Sequence[int] = ORDERS) -> float:
    """Bound the epsilon that Renyi divergences amount to; it holds for the integer noise.

    Args:
        rdp: added up over rounds. Shape: (len(orders),)
        delta: from 0 to 1, both excluded.
        orders: those of `rdp`.
    """
    _check_delta(delta)
    if not np.any(rdp):
        return 0.0
    epsilon, _ = _library().rdp.compute_epsilon(list(orders), [float(value) for value in rdp], delta)
    return float(epsilon)


def gaussian_epsilon(noise_multiplier: float, rounds: int, delta: float = 1e-5) -> float:
    """Compute the tight epsilon of so many rounds of Gaussian noise without sampling.

    Rounds compose to one of noise z / sqrt(rounds), whose privacy profile is known in closed form. Integer noise of
    many grid steps costs the same up to a little that `Mechanism.rdp` accounts for; budgets are kept by `epsilon_of`,
    a few per cent higher and proved for the integers.

    Args:
        noise_multiplier: z.
        delta: from 0 to 1, both excluded.

    Source: Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, theorem 8.
    """
    _check_delta(delta)
    if not (0 < noise_multiplier < math.inf and rounds >= 1):
        raise InputError(Reason.BAD_ARGUMENT, "expected a positive noise multiplier and at least one round")
    return float(_library().get_epsilon_gaussian(noise_multiplier / math.sqrt(rounds), delta))


def gaussian_noise_for(epsilon: float, rounds: int, delta: float = 1e-5) -> float:
    """Find the noise multiplier with which so many rounds cost at most `epsilon`: 3 digits, rounded up.

    Args:
        epsilon: what may be spent.
        delta: from 0 to 1, both excluded.
    """
    if not (math.isfinite(epsilon) and epsilon > 0 and rounds >= 1):
        raise InputError(Reason.BAD_ARGUMENT, f"expected a positive epsilon and round, got {epsilon!r} and {rounds}")
    _check_delta(delta)
    needed = float(_library().get_sigma_gaussian(epsilon, delta)) * math.sqrt(rounds)
    unit = 10.0 ** (math.floor(math.log10(needed)) - 2)
    return float(f"{math.ceil(needed / unit) * unit:.3g}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise InputError(Reason.BAD_ARGUMENT, f"delta: expected a number between 0 and 1, got {delta!r}")


def _library() -> Any:
    try:
        import dp_accounting
        from dp_accounting import rdp  # noqa: F401 - makes it a member
    except ImportError as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            "accounting needs dp-accounting, which is not installed",
            "pip install 'he-agg[privacy]'",
        ) from error
    return dp_accounting
