"""A training that lives through a rotation, a join, a revocation, and somebody's absence around each of them.

Three hospitals train in threads on a real aggregator, and nobody restarts them for the sake of a key: people type the
commands of docs/ceremony.md while the trainings run. Every mean is compared, bit for bit, with the plain fixed-point
mean of the sites that its record names.

::

    round    1  2  3 | 4  5 | 6 | 7  8
    epoch    1  1  1 | 2  2 | 3 | 4  4       rotated by a after round 3; d joins after 5 and is revoked after 6
    away           c      b   b              b misses all of epoch 3
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_sdk import Site
from client_sdk.adapters import PytreeAdapter
from client_sdk.training import FedAvg, Result, hand_over, train
from client_sdk.training.task import Task
from he_agg import dequantize, quantize
from he_agg.errors import ConfigError, InputError, Reason
from tests.keys.ceremony import Ceremony, found, settings, sign
from tests.support.real import SITES, until
from tests.support.regression import fit_for, model, plan_for
from tests.support.server import QUICK, he_agg, start_server

PLAN = plan_for("demo", min_sites=2, deadline_s=3, rounds=8)
"""Nobody has to be in time: who is late is in no sum, and all that is expected follows from the records."""

SMALL = "--min-sites 2 --allow-small-groups"
ROTATE = "epoch rotate --keystore demo.keystore --roster {} --identity hospital-a.identity"
ALL = (*SITES, "hospital-d")


class Pace:
    """How far trainings may go: the commands in between are typed while a round is open."""

    def __init__(self) -> None:
        self._allowed = 0
        self._changed = threading.Condition()

    def wait(self, step: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._allowed >= step)

    def allow(self, step: int) -> None:
        with self._changed:
            self._allowed = step
            self._changed.notify_all()


class Training:
    """The program of one hospital: `train`, for so many rounds, in a thread."""

    def __init__(self, config: Path, pace: Pace) -> None:
        self.config, self._pace = config, pace
        self.checkpoint = config.with_name("training.npz")
        self.models: dict[int, dict[str, Any]] = {}
        self.topics: set[str] = set()
        self.result: Result | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread()

    @property
    def done(self) -> int:
        return max(self.models, default=0)

    def start(self, rounds: int | None = None) -> Training:
        self.result = None
        self._thread = threading.Thread(target=self._run, args=(rounds,), daemon=True)
        self._thread.start()
        return self

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), self.done

    def run(self, rounds: int | None = None) -> Result:
        index = ALL.index(self.config.parent.name)

        def fit(params, task):
            self._pace.wait(task.step)
            return fit_for(index)(params, task)

        def keep(report):
            self.models[report.round] = report.model

        with Site.open(self.config, progress=self._heard) as site:
            return train(site, model(), fit, checkpoint=self.checkpoint, rounds=rounds, hooks=[keep])

    def _heard(self, event: Any) -> None:
        self.topics.add(getattr(event, "topic", ""))

    def _run(self, rounds: int | None) -> None:
        try:
            self.result = self.run(rounds)
        except Exception as error:
            self.error = error


def plaintext(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models after each round, from the sums of fixed-point integers of those who are in it."""
    strategy, adapter, shared = FedAvg(), PytreeAdapter(), PytreeAdapter().tensors(model())
    state, models = strategy.start(shared), []
    hidden = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in PLAN.layout.tensors if "/" in spec.name}
    for number, record in enumerate(rounds, 1):
        sums = np.zeros(PLAN.public.values, dtype=np.int64)
        for site in record["members"]:
            seed = int.from_bytes(hashlib.sha256(f"demo|{site}|{number}".encode()).digest()[:4], "big")
            local = adapter.load(model(), shared)
            trained, weight = fit_for(ALL.index(site))(local, Task(site, number, seed, shared, strategy))
            after = adapter.tensors(trained)
            update = {name: after[name] - shared[name] for name in shared}
            sums += quantize(PLAN, update | hidden, weight).values
        mean = dequantize(PLAN, sums, len(record["members"])).tensors
        shared, state = strategy.step(shared, {name: mean[name] for name in shared}, state)
        models.append(shared)
    return models


def accept(ceremony: Ceremony, *names: str) -> dict[str, Any]:
    return [ceremony.json(name, "epoch accept --config site.toml") for name in names][-1]


def new_epoch(ceremony: Ceremony, number: int, roster: str) -> None:
    """What the dealing hospital types."""
    ceremony.run("hospital-a", ROTATE.format(roster))
    ceremony.run("hospital-a", f"epoch publish demo.epoch-{number}.bundle.json --config site.toml")


def new_roster(ceremony: Ceremony, number: int) -> None:
    """Two coordinators sign, and it holds."""
    sign(ceremony, f"roster-{number}.json", "--previous roster.json")
    ceremony.run("hospital-a", f"roster publish roster-{number}.json --config site.toml")


@pytest.fixture
def ceremony(tmp_path, capsys, monkeypatch):
    return Ceremony(tmp_path, capsys, monkeypatch)


