"""A federation of three hospitals whose way to the aggregator goes through a liar."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from client_sdk import DecryptionError, HeAggError, Reason, Site
from he_agg import Layout, Mean, Plan
from keys import GroupKey
from service.core.aggregator_key import AggregatorKey
from service.domain.events import Started
from service.operator import operations
from tests.attacks.malicious import Lies, MaliciousAggregator
from tests.support.peers import operator
from tests.support.server import start_server
from tests.support.trust import consortium, identity_of

SITES = ("hospital-a", "hospital-b", "hospital-c")
VALUES = 70_000  # two whole batches and a short one: three parts a limb
_numbers = itertools.count(1)


class World:
    """One federation. All sites talk to the liar, who is honest until told otherwise."""

    def __init__(
        self, server, root: Path, *, codec: str = "hybrid", value_bits: int = 24, weight_cap: int = 100, rounds: int = 2
    ) -> None:
        self.name = f"attack-{next(_numbers)}"
        self.server = server
        self.root = root / self.name
        self.root.mkdir()
        values = VALUES if codec == "hybrid" else 5000
        layout = Layout.of({"w": np.zeros(values)}, clip=1.0, weight_cap=weight_cap)
        # The widest values: two limbs, so that there are three sections to attack.
        self.plan = Plan.create(
            self.name,
            layout,
            max_sites=5,
            min_sites=2,
            codec=codec,
            value_bits=value_bits,
            rounds=rounds,
            part_bytes=2**16,
        )
        self.group_key = GroupKey.create(self.plan)
        self.aggregator_key = AggregatorKey.load_or_create(server.data_dir).signing_key
        self.consortium = consortium(self.name, SITES, self.aggregator_key)
        with operator(server.data_dir) as (store, conductor):
            document, roster = self.group_key.federation_document, self.consortium.roster.encode()
            operations.create_federation(store, conductor, document, roster)
            conductor.apply(self.name, Started())
        self.liar = MaliciousAggregator(server.url, self.aggregator_key, self.plan.public)
        self.sites: dict[str, Site] = {}

    def open(self, name: str, **settings) -> Site:
        """A site's end, with files of its own; opened again it finds them."""
        directory = self.root / name
        if not directory.exists():
            directory.mkdir()
            identity_of(name).save(directory / "identity")
            self.group_key.save(directory / "keystore")
            (directory / "roster.json").write_bytes(self.consortium.roster.encode())
        files = {file: directory / file for file in ("identity", "keystore", "spool")}
        site = Site.open(
            url=self.liar.url,
            roster=directory / "roster.json",
            security_log=directory / "security.log",
            patience_s=20,
            result_s=20,
            **files,
            **settings,
        )
        if name in self.sites:
            self.sites[name].close()
        self.sites[name] = site
        return site

    def update(self, name: str, number: int) -> dict[str, np.ndarray]:
        """One-hot per site and round, so that what is in a sum can be seen."""
        update = np.zeros(self.plan.layout.tensors[0].size)
        update[10 * number + SITES.index(name)] = 0.5
        return {"w": update}

    def submit(self, *names: str, number: int = 1) -> str:
        """These sites submit honestly to the open round. Returns the round's id."""

        def one(name: str) -> str:
            round = next(self.sites[name].rounds())
            assert round.number == number
            round.submit(self.update(name, number), weight=100)
            return round.id

        with ThreadPoolExecutor(len(names)) as pool:
            (round_id,) = set(pool.map(one, names))
        return round_id

    def fetch(self, name: str, round_id: str) -> Mean:
        """What a site gets for a round."""
        return self.sites[name].fetch(round_id)

    def assert_rejected(self, name: str, round_id: str) -> str:
        """The site accepts nothing, says what it always says, and leaves nothing behind. Returns the security log."""
        log = self.root / name / "security.log"
        before = log.read_text() if log.exists() else ""
        with pytest.raises(HeAggError) as caught:
            self.fetch(name, round_id)
        assert isinstance(caught.value, DecryptionError), repr(caught.value)
        assert caught.value.reason is Reason.SUM_REJECTED
        assert caught.value.message == uniform_message(round_id)
        spooled = [path.name for path in (self.root / name / "spool").rglob("*") if path.is_file()]
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
        expected = sum(self.update(member, number)["w"] for member in members) / len(members)
        assert np.array_equal(mean.tensors["w"] != 0, expected != 0)
        assert mean.n_sites == len(members)


def uniform_message(round_id: str) -> str:
    """The one sentence of every rejection."""
    return f"round {round_id}: what the aggregator published was refused; nothing was released"


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory) -> Iterator:
    """A real aggregator that all attacks share; each has a federation of its own."""
    with start_server(tmp_path_factory.mktemp("attacks") / "data", environment={"HE_AGG_RECHECK_S": "0.05"}) as server:
        yield server


@pytest.fixture
def found(aggregator, tmp_path) -> Iterator:
    """Founds worlds."""
    worlds = []

    def make(**options) -> World:
        world = World(aggregator, tmp_path, **options)
        worlds.append(world)
        world.liar.__enter__()
        for name in SITES:
            world.open(name)
        return world

    yield make
    for world in worlds:
        for site in world.sites.values():
            site.close()
        world.liar.__exit__()


@pytest.fixture
def world(found) -> World:
    """One world with an open round."""
    return found()
