"""The real world: federations on an aggregator that is a process of its own, reached over sockets.

`RealFederation` has peers, which send random residues without an HE library; `Hospitals` has sites with keys and files,
for the SDK. The process itself is in server.py; everything in one process, without sockets, is in simulated.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from client_sdk import Site
from client_sdk._effects import Flow
from client_sdk._net.transport import Transport
from client_sdk._protocol.hold import hold_awaited
from client_sdk._protocol.session import Trustee, open_trustee
from client_sdk._protocol.sharing_key import ensure_sharing_key
from client_sdk._protocol.state import federation_state
from client_sdk._protocol.trustee import hold_until_end
from client_sdk.config import TrusteeSettings
from client_sdk.federated import Update
from he_agg import Layout, Plan
from he_agg.documents.federation import FederationDocument
from he_agg.documents.roster import Role
from he_agg.host.processes import AggregatorProcess
from keys import GroupKey
from service.domain.events import Phase
from service.operator import operations
from tests.support.peers import Peer, known, operator, register
from tests.support.server import NO_TLS
from tests.support.simulated import snapshot

__all__ = ["SITES", "Hospitals", "RealFederation", "in_threads", "until"]

T = TypeVar("T")
SITES = ("hospital-a", "hospital-b", "hospital-c")


def in_threads(work: Callable[[str], T], sites: Sequence[str] = SITES) -> list[T]:
    """Do the same at all sites at once; the results in order, or the first error.

    An error is raised when it happens: the other sites may wait for that one until their round's deadline.
    """
    made: dict[str, Future[T]] = {site: Future() for site in sites}

    def worked(site: str) -> None:
        try:
            made[site].set_result(work(site))
        except BaseException as error:
            made[site].set_exception(error)

    for site in sites:
        threading.Thread(target=worked, args=(site,), name=site, daemon=True).start()
    done, _ = wait(made.values(), return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in made.values()]


def until(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Look until there is something to see."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return seen


class RealFederation:
    """A federation on a server, founded while that runs.

    Attributes:
        consortium: all private keys.
        members: everybody's identity, by name.
        peers: everybody, over HTTP.
    """

    def __init__(
        self,
        server: AggregatorProcess,
        plan: Plan,
        sites: Sequence[str],
        *,
        start: bool = True,
        document: FederationDocument | None = None,
        holders: Sequence[str] = (),
    ) -> None:
        self.server = server
        self.plan = plan
        self.name = plan.public.federation
        self.sites = list(sites)
        self.members = register(server.data_dir, plan, self.sites, start=start, document=document, holders=holders)
        self.consortium = known(self.name)
        self.client = httpx.Client(base_url=server.url, timeout=30, verify=NO_TLS)
        self.peers = {name: Peer(self.client, self.name, member) for name, member in self.members.items()}

    def peer(self, site: str | None = None) -> Peer:
        return self.peers[self.sites[0] if site is None else site]

    @property
    def round_id(self) -> str:
        """The open round."""
        answer = self.peer().current(wait=5)
        assert answer["round_id"], answer
        return answer["round_id"]

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self.server.data_dir)

    def close(self) -> None:
        self.client.close()

    def end(self) -> None:
        """End the federation and wait until nothing of it is left to do: other tests compare whole stores."""
        with operator(self.server.data_dir) as (store, conductor):
            operations.end(store, conductor, self.name)
        self.rest()

    def rest(self) -> None:
        """Wait until the aggregator has nothing left to do by itself."""
        with operator(self.server.data_dir) as (store, _):
            for _ in range(1000):
                with store.read() as tx:
                    busy = [*tx.rounds_in([Phase.CLOSED, Phase.FOLDING]), *tx.unscrubbed(0), *tx.sums_to_remove()]
                if not busy:
                    return
                time.sleep(0.01)
            raise AssertionError(f"the aggregator does not come to rest: {busy}")


class Hospitals(RealFederation):
    """Sites with a group key and files, three by default: one directory per site, with a `site.toml` in it."""

    def __init__(
        self,
        server: AggregatorProcess,
        root: Path,
        plan: Plan,
        *,
        sites: Sequence[str] = SITES,
        start: bool = True,
        holders: Sequence[str] = (),
    ) -> None:
        self.key = GroupKey.create(plan)
        document = self.key.federation_document
        super().__init__(server, plan, sites, start=start, document=document, holders=holders)
        self.root = root / self.name
        for site in sites:
            self._equip(site)
        for trustee in set(holders) - set(sites):
            self._equip_trustee(trustee)

    def _equip_trustee(self, name: str) -> None:
        directory = self.directory(name)
        directory.mkdir(parents=True)
        self.members[name].save(directory / "identity")
        (directory / "plan.json").write_bytes(self.key.federation_document.encode())
        (directory / "roster.json").write_bytes(self.consortium.roster.encode())
        (directory / "holder.toml").write_text(
            f'url = "{self.server.url}"\nidentity = "identity"\nplan = "plan.json"\nroster = "roster.json"\n'
            'spool = "spool"\npatience_s = 60\n'
        )

    def start_with_all_keys(self) -> None:
        """Start once every holder has a sharing key: a round opens with fewer, and then can do without fewer."""
        for site in self.sites:
            with Site.open(self.config(site)) as opened:
                assert opened.current() is None
        holders = self.consortium.roster.body.having(Role.HOLDER)
        with operator(self.server.data_dir) as (store, conductor):

            def keys() -> bool:
                with store.read() as tx:
                    return tx.sharing_keys(self.name, 1).keys() == holders.keys()

            until(keys)
            operations.start(store, conductor, self.name)

    def trustee_looks(self, name: str) -> None:
        """Have a trustee look once where the federation stands, and do what is to be done."""

        def look(session: Trustee) -> Flow[None]:
            state = (yield from federation_state(session)).body
            yield from ensure_sharing_key(session, state)
            yield from hold_awaited(session, state)

        self._as_trustee(name, look)

    @contextlib.contextmanager
    def trustee(self, name: str) -> Iterator[None]:
        """Have a trustee hold as `he-agg holder run` does, in a thread of that name; the block ends the federation."""
        with ThreadPoolExecutor(1, thread_name_prefix=name) as thread:
            done = thread.submit(self._as_trustee, name, hold_until_end)
            yield
            done.result(30)

    def _as_trustee(self, name: str, flow: Callable[[Trustee], Flow[None]]) -> None:
        settings = TrusteeSettings.load(self.directory(name) / "holder.toml", {})
        session = open_trustee(settings)
        with contextlib.closing(Transport(settings.url, session.signer)) as transport:
            transport.run(flow(session), lambda event: None)

    def _equip(self, site: str) -> None:
        directory = self.directory(site)
        directory.mkdir(parents=True)
        self.members[site].save(directory / "identity")
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

    @staticmethod
    def plan_of(name: str, *, values: int = 5000, **options: Any) -> Plan:
        """A plan for three tensors, one of them a scalar and one empty."""
        layout = Layout.of(
            {"weights": np.zeros((values - 2, 1), np.float32), "bias": np.zeros((), np.float64), "none": np.zeros(0)},
            clip=1.0,
            weight_cap=1000,
        )
        # ckks: its parts are small, so a few thousand values make several.
        terms: dict[str, Any] = {"min_sites": 2, "max_sites": 5, "rounds": 1, "part_bytes": 2**16, "codec": "ckks"}
        return Plan.create(name, layout, **terms | options)

    def update(self, site: str, number: int = 1) -> Update:
        """One-hot per site and round; a 2 would be counted twice. Weights differ."""
        index = SITES.index(site)
        size = self.plan.layout.tensors[0].size
        weights = np.zeros((size, 1), np.float32)
        weights[(index + 10 * number) % size] = 1.0
        tensors = {"weights": weights, "bias": np.array(-0.25 * (index + 1)), "none": np.zeros(0)}
        return Update(tensors, 500 + 100 * index)
