"""Real federations on a real aggregator, for the end-to-end tests."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from service.tokens import new_token

from client_sdk._encrypt import Update
from he_agg.layout import Layout
from he_agg.plan import Plan
from keys import GroupKey, SiteIdentity, write_secret_text
from service import operations
from service.settings import Settings
from service.store.sql import open_store
from tests.support.server import ServerProcess, start_server

QUICK = {"HE_AGG_RECHECK_S": "0.05"}
SITES = ("hospital-a", "hospital-b", "hospital-c")
_numbers = itertools.count(1)


class Federation:
    """A federation with its sites' files: one directory per site, with a `site.toml` in it."""

    def __init__(self, server: ServerProcess, root: Path, *, values: int = 5000, start: bool = True, **options) -> None:
        self.server = server
        self.name = f"sdk-{next(_numbers)}"
        self.root = root / self.name
        layout = Layout.of(
            {"weights": np.zeros((values - 2, 1), np.float32), "bias": np.zeros((), np.float64), "none": np.zeros(0)},
            clip=1.0,
            weight_cap=1000,
        )
        # ckks: its parts are small, so a few thousand values make several.
        options = {"max_sites": 5, "rounds": 1, "part_bytes": 2**16, "codec": "ckks"} | options
        self.plan = Plan.create(self.name, layout, **options)
        self.key = GroupKey.create(self.plan)
        store = open_store(Settings(data_dir=server.data_dir), create=True)
        try:
            operations.create_federation(store, self.key.federation_document)
            for site in SITES:
                self._join(store, site)
            if start:
                operations.start(store, self.name)
        finally:
            store.close()

    def _join(self, store, site: str) -> None:
        directory = self.directory(site)
        directory.mkdir(parents=True)
        token = new_token()
        operations.add_site(store, self.name, site, token)
        SiteIdentity.create(site).save(directory / "identity")
        self.key.save(directory / "keystore")
        write_secret_text(directory / "token", token)
        (directory / "site.toml").write_text(
            f'url = "{self.server.url}"\nidentity = "identity"\nkeystore = "keystore"\n'
            'token_file = "token"\nspool = "spool"\npatience_s = 60\n'
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
