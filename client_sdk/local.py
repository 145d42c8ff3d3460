"""A federation on one machine: an aggregator and sites, founded by the commands that people would type.

    with local_federation(plan, 3) as federation:
        means = federation.everywhere(lambda site, i: next(site.rounds()).aggregate(updates[i], weight=1))

For examples, tests and trials. All keys are in one place here, so nothing is hidden from whoever runs it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from client_sdk.site import Site
from he_agg.documents.roster import Role
from he_agg.errors import HeAggError
from he_agg.host.processes import AggregatorProcess
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan
from keys import GroupKey, Identity
from keys.public_file import read_public
from keys.rosters import new_roster, sign_roster

__all__ = ["LocalFederation", "found", "local_federation", "plan_for", "settings_of"]

T = TypeVar("T")

PROMPT = {"HE_AGG_RECHECK_S": "0.05"}
"""Settings of an aggregator that looks often for what commands did to its store."""


@dataclass(frozen=True)
class LocalFederation:
    """A started federation.

    Attributes:
        sites: opened, in the order of their names.
        plan: what they agreed on.
        aggregator: its process.
        root: a directory; each site's files are in `root / site.name`. Gone when the federation ends.
    """

    sites: tuple[Site, ...]
    plan: Plan
    aggregator: AggregatorProcess
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
            for future in done:
                if (error := future.exception()) is not None:
                    self.end()
                    raise error
            return [future.result() for future in futures]

    def end(self) -> None:
        """End the federation: an open round fails, `site.rounds()` stops."""
        with contextlib.suppress(HeAggError):  # it may have ended already
            self.aggregator.operate("federation", "end", self.plan.public.federation)


@contextlib.contextmanager
def local_federation(
    plan: Plan,
    sites: int | Sequence[str] = 3,
    *,
    aggregator: AggregatorProcess | None = None,
    options: Sequence[str] = (),
    progress: bool = False,
) -> Iterator[LocalFederation]:
    """Found a federation and open its sites.

    Args:
        plan: what they agree on.
        sites: their names, or how many.
        aggregator: one that runs already, on which the plan's name is free; one is started and stopped if None.
        options: of `he-agg federation create`, such as `--keep-sums`.
        progress: whether each site prints what it does and waits for.
    """
    names = site_names(sites) if isinstance(sites, int) else list(sites)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="he-agg-")))
        if aggregator is None:
            aggregator = stack.enter_context(AggregatorProcess(root / "aggregator", environment=PROMPT))
        directories = found(aggregator, plan, names, root, options)
        for directory in directories:
            settings_of(directory, aggregator.url, patience_s=60)
        configs = [directory / "site.toml" for directory in directories]
        opened = tuple(stack.enter_context(Site.open(config, progress=progress)) for config in configs)
        federation = LocalFederation(opened, plan, aggregator, root)
        try:
            yield federation
        finally:
            federation.end()


def site_names(n_sites: int) -> list[str]:
    """Return the names of so many sites."""
    return [f"hospital-{chr(ord('a') + i)}" if n_sites <= 26 else f"hospital-{i:03}" for i in range(n_sites)]


def plan_for(
    model: Layout | dict[str, Any], sites: int | Sequence[str] = 3, name: str = "local", **options: Any
) -> Plan:
    """Make a plan for so many sites, all of whom take part.

    Args:
        model: a layout, or named arrays to make one of with `clip` and `weight_cap` (1.0 and 1000 by default).
        sites: their names, or how many.
        name: of the federation.
    """
    clip, weight_cap = options.pop("clip", 1.0), options.pop("weight_cap", 1000)
    layout = model if isinstance(model, Layout) else Layout.of(model, clip=clip, weight_cap=weight_cap)
    n_sites = max(2, sites if isinstance(sites, int) else len(sites))
    return Plan.create(name, layout, **{"max_sites": n_sites, "min_sites": n_sites, "deadline_s": 300} | options)


def found(
    aggregator: AggregatorProcess, plan: Plan, names: Sequence[str], root: Path, options: Sequence[str] = ()
) -> list[Path]:
    """Make identities, roster and group key, register the federation and start it. The aggregator need not run yet.

    Args:
        aggregator: where.
        plan: what the sites agree on.
        names: of the sites.
        root: a directory for what has to be kept.
        options: of `he-agg federation create`.

    Returns:
        A directory for each site, with all that it needs but `site.toml`.
    """
    name = plan.public.federation
    document, roster_file, public = (root / f"{name}.{what}.json" for what in ("federation", "roster", "aggregator"))
    aggregator.operate("aggregator", "show", "--out", public)
    identities, coordinator = [Identity.create(site) for site in names], Identity.create("coordinator")
    members = {
        Role.SITE: [identity.member() for identity in identities],
        Role.COORDINATOR: [coordinator.member()],
        Role.AGGREGATOR: [read_public(public)],
        Role.HOLDER: [identity.member() for identity in identities] if plan.public.splits_keys else [],
    }
    # The plan's own number, however small: all these sites are on one machine, and have no secrets from each other.
    least, now = plan.public.min_sites, int(time.time()) - 60
    roster = sign_roster(new_roster(name, members, min_sites=least, small_groups=True, now=now), coordinator)
    key = GroupKey.create(plan)
    directories = []
    for identity in identities:
        directory = root / identity.name
        directory.mkdir(mode=0o700)
        identity.save(directory / "identity")
        key.save(directory / "keystore")
        (directory / "roster.json").write_bytes(roster.encode())
        directories.append(directory)
    document.write_bytes(key.federation_document.encode())
    roster_file.write_bytes(roster.encode())
    aggregator.operate("federation", "create", document, "--roster", roster_file, *options)
    aggregator.operate("federation", "start", name)
    return directories


def settings_of(directory: Path, url: str, **more: object) -> Path:
    """Write a site's `site.toml` into its directory."""
    lines = [f'url = "{url}"', 'identity = "identity"', 'keystore = "keystore"', 'roster = "roster.json"']
    lines += ['spool = "spool"', *(f"{name} = {json.dumps(value)}" for name, value in more.items())]
    path = directory / "site.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
