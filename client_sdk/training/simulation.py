"""A federation without aggregator, network and encryption, to try a recipe or to check an encrypted run against.

The sites are threads; a round's mean comes from the same fixed point as the encrypted one: the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from he_agg.plan.fixedpoint import Mean, OnOverflow, Rounding, dequantize, quantize
from he_agg.plan.plan import Plan

__all__ = ["SimulatedRound", "SimulatedSite", "simulate"]

T = TypeVar("T")


class _Hub:
    """Adds integers of all sites, and hands everybody the mean."""

    def __init__(self, plan: Plan, n_sites: int) -> None:
        self.plan = plan
        self.values: dict[str, Any] = {}
        self.mean: Mean | None = None
        self.barrier = threading.Barrier(n_sites, self._add)

    def _add(self) -> None:
        total = np.zeros(self.plan.public.values, dtype=np.int64)
        for values in self.values.values():
            total += values
        self.mean = dequantize(self.plan, total, len(self.values))
        self.values = {}

    def aggregate(self, site: str, values: Any) -> Mean:
        self.values[site] = values
        self.barrier.wait()
        # The next round cannot begin before every site has come back for it.
        if self.mean is None:
            raise RuntimeError("the round has no mean")
        return self.mean


class SimulatedRound:
    """A round of a simulated federation, as `Round`."""

    submitted = False
    attempt = 1

    def __init__(self, hub: _Hub, site: str, number: int) -> None:
        self._hub, self._site, self.number = hub, site, number

    @property
    def id(self) -> str:
        """The round's id."""
        return f"{self._hub.plan.public.federation}.{self.number}.1"

    def aggregate(
        self,
        update: Mapping[str, Any],
        weight: int,
        *,
        rounding: Rounding = "nearest",
        on_overflow: OnOverflow = "error",
    ) -> Mean:
        """Return the mean of all sites' updates, as `Round.aggregate`."""
        quantized = quantize(self._hub.plan, update, weight, rounding=rounding, on_overflow=on_overflow)
        return self._hub.aggregate(self._site, quantized.values)


class SimulatedSite:
    """A site of a simulated federation: as much of `Site` as `train` needs."""

    def __init__(self, hub: _Hub, name: str) -> None:
        self._hub, self.name = hub, name
        self.plan = hub.plan
        self.federation = hub.plan.public.federation

    def rounds(self) -> Iterator[SimulatedRound]:
        """Yield all rounds of the plan."""
        for number in range(1, self.plan.public.rounds + 1):
            yield SimulatedRound(self._hub, self.name, number)

    def status(self) -> Any:
        """Report that nothing was missed."""
        return SimpleNamespace(last_published=None)

    def pending(self) -> list[str]:
        """Report that nothing is under way."""
        return []


def simulate(plan: Plan, sites: Sequence[str], work: Callable[[Any, int], T]) -> list[T]:
    """Run `work(site, index)` for every site of a simulated federation, each in a thread of its own.

    Args:
        sites: names; seeds follow from them, so take the real ones to compare.
        work: calls `train(site, ...)`, for instance.

    Raises:
        Exception: the first error of any site.
    """
    hub = _Hub(plan, len(sites))

    def guarded(name: str, index: int) -> T:
        try:
            return work(SimulatedSite(hub, name), index)
        except BaseException:
            hub.barrier.abort()
            raise

    with ThreadPoolExecutor(len(sites)) as pool:
        futures = [pool.submit(guarded, name, index) for index, name in enumerate(sites)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]
