"""Real federations on a real aggregator, for the end-to-end tests."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from client_sdk._protocol.prepare import Update
from he_agg import Layout, Plan
from keys import GroupKey
from tests.support.founding import aggregator_of, found
from tests.support.server import ServerProcess, start_server
from tests.support.trust import consortium

QUICK = {"HE_AGG_RECHECK_S": "0.05"}
SITES = ("hospital-a", "hospital-b", "hospital-c")
_numbers = itertools.count(1)


class Federation:
    """A federation with its sites' files: one directory per site, with a `site.toml` in it."""

    def __init__(self, server: ServerProcess, root: Path, *, values: int = 5000, start: bool = True, **options) -> None:
        self.server = server
        self.name = f"sdk-{next(_numbers)}"
        self.root = root / self.name
        self.root.mkdir(parents=True)
        layout = Layout.of(
            {"weights": np.zeros((values - 2, 1), np.float32), "bias": np.zeros((), np.float64), "none": np.zeros(0)},
            clip=1.0,
            weight_cap=1000,
        )
        # ckks: its parts are small, so a few thousand values make several.
        options = {"max_sites": 5, "rounds": 1, "part_bytes": 2**16, "codec": "ckks"} | options
        self.plan = Plan.create(self.name, layout, **options)
        self.key = GroupKey.create(self.plan)
        self.consortium = consortium(self.name, SITES, aggregator_of(server.data_dir))
        found(server.data_dir, self.key, self.consortium.roster, start=start)
        for site in SITES:
            self._equip(site)

    def _equip(self, site: str) -> None:
        directory = self.directory(site)
        directory.mkdir(parents=True)
        self.consortium.identities[site].save(directory / "identity")
        self.key.save(directory / "keystore")
        (directory / "roster.json").write_bytes(self.consortium.roster.encode())
        (directory / "site.toml").write_text(
            f'url = "{self.server.url}"\nidentity = "identity"\nkeystore = "keystore"\n'
            'roster = "roster.json"\nspool = "spool"\npatience_s = 60\n'
        )

    def directory(self, site: str) -> Path:
        return self.root / site

    def config(self, site: str) -> Path:
        return self.directory(site) / "site.toml"

    def update(self, site: str, number: int = 1) -> Update:
        """One-hot per site and round; a 2 would be counted twice. Weights differ."""
        index = SITES.index(site)
        size = self.plan.layout.tensors[0].size
        weights = np.zeros((size, 1), np.float32)
        weights[(index + 10 * number) % size] = 1.0
        tensors = {"weights": weights, "bias": np.array(-0.25 * (index + 1)), "none": np.zeros(0)}
        return Update(tensors, 500 + 100 * index)


@pytest.fixture(scope="session")
def shared_aggregator(tmp_path_factory):
    """An aggregator that tests share. Do not kill it."""
    with start_server(tmp_path_factory.mktemp("sdk") / "data", environment=QUICK) as server:
        yield server


@pytest.fixture
def federate(shared_aggregator, tmp_path):
    """Founds federations on the shared aggregator."""

    def found(**options) -> Federation:
        return Federation(shared_aggregator, tmp_path, **options)

    return found


def in_threads(work, sites=SITES):
    """Do the same at all sites at once; the results in order, or the first error."""
    with ThreadPoolExecutor(len(sites)) as pool:
        return list(pool.map(work, sites))
