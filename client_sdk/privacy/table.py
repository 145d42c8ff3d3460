"""The tables of docs/privacy.md: `python -m client_sdk.privacy.table`. A test compares the page with them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from client_sdk.privacy.accountant import gaussian_epsilon, gaussian_noise_for

__all__ = ["afford", "costs", "main"]

ROUNDS = (1, 10, 50, 100)
DELTA = 1e-5
HOSPITALS = 10
COLLUDERS = 1


def costs() -> Iterator[str]:
    """Compute epsilon by noise multiplier and rounds."""
    yield "| z | " + " | ".join(f"{rounds} round{'s' * (rounds > 1)}" for rounds in ROUNDS) + " |"
    yield "|---|" + "---|" * len(ROUNDS)
    for z in (1.0, 2.0, 4.0, 8.0, 16.0):
        yield f"| {z:g} | " + " | ".join(f"{gaussian_epsilon(z, rounds, DELTA):.3g}" for rounds in ROUNDS) + " |"


def afford() -> Iterator[str]:
    """Compute what ten hospitals pay: noise for an epsilon, and what is left of an update of 1,000 values."""
    honest = HOSPITALS - COLLUDERS
    yield "| epsilon | rounds | noise multiplier z | noise in the mean, norm over C, 1,000 values | 100,000 values |"
    yield "|---|---|---|---|---|"
    for epsilon in (1.0, 3.0, 10.0, 30.0):
        for rounds in (1, 10, 100):
            z = gaussian_noise_for(epsilon, rounds, DELTA)
            ratios = [z * math.sqrt(values * HOSPITALS / honest) / HOSPITALS for values in (1_000, 100_000)]
            yield f"| {epsilon:g} | {rounds} | {z:g} | {ratios[0]:.3g} | {ratios[1]:.3g} |"


def main() -> None:
    """Print both."""
    print("\n".join([*costs(), "", *afford()]))


if __name__ == "__main__":
    main()
