"""A federation that runs: a real aggregator process and opened sites, for tests and examples of what builds on `Site`.

    with running_federation(layout, 3, value_bits=24) as federation:
        means = federation.everywhere(lambda site, i: next(site.rounds()).aggregate(updates[i], weight=1))

Everything that knows how sites join an aggregator is in this one file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from client_sdk import Site
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan
from keys import GroupKey
from service.core.aggregator_key import AggregatorKey
from service.domain import events
from service.operator import operations
from service.store.rows import Keeping
from tests.support.peers import operator
from tests.support.server import ServerProcess, start_server
from tests.support.trust import Consortium, consortium

__all__ = ["QUICK", "Running", "running_federation"]

T = TypeVar("T")

QUICK = {"HE_AGG_RECHECK_S": "0.05"}
"""Settings of an aggregator that does not keep tests waiting."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Running:
    """A started federation.

    Attributes:
        sites: opened, in the order of their names.
        plan: what they agreed on.
        server: the aggregator's process.
        root: a directory; each site's files are in `root / site.name`. Gone when the federation ends.
    """

    sites: tuple[Site, ...]
    plan: Plan
    server: ServerProcess
    root: Path

    def everywhere(self, work: Callable[[Site, int], T]) -> list[T]:
        """Do the same at all sites at once: `work(site, index)`, each in a thread of its own.

        Returns:
            The results in the order of the sites.

        Raises:
            Exception: the first error of any site; the federation is ended, so that the others do not wait.
        """
        with ThreadPoolExecutor(len(self.sites)) as pool:
            futures = [pool.submit(work, site, i) for i, site in enumerate(self.sites)]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in done if future.exception() is not None]
            if failed:
                self.end()
                raise failed[0].exception()
            return [future.result() for future in futures]

    def end(self) -> None:
        """End the federation: an open round fails, `site.rounds()` stops."""
        with operator(self.server.data_dir) as (_, conductor), contextlib.suppress(Exception):
            conductor.apply(self.plan.public.federation, events.Stopped())


@contextlib.contextmanager
def running_federation(
    layout_or_model: Layout | Plan | Mapping[str, Any],
    sites: int | Sequence[str] = 3,
    *,
    clip: float | Mapping[str, float] = 1.0,
    weight_cap: int = 1000,
    server: ServerProcess | None = None,
    name: str = "test",
    sample_fraction: float = 1.0,
    keep_sums: int | None = None,
    **plan_options: Any,
) -> Iterator[Running]:
    """Found a federation on a real aggregator and open its sites.

    Args:
        layout_or_model: a plan; or a layout, or named arrays to make one of with `clip` and `weight_cap`.
        sites: their names, or how many.
        clip: as for `Layout.of`.
        weight_cap: as for `Layout.of`.
        server: an aggregator that runs already, on which `name` is free; one is started and killed if None.
        name: of the federation.
        sample_fraction: which part of the sites is invited to each round.
        keep_sums: how many sums the aggregator keeps.
        plan_options: as for `Plan.create`.
    """
    names = [f"hospital-{_LETTERS[i]}" for i in range(sites)] if isinstance(sites, int) else list(sites)
    if isinstance(layout_or_model, Plan):
        plan = layout_or_model
    else:
        layout = (
            layout_or_model
            if isinstance(layout_or_model, Layout)
            else Layout.of(layout_or_model, clip=clip, weight_cap=weight_cap)
        )
        options = {"max_sites": max(2, len(names)), "min_sites": max(2, len(names)), "deadline_s": 300} | plan_options
        plan = Plan.create(name, layout, **options)
    key = GroupKey.create(plan)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="he-agg-")))
        if server is None:
            server = stack.enter_context(start_server(root / "aggregator", environment=QUICK))
        aggregator = AggregatorKey.load_or_create(server.data_dir).member
        members = consortium(plan.public.federation, names, aggregator, min_sites=plan.public.min_sites)
        with operator(server.data_dir) as (store, conductor):
            document, keeping = key.federation_document, Keeping(sample_fraction, keep_sums)
            operations.create_federation(store, conductor, document, members.roster.encode(), keeping=keeping)
            conductor.apply(plan.public.federation, events.Started())
        settings = [_settle(members, key, site, root / site, server.url) for site in names]
        opened = tuple(stack.enter_context(Site.open(path)) for path in settings)
        running = Running(opened, plan, server, root)
        try:
            yield running
        finally:
            running.end()


def _settle(members: Consortium, key: GroupKey, site: str, directory: Path, url: str) -> Path:
    directory.mkdir(mode=0o700)
    members.identities[site].save(directory / "identity")
    key.save(directory / "keystore")
    (directory / "roster.json").write_bytes(members.roster.encode())
    path = directory / "site.toml"
    path.write_text(
        f'url = "{url}"\nidentity = "identity"\nkeystore = "keystore"\n'
        'roster = "roster.json"\nspool = "spool"\npatience_s = 60\n'
    )
    return path
