"""A federation without aggregator, network and encryption, to try a recipe or to check an encrypted run against.

The sites are threads; a round's mean comes from the same fixed point as the encrypted one: the same bits.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, Unpack

import numpy as np

from client_sdk.coarse import Coarse
from client_sdk.federated import Federated, Outcome, Sending, given, repeated
from client_sdk.lines import Lines, somebody_watches
from client_sdk.progress import Notice
from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean, dequantize, quantize
from he_agg.plan.plan import Plan
from keys.recognition import recognise

__all__ = ["simulate"]

T = TypeVar("T")


class _Turns:
    """Lets one site work at a time, in order, from one mean to the next.

    Libraries have one source of random numbers for all threads: `torch.manual_seed(0)` before a model is made, or at
    the beginning of `fit`, would be worth nothing if another thread drew meanwhile.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self._changed = threading.Condition()
        self._left = list(sites)
        self._waiting = list(sites)
        self._broken = False

    def begin(self) -> None:
        """Let all sites that are left work once more."""
        with self._changed:
            self._waiting = list(self._left)
            self._changed.notify_all()

    def take(self, site: str) -> None:
        """Wait for a site's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._waiting[:1] == [site])
            if self._broken:
                raise threading.BrokenBarrierError

    def hand_on(self, site: str) -> None:
        """Let the next one work."""
        with self._changed:
            self._waiting = [other for other in self._waiting if other != site]
            self._changed.notify_all()

    def leave(self, site: str) -> None:
        """Have no more turns."""
        self._left = [other for other in self._left if other != site]
        self.hand_on(site)

    def abort(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()


class _Hub:
    """Adds integers of all sites, and hands everybody the mean."""

    def __init__(self, plan: Plan, sites: Sequence[str]) -> None:
        self.plan = plan
        self.values: dict[str, Any] = {}
        self.mean: Mean | None = None
        self.turns = _Turns(sites)
        self.barrier = threading.Barrier(len(sites), self._add)

    def _add(self) -> None:
        sent = {site: values for site, values in self.values.items() if values is not None}
        if len(sent) < self.plan.public.min_sites:
            raise ProtocolError(
                Reason.ROUND_FAILED,
                f"expected samples at {self.plan.public.min_sites} sites at least, got some at {len(sent)}",
                "a real federation tries such a round again until enough sites have samples",
            )
        total = np.zeros(self.plan.public.values, dtype=np.int64)
        for values in sent.values():
            total += values
        self.mean = dequantize(self.plan, total, len(sent), sent)
        self.values = {}
        self.turns.begin()

    def aggregate(self, site: str, values: Any) -> Mean:
        self.values[site] = values
        self.turns.hand_on(site)
        self.barrier.wait()
        self.turns.take(site)
        # The next round cannot begin before every site has come back for it.
        if self.mean is None:
            raise RuntimeError("the round has no mean")
        return self.mean


class _Sent:
    """What a site has sent, all of which is in a sum: as for a real one, the same update is not sent again."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._rounds: dict[str, str] = {}

    def note(self, plan: Plan, round_id: str, update: Mapping[str, Any], weight: int, *, may_repeat: bool) -> None:
        arrays = [np.ascontiguousarray(array) for array in plan.layout.arrays(update)]
        fingerprint = recognise(self._secret, int(weight), arrays)
        before = self._rounds.get(fingerprint)
        if before is not None and not may_repeat:
            raise repeated(round_id, f"is in the sum of round {before}")
        self._rounds[fingerprint] = round_id


class _Round:
    """A round of a simulated federation. Nobody is late, so it never fails."""

    submitted = False

    def __init__(self, hub: _Hub, site: str, number: int, coarse: Coarse, sent: _Sent) -> None:
        self._hub, self._site, self.number, self._coarse, self._sent = hub, site, number, coarse, sent
        self.federation = hub.plan.public.federation
        self.id = str(RoundId(self.federation, number, 1))

    def aggregate(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Mean:
        rounding, on_overflow = how.get("rounding", "nearest"), how.get("on_overflow", "error")
        made = quantize(self._hub.plan, update, weight, rounding=rounding, on_overflow=on_overflow)
        self._sent.note(self._hub.plan, self.id, update, weight, may_repeat=how.get("may_repeat", False))
        self._coarse.tell(f"site {self._site}", made.rounded)
        return dataclasses.replace(self._hub.aggregate(self._site, made.values), rounded=made.rounded)

    def take_part(
        self, update: Mapping[str, Any] | None = None, weight: int | None = None, **how: Unpack[Sending]
    ) -> Outcome:
        made = given(update, weight, **how)
        if made is not None and made.is_nothing:
            mean = self._hub.aggregate(self._site, None)
            return Outcome(self.id, mean, counted=False, why=f"round {self.id}: this site has no samples in it")
        return Outcome(self.id, self.aggregate(update or {}, weight or 0, **how), counted=True)


class _Site:
    """A site of a simulated federation. Nothing was ever missed, so there is nothing to fetch."""

    def __init__(self, hub: _Hub, name: str, lines: Lines | None) -> None:
        self._hub, self.name, self._coarse, self._lines = hub, name, Coarse(), lines
        self._sent = _Sent()
        self.plan = hub.plan
        self.federation = hub.plan.public.federation

    @property
    def notices(self) -> tuple[Notice, ...]:
        return ()

    def say(self, text: str) -> None:
        if self._lines is not None:
            self._lines.say(text)

    def rounds(self) -> Iterator[_Round]:
        for number in range(1, self.plan.public.rounds + 1):
            yield _Round(self._hub, self.name, number, self._coarse, self._sent)

    def last_published(self) -> str | None:
        return None

    def fetch(self, round_id: str | None = None) -> Mean:
        raise ProtocolError(Reason.SUM_GONE, f"round {round_id}: a simulated federation keeps no sums")


def simulate(plan: Plan, sites: Sequence[str], work: Callable[[Federated, int], T]) -> list[T]:
    """Run `work(site, index)` for every site of a simulated federation, each in a thread of its own, one at a time.

    From one mean to the next the sites work in their order, so that what draws from a library's random numbers draws
    the same every time.

    Args:
        sites: names; seeds follow from them, so take the real ones to compare.
        work: calls `train(site, ...)`, for instance.

    Raises:
        Exception: the first error of any site.
    """
    hub = _Hub(plan, sites)

    def guarded(name: str, index: int) -> T:
        try:
            hub.turns.take(name)
            lines = Lines(name) if index == 0 and somebody_watches() else None  # one speaks for all
            return work(_Site(hub, name, lines), index)
        except BaseException:
            hub.barrier.abort()
            hub.turns.abort()
            raise
        finally:
            hub.turns.leave(name)

    with ThreadPoolExecutor(len(sites)) as pool:
        futures = [pool.submit(guarded, name, index) for index, name in enumerate(sites)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]