def test_a_training_lives_through_rotation_join_revocation_and_absences(ceremony, tmp_path):
    data, public = tmp_path / "data", tmp_path / "aggregator.public.json"
    he_agg("aggregator", "show", "--data-dir", data, "--out", public)
    found(ceremony, SITES, public.read_bytes(), spread_bundle=False, plan=PLAN, roster_options=SMALL)
    at, keep = ceremony.root / "hospital-a", ("--keep-sums", "20", "--data-dir", data)
    he_agg("federation", "create", at / "demo.federation.json", "--roster", at / "roster-1.json", *keep)
    pace = Pace()
    with start_server(data, QUICK) as server:
        try:
            configs = [settings(ceremony, name, server.url, "patience_s = 20") for name in SITES]
            ceremony.run("hospital-a", "epoch publish demo.epoch-1.bundle.json --config site.toml")
            accept(ceremony, *SITES)
            he_agg("federation", "start", "demo", "--data-dir", data)
            a, b, c = trainings = [Training(config, pace) for config in configs]
            d = Training(ceremony.root / "hospital-d" / "site.toml", pace)
            rotated(ceremony, pace, a, b, c)
            joined(ceremony, pace, a, c, d, server.url)
            revoked(ceremony, pace, b, d)
            for training in (b, c, a):
                training.end()
                if training.error is not None:
                    raise training.error
        finally:
            pace.allow(99)
    transcript = tmp_path / "transcript"
    he_agg("federation", "export", "demo", "--out", transcript, "--data-dir", data)
    audit = json.loads(he_agg("audit", transcript, "--json").stdout)
    assert audit["ok"]
    published = [record for record in audit["rounds"] if record["outcome"] == "published"]
    assert [record["epoch"] for record in published] == [1, 1, 1, 2, 2, 3, 4, 4]
    assert "hospital-c" not in published[2]["members"]
    assert all("hospital-b" not in record["members"] for record in published[4:6])
    expected = plaintext(published)
    for training in (*trainings, d):
        for number, seen in training.models.items():
            for name, tensor in expected[number - 1].items():
                assert tensor.tobytes() == seen[name].tobytes(), (training.config, number, name)
    assert [sorted(training.models) for training in trainings] == [list(range(1, 9))] * 3
    assert (sorted(d.models), len({training.result.model_hash for training in trainings})) == ([6], 1)
    # Nobody was accused of anything, and nobody asked for what is not there.
    assert not [path for path in tmp_path.rglob("*.security.log") if path.read_text()]
    assert not [line for line in server.log_lines if "unknown-" in str(line)]


def rotated(ceremony, pace, a, b, c):
    """A rotation while round 4 is open and c is away, which comes back with the old key."""
    a.start()
    b.start(rounds=4)
    c.start(rounds=2)
    pace.allow(3)
    until(lambda: min(a.done, b.done) == 3, 60)
    c.end()
    new_epoch(ceremony, 2, "roster.json")
    c.start()
    until(lambda: "other-epoch" in c.topics, 60)
    accept(ceremony, *SITES)
    pace.allow(4)
    until(lambda: min(a.done, b.done, c.done) == 4, 60)
    b.end()


def joined(ceremony, pace, a, c, d, url):
    """A hospital joins while round 6 is open and b is away. It begins with the model that another hands over."""
    pace.allow(5)
    until(lambda: min(a.done, c.done) == 5, 60)
    ceremony.run("hospital-d", "site init hospital-d")
    ceremony.send("hospital-d.public.json", "hospital-d", "hospital-a")
    change = f"--add site=hospital-d.public.json --out roster-2.json {SMALL}"
    ceremony.run("hospital-a", f"roster next roster.json {change}")
    new_roster(ceremony, 2)
    new_epoch(ceremony, 3, "roster-2.json")
    ceremony.send("roster-2.json", "hospital-a", "hospital-d")
    heard = ceremony.heard("hospital-a", "hospital-b")
    ceremony.run("hospital-d", f"roster accept roster-2.json --out roster.json {heard}")
    settings(ceremony, "hospital-d", url, "patience_s = 20")
    accept(ceremony, "hospital-a", "hospital-c", "hospital-d")
    err = ceremony.run("hospital-d", "fetch --config site.toml --round demo.2.1 --out mean.npz", expect=1)
    assert "[not-yet-member]" in err
    with pytest.raises(InputError) as caught:
        d.run()
    assert (caught.value.reason, "hand_over(" in caught.value.hint) == (Reason.NOT_YET_MEMBER, True)
    d.checkpoint.unlink()
    assert hand_over(a.checkpoint, d.checkpoint) == 5
    d.start()
    pace.allow(6)
    until(lambda: min(a.done, c.done, d.done) == 6, 60)


def revoked(ceremony, pace, b, d):
    """It is removed while round 7 is open. And b is back: it gets what it missed, of three epochs."""
    ceremony.run("hospital-a", f"roster next roster.json --remove hospital-d --out roster-3.json {SMALL}")
    new_roster(ceremony, 3)
    new_epoch(ceremony, 4, "roster-3.json")
    accept(ceremony, "hospital-a", "hospital-c")
    b.start()
    until(lambda: "other-epoch" in b.topics, 60)
    assert accept(ceremony, "hospital-b")["missed"] == [3]
    pace.allow(8)
    d.end()
    assert isinstance(d.error, ConfigError)
    assert d.error.reason == Reason.NO_LONGER_MEMBER
    assert "[no-longer-member]" in ceremony.run("hospital-d", "status --config site.toml", expect=4)
