"""Train in one process where sites are late, away, killed and started again: the plan's integers, no network."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client_sdk.federated import Outcome, given
from he_agg import dequantize, quantize
from he_agg.errors import ProtocolError, Reason


class KilledError(BaseException):
    """The process of a site ends here."""


@dataclass(frozen=True)
class Fate:
    """What goes wrong in a round.

    Attributes:
        failures: how many attempts fail before one has a mean.
        late: sites whose update is not in the sum.
        away: sites that are not asked, and fetch the mean afterwards.
        killed: sites that end, and start again: "before" their update is under way, or "after" it is in the sum.
    """

    failures: int = 0
    late: frozenset[str] = frozenset()
    away: frozenset[str] = frozenset()
    killed: dict[str, str] = field(default_factory=dict)


class Hub:
    """Adds what the sites send.

    Attributes:
        sent: by round, each site's integers in the attempt that has a mean.
        means: by the id of an attempt; None where it failed.
    """

    def __init__(self, plan, names, fates):
        self.plan, self.names, self.fates = plan, names, fates
        self.sent: dict[int, dict[str, Any]] = {}
        self.means: dict[str, Any] = {}
        self.coming: dict[str, Any] = {}
        self.barrier = threading.Barrier(len(names), self._add)
        self.open = (1, 1)

    @property
    def attempts(self):
        return [(n, a) for n, fate in enumerate(self.fates, 1) for a in range(1, fate.failures + 2)]

    def id_of(self, number, attempt):
        return f"{self.plan.public.federation}.{number}.{attempt}"

    def _add(self):
        number, attempt = self.open
        fate = self.fates[number - 1]
        sent = {name: v for name, v in self.coming.items() if v is not None and name not in fate.late}
        mean = None
        if attempt > fate.failures:
            mean = dequantize(self.plan, np.sum(list(sent.values()), axis=0, dtype=np.int64), len(sent), sent)
            self.sent[number] = sent
        self.means[self.id_of(number, attempt)] = mean
        self.coming = {}
        place = self.attempts.index(self.open) + 1
        self.open = self.attempts[place] if place < len(self.attempts) else (number + 1, 1)


class Site:
    """One site, as `train` knows it; it outlives the processes in which it is opened."""

    notices = ()

    def __init__(self, hub, name):
        self.hub, self.name, self.plan = hub, name, hub.plan
        self.federation = hub.plan.public.federation
        self.done = 0  # attempts that are over for this site
        self.deaths: set[int] = set()

    def rounds(self):
        while self.done < len(self.hub.attempts):
            number, attempt = self.hub.attempts[self.done]
            if self.name in self.hub.fates[number - 1].away:
                self.arrive(None)
            else:
                yield Round(self, number, attempt)

    def arrive(self, values):
        self.hub.coming[self.name] = values
        self.hub.barrier.wait()
        self.done += 1

    def last_published(self):
        return next((i for i in reversed(self.hub.means) if self.hub.means[i] is not None), None)

    def say(self, text):
        pass

    def fetch(self, round_id=None):
        mean = self.hub.means[round_id]
        if mean is None:
            raise ProtocolError(Reason.ROUND_FAILED, f"{round_id} failed")
        return mean


class Round:
    """One attempt."""

    submitted = False

    def __init__(self, site, number, attempt):
        self.site, self.number, self.attempt = site, number, attempt
        self.federation, self.id = site.federation, site.hub.id_of(number, attempt)

    def take_part(self, update=None, weight=None, **how):
        site, fate = self.site, self.site.hub.fates[self.number - 1]
        made = given(update, weight, **how)
        assert made is not None
        values = None if made.is_nothing else quantize(site.plan, update, weight, **how).values
        killed = "" if self.number in site.deaths else fate.killed.get(site.name)
        if killed:
            site.deaths.add(self.number)
        if killed == "before":
            raise KilledError
        site.arrive(values)
        if killed == "after":
            raise KilledError
        counted = values is not None and site.name not in fate.late
        return Outcome(self.id, site.hub.means[self.id], counted=counted)


def trained(plan, names, fates, work):
    """Run `work(site, index)`, which calls `train`, at each site, again when it is killed.

    Returns:
        The results, and the hub.

    Raises:
        Exception: the first error of any site.
    """
    hub = Hub(plan, names, fates)

    def living(index):
        site = Site(hub, names[index])
        try:
            while True:
                with contextlib.suppress(KilledError):
                    return work(site, index)
        except BaseException:
            hub.barrier.abort()
            raise

    with ThreadPoolExecutor(len(names)) as pool:
        futures = [pool.submit(living, index) for index in range(len(names))]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures], hub
