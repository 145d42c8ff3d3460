"""Links between sites and aggregator, one for each site: the machine's own loopback, or shaped ones.

Shaped by the kernel where that is allowed (root, `ip`, `tc`): the aggregator and every site in a network namespace of
its own, a veth pair for each site, and a token bucket (`tc tbf`) at both ends, so that a site has the whole rate in
either direction and takes none from another. The client speaks plain HTTP to loopback only, so here all schemes use
TLS, with the same certificate. No delay is added: `netem` is missing from many kernels.

Elsewhere by a proxy (proxy.py): a loopback port for each site, with a token bucket in either direction. All schemes
use plain HTTP then. The proxy takes processor time from a small machine, the same for each byte of every scheme.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from he_agg.host.processes import Process

__all__ = ["ENVIRONMENT", "RATES", "Network", "certificates", "namespaces_work", "network"]

ENVIRONMENT = {"NUMPY_MADVISE_HUGEPAGE": "0"}
"""For every process of every scheme. NumPy asks for huge pages, and on virtual machines with `defrag` at `madvise` the
kernel may stop a process for two milliseconds to find each of them: seconds of noise, for no gain in a round."""

RATES = {"loopback": 0, "1gbit": 10**9, "100mbit": 10**8, "20mbit": 2 * 10**7}
"""Bits per second, either way, per site; 0 is not shaped."""

_ADDRESS = "10.119.255.1"
_LATENCY = "50ms"


@dataclass(frozen=True)
class Network:
    """How one row's processes reach each other.

    Attributes:
        link: its name.
        folder: where its own files go.
        kind: "loopback", "namespaces" or "proxy".
        host: the address that a server listens on.
        address: where sites find it, and it finds itself.
        cert: the server's certificate, if there is TLS.
        key: its key.
        ca_file: whom clients trust.
        rate: bits per second, 0 for none.
    """

    link: str
    folder: Path
    kind: str
    host: str = "127.0.0.1"
    cert: Path | None = None
    key: Path | None = None
    ca_file: Path | None = None
    rate: int = 0
    address: str = "127.0.0.1"
    server_prefix: tuple[str, ...] = ()
    site_prefixes: tuple[tuple[str, ...], ...] = field(default=())

    def site_prefix(self, site: int) -> tuple[str, ...]:
        """What a site's command begins with, to run where it belongs."""
        return self.site_prefixes[site] if self.site_prefixes else ()

    @contextlib.contextmanager
    def urls(self, url: str, sites: int) -> Iterator[list[str]]:
        """Where each site finds the server that listens at `url`."""
        if self.kind == "namespaces":
            yield [f"https://{_ADDRESS}:{url.rsplit(':', 1)[1]}"] * sites
        elif self.kind == "proxy":
            words = ["--target", url.split("//")[1], "--rate", str(self.rate), "--sites", str(sites)]
            command = [sys.executable, "-m", "benchmarks.rounds.proxy", *words]
            with Process(command, self.folder / "proxy.log", ENVIRONMENT) as proxy:
                ports = proxy.listening().split()
                yield [f"http://127.0.0.1:{port}" for port in ports]
        else:
            yield [url] * sites


def namespaces_work() -> bool:
    """Whether this process may make network namespaces and shape links."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        return False
    name = f"hab{os.getpid()}t"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "a0", "type", "veth", "peer", "name", "a1")
        _tc(name, "a0", 10**8)
    except subprocess.CalledProcessError:
        return False
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return True


def certificates(folder: Path, address: str) -> tuple[Path, Path, Path]:
    """Make a server's certificate and its key, and the authority that clients trust, as files."""
    cert, key, ca_file = (folder / name for name in ("server.pem", "server.key", "ca.pem"))
    authority = trustme.CA()
    made = authority.issue_cert(address)
    authority.cert_pem.write_to_path(ca_file)
    made.cert_chain_pems[0].write_to_path(cert)
    key.touch(0o600)
    made.private_key_pem.write_to_path(key, append=True)
    return cert, key, ca_file


@contextlib.contextmanager
def network(link: str, sites: int, shaping: str, folder: Path) -> Iterator[Network]:
    """A network for one row.

    Args:
        link: a name out of `RATES`.
        sites: how many.
        shaping: "namespaces" or "proxy".
        folder: where certificates go.
    """
    rate = RATES[link]
    if not rate:
        yield Network(link, folder, "loopback")
    elif shaping == "proxy":
        yield Network(link, folder, "proxy", rate=rate)
    else:
        with _namespaces(sites, rate) as names:
            files = certificates(folder, _ADDRESS)
            prefixes = [("ip", "netns", "exec", name) for name in names]
            yield Network(
                link, folder, "namespaces", "0.0.0.0", *files, rate, _ADDRESS, prefixes[0], tuple(prefixes[1:])
            )


@contextlib.contextmanager
def _namespaces(sites: int, rate: int) -> Iterator[list[str]]:
    """The aggregator's namespace and one for each site, linked."""
    base = f"hab{os.getpid()}"
    names = [f"{base}a", *(f"{base}s{site}" for site in range(sites))]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names[0], "addr", "add", f"{_ADDRESS}/32", "dev", "lo")
        for site, name in enumerate(names[1:]):
            _ip("-n", names[0], "link", "add", f"s{site}", "type", "veth", "peer", "name", "uplink", "netns", name)
            for space, device, end in ((names[0], f"s{site}", 1), (name, "uplink", 2)):
                _ip("-n", space, "addr", "add", f"10.119.{site}.{end}/30", "dev", device)
                _ip("-n", space, "link", "set", device, "up")
                _tc(space, device, rate)
            _ip("-n", name, "route", "add", f"{_ADDRESS}/32", "via", f"10.119.{site}.1")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)


def _tc(space: str, device: str, rate: int) -> None:
    # A burst of 2 ms, and no less than one large segment of the virtual device.
    burst = max(rate // 8 // 500, 2**17)
    words = ["tbf", "rate", f"{rate}bit", "burst", str(burst), "latency", _LATENCY]
    subprocess.run(
        ["ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", device, "root", *words],
        capture_output=True,
        check=True,
    )
