"""The aggregator's operator runs two copies of it, for two groups of hospitals that must not know of each other.

Both are real aggregators with the real key, on a copy of the data directory, and publish whatever two sites have sent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk.local import found, plan_for, site_names
from he_agg import DecryptionError, ProtocolError, Reason
from he_agg.host.processes import AggregatorProcess
from he_agg.ids import RoundId
from service.core.conductor import Conductor
from tests.attacks import careless
from tests.support.peers import operator, pass_time
from tests.support.real import in_threads, until
from tests.support.server import QUICK, server_zygote

NAMES = A, B, C, D = site_names(4)


def changed(command: Sequence[str], **how: Any) -> Any:
    """Start the aggregator of `careless.py` instead."""
    return server_zygote().spawn([*command[:3], "tests.attacks.careless", *command[4:]], **how)


class Copies:
    """Two copies of one federation of four, and its sites, which go where they are sent."""

    def __init__(self, root: Path, stack: ExitStack, min_sites: int) -> None:
        self.root, self._stack = root, stack
        model = {"w": np.zeros(4)}
        plan = self.plan = plan_for(model, NAMES, weight_cap=1, min_sites=min_sites, codec="ckks")
        first = AggregatorProcess(root / "one", environment=QUICK, spawn=changed)
        found(first, plan, NAMES, root)
        shutil.copytree(root / "one", root / "two")
        second = AggregatorProcess(root / "two", environment=QUICK, spawn=changed)
        self.urls = [stack.enter_context(server).url for server in (first, second)]

    def site(self, name: str, copy: int) -> Site:
        """A site that is shown one of the copies."""
        home = self.root / name
        files = {what: str(home / what) for what in ("identity", "keystore", "spool")}
        settings: dict[str, Any] = {
            "url": self.urls[copy],
            "roster": str(home / "roster.json"),
            "patience_s": 20,
            **files,
        }
        path = home / "site.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        return self._stack.enter_context(Site.open(path, security_log=home / "security.log"))

    @contextmanager
    def closing(self, copies: Sequence[int], complete: int) -> Iterator[None]:
        """Let the deadline come at these copies when so many submissions are there. Their operator's hands do it."""

        def close(copy: int) -> None:
            place, name = self.root / ("one", "two")[copy], self.plan.public.federation
            with operator(place) as (store, _):

                def all_there() -> bool:
                    with store.read() as tx:
                        return len(tx.completed(RoundId(name, 1, 1))) == complete

                until(all_there, 60)
            pass_time(place, name)

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(copies)) as pool:
            patch.setattr(Conductor, "_load", careless._load)
            closed = [pool.submit(close, copy) for copy in copies]
            yield
            for one in closed:
                one.result()

    def log(self, name: str) -> list[dict[str, Any]]:
        """What a site's security log says."""
        path = self.root / name / "security.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def copies(root: Path, min_sites: int) -> Iterator[Copies]:
    with ExitStack() as stack:
        yield Copies(root, stack, min_sites)


def aggregate(site: Site) -> Any:
    update = {"w": np.zeros(4)}
    update["w"][NAMES.index(site.name)] = 0.5
    try:
        return next(site.rounds()).aggregate(update, weight=1)
    except (DecryptionError, ProtocolError) as error:
        return error


def test_no_site_opens_a_sum_of_a_group_that_is_kept_apart(tmp_path):
    """Pairs are refused; and three of the four cannot be had twice, for one of them would have to forget."""
    with copies(tmp_path, min_sites=3) as both:
        shown = [(A, 0), (B, 0), (C, 1), (D, 1)]
        sites = {name: both.site(name, copy) for name, copy in shown}
        with both.closing((0, 1), 2):
            errors = in_threads(lambda name: aggregate(sites[name]), NAMES)
        for name, error in zip(NAMES, errors, strict=True):
            assert isinstance(error, DecryptionError), error
            assert error.reason == Reason.SUM_REJECTED
            (line,) = both.log(name)
            assert (line["what"], line["expected"], line["got"]) == ("record, fewest members", "3", "2")


def test_a_site_that_has_seen_one_copy_does_not_take_part_at_the_other(tmp_path):
    with copies(tmp_path, min_sites=3) as both:
        three = [both.site(name, 0) for name in (A, B, C)]
        with both.closing((0,), 3):
            means = in_threads(lambda name: aggregate(three[NAMES.index(name)]), (A, B, C))
        assert [mean.n_sites for mean in means] == [3, 3, 3]
        # The other copy has D, and needs two of these three.
        in_threads(lambda name: both.site(name, 1).current(), (D,))
        error = aggregate(both.site(B, 1))
        assert isinstance(error, ProtocolError), error
        assert error.reason == Reason.CHAIN_MISMATCH


def test_where_the_roster_allows_small_groups_pairs_are_left(tmp_path):
    """What SECURITY.md says is left: all of it is as agreed on, and each reads its partner by subtraction."""
    with copies(tmp_path, min_sites=2) as both:
        shown = [(A, 0), (B, 0), (C, 1), (D, 1)]
        sites = {name: both.site(name, copy) for name, copy in shown}
        assert "SMALL GROUPS ARE ALLOWED" in sites[A].roster.smallest_group
        with both.closing((0, 1), 2):
            means = in_threads(lambda name: aggregate(sites[name]), NAMES)
        assert [mean.n_sites for mean in means] == [2, 2, 2, 2]
        assert [means[0].tensors["w"][i] != 0 for i in range(4)] == [True, True, False, False]
