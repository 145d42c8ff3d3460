"""Three hospitals whose way to the aggregator goes through a liar."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from he_agg import DecryptionError, HeAggError, Layout, Mean, Plan, Reason
from service.core.aggregator_key import AggregatorKey
from tests.attacks.malicious import Lies, MaliciousAggregator
from tests.support.real import SITES, Hospitals, in_threads

VALUES = 140_000  # two to a coefficient: two whole batches and a short one, three parts a modulus
_numbers = itertools.count(1)


class Deceived(Hospitals):
    """All sites talk to the liar, who is honest until told otherwise."""

    def __init__(
        self,
        server,
        root: Path,
        *,
        codec: str = "hybrid",
        value_bits: int = 16,
        max_sites: int = 5,
        weight_cap: int = 100,
        rounds: int = 2,
        sample_percent: int = 100,
        plan_of: Callable[[str], Plan] | None = None,
    ) -> None:
        name = f"attack-{next(_numbers)}"
        layout = Layout.of({"w": np.zeros(VALUES if codec == "hybrid" else 5000)}, clip=1.0, weight_cap=weight_cap)
        # Two moduli, so that there are three sections to attack.
        terms: dict[str, Any] = {
            "max_sites": max_sites,
            "min_sites": 2,
            "value_bits": value_bits,
            "rounds": rounds,
            "part_bytes": 2**16,
            "sample_percent": sample_percent,
        }
        plan = Plan.create(name, layout, codec=codec, **terms) if plan_of is None else plan_of(name)
        super().__init__(server, root, plan)
        key = AggregatorKey.load_or_create(server.data_dir).signing_key
        self.liar = MaliciousAggregator(server.url, key, plan.public)
        self.open_sites: dict[str, Site] = {}

    def open(self, name: str, **settings) -> Site:
        """A site's end; opened again it finds its files."""
        if name in self.open_sites:
            self.open_sites[name].close()
        log = self.directory(name) / "security.log"
        # Arguments go before the settings file, which has the aggregator's own address.
        own: dict[str, Any] = {"url": self.liar.url, "security_log": log, "patience_s": 20, "result_s": 20}
        self.open_sites[name] = Site.open(self.config(name), **own | settings)
        return self.open_sites[name]

    def one_hot(self, name: str, number: int) -> dict[str, np.ndarray]:
        """One-hot per site and round, so that what is in a sum can be seen."""
        update = np.zeros(self.plan.layout.tensors[0].size)
        update[10 * number + SITES.index(name)] = 0.5
        return {"w": update}

    def submit(self, *names: str, number: int = 1) -> str:
        """These sites submit honestly to the open round. Returns the round's id."""

        def one(name: str) -> str:
            round = next(self.open_sites[name].rounds())
            assert round.number == number
            round.submit(self.one_hot(name, number), weight=100)
            return round.id

        (round_id,) = set(in_threads(one, names))
        return round_id

    def fetch(self, name: str, round_id: str) -> Mean:
        """What a site gets for a round."""
        return self.open_sites[name].fetch(round_id)

    def assert_rejected(self, name: str, round_id: str) -> str:
        """The site accepts nothing, says what it always says, and leaves nothing behind. Returns the security log."""
        log = self.directory(name) / "security.log"
        before = log.read_text() if log.exists() else ""
        with pytest.raises(HeAggError) as caught:
            self.fetch(name, round_id)
        assert isinstance(caught.value, DecryptionError), repr(caught.value)
        assert caught.value.reason is Reason.SUM_REJECTED
        assert caught.value.message == uniform_message(round_id)
        spooled = [path.name for path in (self.directory(name) / "spool").rglob("*") if path.is_file()]
        assert not [file for file in spooled if "sum" in file], spooled
        added = log.read_text().removeprefix(before)
        assert added.count("\n") == 1, "one event, one line"
        assert log.stat().st_mode & 0o777 == 0o600
        return added

    def assert_honest(self, name: str, round_id: str, members=SITES, number: int = 1) -> None:
        """With the truth, a site opens the same round to the mean of the members.

        A site that has been shown a false record, signed, stays with it: ask one that has not.
        """
        self.liar.lies = Lies()
        mean = self.fetch(name, round_id)
        expected = sum(self.one_hot(member, number)["w"] for member in members) / len(members)
        assert np.array_equal(mean.tensors["w"] != 0, expected != 0)
        assert mean.n_sites == len(members)


def uniform_message(round_id: str) -> str:
    """The one sentence of every rejection."""
    return f"round {round_id}: its sum failed the checks of this site; nothing was released"
