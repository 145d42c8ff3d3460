"""The README's first block, typed as it stands by three hospitals and an operator, each in a folder of its own.

Only the address is another one: this machine's, and a port that is free.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from he_agg.host.processes import AggregatorProcess
from keys import GroupKey, Identity
from tests.support.ports import free_ports
from tests.support.terminal import in_terminal

README = Path(__file__).parents[2] / "README.md"
SITES = ["hospital-a", "hospital-b", "hospital-c"]
NO_PASSPHRASE = [(r"New passphrase.*: ", ""), (r"[Rr]epeat.*: ", "")]
EXACTLY = (r"read exactly this\? \[y/N\]: ", "y")
FINGERPRINT = re.compile(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}")


def block():
    """Who types what: the lines of the README's block, by the comment that they stand under."""
    (text,) = re.findall(r"^```sh\n(# the operator.*?)^```", README.read_text(), re.S | re.M)
    found = []
    for line in text.splitlines():
        if line.startswith("# "):
            found.append((line, []))
        elif line:
            found[-1][1].append(line.partition("  #")[0].strip())
    return found


def own_address():
    """An address of this machine that is not loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


class Quickstart:
    """Folders of all who take part, and what each has shown."""

    def __init__(self, root):
        self.root = root
        self.shown = {}
        rng = np.random.default_rng(5)
        self.lines: list[str] = []
        self.told: list[str] = []
        self.updates: dict[str, dict[str, Any]] = {
            name: {"dense": rng.normal(0, 0.02, (30, 4)).astype(np.float32), "bias": rng.normal(0, 0.5, 4)}
            for name in SITES
        }
        for name in [*SITES, "operator"]:
            (root / name).mkdir()
        for name, update in self.updates.items():
            np.savez(root / name / "update.npz", **update)

    def type(self, name, line, answers=()):
        shown = in_terminal(line, self.root / name, answers)
        assert shown.code == 0, (name, line, shown)
        self.shown[name, line.split()[1]] = shown
        return shown

    def everywhere(self, names, line, answers_of=lambda name: ()):
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self.type(name, line.replace("hospital-b", name), answers_of(name)), names))

    def send(self, pattern, sender, *receivers):
        (file,) = (self.root / sender).rglob(pattern)
        for receiver in receivers:
            shutil.copy(file, self.root / receiver)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    q = Quickstart(tmp_path_factory.mktemp("quickstart"))
    (_, (serve,)), (_, (init,)), (_, (found,)), (_, (take,)), (_, (join, submit, fetch)) = block()
    q.lines = [serve, init, found, take, join, submit, fetch]
    assert serve.startswith("he-agg serve --self-signed --host 0.0.0.0 --url https://aggregator.example.org:8470")
    address = own_address()
    (port,) = free_ports(1, address)
    options = serve.replace("aggregator.example.org:8470", f"{address}:{port}").split()[2:]
    aggregator = AggregatorProcess(q.root / "operator" / "he-agg-data", *options)
    aggregator.command[aggregator.command.index("--port") + 1] = str(port)
    with aggregator:
        told = [aggregator.line(), aggregator.line()]
        q.everywhere(SITES[1:], init, lambda _: NO_PASSPHRASE)
        q.send("aggregator.public.json", "operator", "hospital-a")
        for name in SITES[1:]:
            q.send(f"{name}.public.json", name, "hospital-a")
        agreed = (r"Shall all agree on this\?.* \[y/N\]: ", "y")
        q.type("hospital-a", found, [*NO_PASSPHRASE, agreed, EXACTLY])
        q.send("demo.start.json", "hospital-a", "operator", *SITES[1:])
        q.type("operator", take, [EXACTLY])
        q.everywhere(SITES, join, lambda name: [] if name == "hospital-a" else [EXACTLY])
        q.everywhere(SITES, submit)
        q.everywhere(SITES, fetch)
    q.told = told
    return q


def test_every_hospital_has_the_mean(quickstart):
    means = []
    for name in SITES:
        with np.load(quickstart.root / name / "mean.npz") as file:
            means.append({tensor: file[tensor] for tensor in file.files})
    for tensor in ("dense", "bias"):
        assert all(np.array_equal(mean[tensor], means[0][tensor]) for mean in means)
        exact = np.mean([update[tensor] for update in quickstart.updates.values()], axis=0)
        assert np.abs(means[0][tensor] - exact).max() < 0.01 * np.abs(exact).max()


def test_two_hospitals_and_an_operator_type_ten_commands(quickstart):
    serve, init, found, take, join, submit, fetch = quickstart.lines
    operator, hospital_a, hospital_b = [serve, take], [found, join, submit, fetch], [init, join, submit, fetch]
    assert len(operator + hospital_a + hospital_b) == 10


def test_each_comparison_is_made_with_what_the_other_has_shown(quickstart):
    """The coordinator calls everybody; the operator and every other hospital call the coordinator."""
    own = {name: FINGERPRINT.findall(quickstart.shown[name, "site"]) for name in SITES[1:]}
    own["aggregator"] = FINGERPRINT.findall(" ".join(quickstart.told))
    shown = quickstart.shown["hospital-a", "found"]
    called = shown.partition("Call them")[2].partition("read exactly this")[0]
    assert sorted(FINGERPRINT.findall(called)) == sorted(print_ for (print_,) in own.values())
    (coordinator,) = FINGERPRINT.findall(shown.partition("fingerprint of hospital-a")[2])
    for name, command in [("operator", "federation"), ("hospital-b", "join"), ("hospital-c", "join")]:
        called = quickstart.shown[name, command].partition("Call them")[2].partition("read exactly this")[0]
        assert FINGERPRINT.findall(called) == [coordinator]
    assert "Call them" not in quickstart.shown["hospital-a", "join"]


def test_join_ends_with_where_the_federation_stands(quickstart):
    for name in SITES:
        shown = quickstart.shown[name, "join"]
        assert "federation  demo (running)" in shown
        assert f"site        {name}" in shown


def test_no_secret_leaves_its_machine(quickstart):
    """What was sent was the public files and the start file; none of the secrets is in any of them."""
    secrets = []
    for name in SITES:
        identity = Identity.load(quickstart.root / name / f"{name}.identity")
        secrets += [identity.signing_key.to_bytes().hex(), identity.receiving_key.to_bytes().hex()]
        key = json.loads(GroupKey.load(quickstart.root / name / "demo.keystore").secret_body())
        secrets += [key["key_material"], key["mac_seed"]]
    assert len(set(secrets)) == 2 * len(SITES) + 2  # one group key
    sent = [*quickstart.root.rglob("*.public.json"), *quickstart.root.rglob("demo.start.json")]
    assert len({file.name for file in sent}) == 5
    content = b"".join(file.read_bytes() for file in sent)
    assert all(secret.encode() not in content for secret in secrets)
    assert b"dense" not in content  # the operator gets the start file, and tensors' names are not for it
