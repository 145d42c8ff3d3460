"""What is measured: schemes by name, how each one's server and sites are set up, and where one is left out, and why."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds.flower.scheme import flower_processes, why_no_flower
from benchmarks.rounds.links import ENVIRONMENT, Network
from benchmarks.rounds.models import WEIGHT_CAP, weight_of
from client_sdk.local import found, plan_for, settings_of
from he_agg import Plan
from he_agg.host.processes import AggregatorProcess, Process
from he_agg.plan.schemes import DEFAULT_CODEC
from he_agg.plan.schemes import SCHEMES as CODECS

__all__ = ["BASELINE", "SCHEMES", "Running", "Scheme", "skip_reason", "started"]

BASELINE = "plaintext"
_TENSEAL_BYTES_PER_VALUE = 57.0
_LONGEST_S = 120.0
_FLOWER_SITES = 10


@dataclass(frozen=True)
class Scheme:
    """One way to have a mean.

    Attributes:
        label: as in `--schemes`.
        name: of the client.
        value_bits: width of a value on its way, before whatever protects it.
        most_values: larger models are left out.
        bytes_per_value: about, one way, to leave out what would take minutes on a link.
        max_sites: what a plan has room for; 0 is twice the sites. More room makes longer ciphertexts.
        as_shipped: Flower's waits are left as they are.
    """

    label: str
    name: str
    value_bits: int
    most_values: int = 10**8
    bytes_per_value: float = 4.0
    max_sites: int = 0
    as_shipped: bool = False

    def room(self, sites: int) -> int:
        """Most sites of the plan, in a federation where so many take part; without a plan just those."""
        if self.name not in CODECS:
            return sites
        return max(sites, self.max_sites or 2 * sites)  # twice those that take part, as in the demo


SCHEMES = {
    scheme.label: scheme
    for scheme in (
        Scheme("plaintext", "plaintext", 32),
        Scheme("plaintext-durable", "plaintext-durable", 32),
        Scheme("hybrid-16", "hybrid", 16),
        Scheme("hybrid-8", "hybrid", 8),
        Scheme("hybrid-24", "hybrid", 24),
        Scheme("hybrid-16-of-31", "hybrid", 16, max_sites=31),
        *(Scheme(codec, codec, 16, 3 * 10**7, 20.0) for codec in CODECS if codec != DEFAULT_CODEC),
        Scheme("tenseal-stock", "tenseal-stock", 16, 12 * 10**6, _TENSEAL_BYTES_PER_VALUE),
        Scheme("flower-fedavg", "flower-fedavg", 32),
        Scheme("flower-fedavg-stock", "flower-fedavg", 32, as_shipped=True),
        Scheme("flower-secaggplus", "flower-secaggplus", 22, bytes_per_value=8.0),
    )
}


@dataclass(frozen=True)
class Running:
    """A scheme's processes, ready for rounds.

    Attributes:
        scheme: which.
        server: the aggregator.
        sites: the sites.
    """

    scheme: Scheme
    server: Process
    sites: list[Process]


def skip_reason(scheme: Scheme, values: int, sites: int, rate: int, flower_python: str = sys.executable) -> str:
    """Why a row is left out; empty if it is not."""
    if scheme.name.startswith("flower") and (reason := why_no_flower(flower_python)):
        return reason
    if scheme.name.startswith("flower") and sites > _FLOWER_SITES:
        return f"more than {_FLOWER_SITES} sites start too many processes for one machine"
    if scheme.max_sites and sites * 2 >= scheme.max_sites:
        return "hybrid-16 has room for as many here"
    if scheme.label not in ("plaintext", "hybrid-16", "hybrid-8", "hybrid-24") and values > 3 * 10**7:
        return "10^8 values are measured with plaintext and hybrid only"
    if values > scheme.most_values:
        return f"more than {scheme.most_values:,} values take too long"
    seconds = 16 * scheme.bytes_per_value * values / rate if rate else 0.0
    if seconds > _LONGEST_S:
        return f"would take {seconds:.0f} s a round on this link"
    if sites * values * scheme.bytes_per_value > 4 * 10**9:
        return "would take more than 4 GB for one round's updates"
    return ""


@contextlib.contextmanager
def started(
    scheme: Scheme, values: int, sites: int, net: Network, root: Path, flower_python: str = sys.executable
) -> Iterator[Running]:
    """Start a scheme's server and sites.

    Args:
        scheme: which.
        values: how many an update has.
        sites: how many.
        net: how they reach each other.
        root: an empty directory.
        flower_python: of the environment that has Flower.
    """
    if scheme.name.startswith("flower"):
        with flower_processes(scheme.name, scheme.as_shipped, values, sites, net, root, flower_python) as processes:
            yield Running(scheme, *processes)
        return
    settings: dict[str, Any] = {"scheme": scheme.name, "values": values, "sites": sites}
    settings["ca_file"] = None if net.ca_file is None else str(net.ca_file)
    tls = [] if net.cert is None else ["--tls-cert", str(net.cert), "--tls-key", str(net.key)]
    ours = scheme.name in CODECS
    server: Process
    if ours:
        server = AggregatorProcess(
            root / "aggregator", "--host", net.host, *tls, environment=ENVIRONMENT, prefix=net.server_prefix
        )
        directories = found(server, _plan(scheme, values, sites), [f"site-{site:02d}" for site in range(sites)], root)
    else:
        module = "tenseal_service" if scheme.name == "tenseal-stock" else "plaintext_service"
        words = [f"benchmarks.rounds.{module}", "--host", net.host, "--sites", str(sites), "--values", str(values)]
        if scheme.name == "plaintext-durable":
            store = root / "store"
            store.mkdir()
            words += ["--store", str(store)]
        if scheme.name == "tenseal-stock":
            settings["context"], public = _contexts(root)
            settings["total_weight"] = sum(weight_of(site) for site in range(sites))
            words += ["--context", str(public)]
        server = Process([*net.server_prefix, sys.executable, "-m", *words, *tls], root / "server.log", ENVIRONMENT)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        address = server.url if isinstance(server, AggregatorProcess) else server.listening()
        started = []
        for site, url in enumerate(stack.enter_context(net.urls(address, sites))):
            if ours:
                more = {} if net.ca_file is None else {"ca_file": str(net.ca_file)}
                settings["config"] = str(settings_of(directories[site], url, **more))
            file = root / f"settings-{site}.json"
            file.write_text(json.dumps(settings | {"site": site, "url": url}))
            command = [*net.site_prefix(site), sys.executable, "-m", "benchmarks.rounds.site", str(file)]
            started.append(stack.enter_context(Process(command, file.with_suffix(".log"), ENVIRONMENT)))
        yield Running(scheme, server, started)


def _plan(scheme: Scheme, values: int, sites: int) -> Plan:
    """All sites have to be in: a round that closed early would be a faster one."""
    return plan_for(
        {"w": np.broadcast_to(np.float32(0), (values,))},
        sites,
        "bench",
        weight_cap=WEIGHT_CAP,
        codec=scheme.name,
        value_bits=scheme.value_bits,
        max_sites=scheme.room(sites),
        rounds=10_000,
        deadline_s=3600,
    )


def _contexts(root: Path) -> tuple[str, Path]:
    """Secret and public context: N=8192, [60, 40, 40], 2^40."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tenseal as ts

        context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
        context.global_scale = 2**40
        secret, public = root / "secret.ctx", root / "public.ctx"
        secret.write_bytes(context.serialize(save_secret_key=True))
        context.make_context_public()
        public.write_bytes(context.serialize())
    return str(secret), public
