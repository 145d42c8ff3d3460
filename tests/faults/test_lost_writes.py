"""Power cuts and failing calls, at every call of a round.

* Lost writes: at a crash what was not synced survives wholly, not at all, in part, or torn. Whatever is left, the
  aggregator opens, every part that was answered 200 or 204 is there byte for byte, every receipt is honoured, and the
  sum is exact.
* ENOSPC, EIO and EMFILE at the n-th call of open, write, rename, mkdir and unlink, for every n: answered 5xx with
  nothing broken, and the same request succeeds when the fault is gone.
* A failing fsync ends the process at once (exit code 74), at every fsync of a round; the next process goes on.

Sites send zeros and a single 1.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, Verdict
from he_agg.ids import RoundId
from service.store.failures import StoreError
from tests.faults.audit import Audit
from tests.faults.disk import FailingCalls, LossyDisk
from tests.support.peers import make_plan, prepare, read_ended
from tests.support.seeds import seed_of
from tests.support.simulated import Clock, SimulatedFederation

SITES = "ab"
PLAN = make_plan("disk", values=100, min_sites=2, rounds=10**6)
PARTS = len(PLAN.public.places)
MEMORY = Path("/dev/shm")


class EndedError(BaseException):
    """The process has ended itself."""


class Promises:
    """A federation, and sites that remember what they were promised."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.inside = SimulatedFederation(self.data_dir, PLAN, SITES, clock=Clock(1_800_000_000.5))
        self.audit = Audit(self.data_dir, PLAN)
        self.mine = {s: prepare(PLAN, "disk.1.1", s, i, one_hot=4000 * i) for i, s in enumerate(SITES)}
        self.audit.sent = {p.id: p for p in self.mine.values()}
        self.stored: set[tuple[str, int]] = set()

    def steps(self):
        """Every request of a round, and the background work after it."""
        for site in SITES:
            peer, mine = lambda s=site: self.inside.at(s), self.mine[site]
            if site == "b":
                yield lambda p=peer, m=mine: self.put(p(), m, range(PARTS))
                continue
            for number in range(PARTS):
                yield lambda p=peer, m=mine, n=number: self.put(p(), m, range(n, n + 1))
            yield lambda p=peer, m=mine: self.put(p(), m, range(PARTS, PARTS))
        yield self.inside_fold
        for site in SITES:
            yield lambda s=site: self.judge(s)
        yield self.inside_look

    def put(self, peer, mine, numbers):
        answer = peer.put(mine, numbers.start, b"".join(mine.parts[n] for n in numbers))
        if answer.status_code in (200, 204):
            self.stored |= {(mine.id, number) for number in numbers}
        if answer.status_code == 200:
            self.audit.receipt(answer.content)
        return answer

    def judge(self, site):
        """Say that the sum was opened: with the last such word single submissions are removed."""
        record = self.inside.at(site).record("disk.1.1")
        if record.status_code != 200:
            return record
        verdict = Verdict(RoundId("disk", 1, 1), read_ended(record.content).signed.digest, site, OPENED)
        body = Signed.make(verdict, self.inside.members.identities[site].signing_key).encode()
        return self.inside.at(site).put_verdict("disk.1.1", body)

    def inside_fold(self) -> None:
        self.inside.fold()

    def inside_look(self) -> None:
        self.inside.look()

    def restart(self) -> None:
        with contextlib.suppress(Exception):
            self.inside.close()
        self.inside.open()

    def check_parts(self) -> None:
        """What was answered 200 or 204 is on the disk, until the round has its sum."""
        with self.inside.aggregator.store.read() as tx:
            if tx.last_published("disk") is not None:
                return
        for site, mine in self.mine.items():
            for number in range(PARTS):
                if (mine.id, number) in self.stored:
                    path = self.data_dir / "rounds" / "disk.1.1" / "submissions" / mine.upload / f"{number}.part"
                    assert path.read_bytes() == mine.parts[number], f"a stored part of {site} is lost"

    def finish(self) -> None:
        """Whatever happened before: the round can be finished, and is exact."""
        for step in self.steps():
            answer = step()
            assert answer is None or answer.status_code in (200, 201, 204), answer.text
        self.audit.check()
        record = self.inside.at("a").record("disk.1.1").json()["record"]["body"]
        assert record["members"] == {site: p.id for site, p in self.mine.items()}


@contextlib.contextmanager
def a_world():
    directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    world = Promises(directory)
    try:
        yield world
    finally:
        world.inside.end()
        shutil.rmtree(directory)


class StopError(BaseException):
    """The power goes."""


@pytest.mark.parametrize("how", [pytest.param("all", marks=pytest.mark.slow), "none", "some", "torn"])
def test_what_was_not_synced_is_lost(monkeypatch, how):
    """The power goes at every fsync of a round, just before and just after it, and after every answer."""
    seed = seed_of("lost writes")
    chance = random.Random(seed)
    crashes = at = 0
    over = False
    while not over:
        at += 1
        with a_world() as world, monkeypatch.context() as patch:
            disk = LossyDisk(world.data_dir / "rounds", patch)
            real, before = disk.os.fsync, bool(at % 2)

            def fsync(descriptor, disk=disk, real=real, before=before, turn=(at + 1) // 2):
                if disk.syncs + 1 == turn and before:
                    raise StopError
                real(descriptor)
                if disk.syncs == turn and not before:
                    raise StopError

            disk.os.fsync = fsync
            over = True
            try:
                for step in world.steps():
                    step()
            except StopError:
                over = False
            disk.crash(how, chance)
            patch.undo()
            crashes += 1
            world.restart()
            world.check_parts()
            world.audit.check()
            world.finish()
    assert crashes > 20
    print(f"{crashes} power cuts")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        *((call, errno.ENOSPC) for call in ("open", "write", "replace", "mkdir")),
        *((call, errno.EIO) for call in ("open", "write", "replace", "mkdir", "unlink")),
        ("open", errno.EMFILE),
    ],
    ids=lambda value: errno.errorcode.get(value, value),
)
@pytest.mark.parametrize(
    "lasting", [pytest.param(1, id="once", marks=pytest.mark.slow), pytest.param(10**9, id="lasting")]
)
def test_a_call_that_fails(monkeypatch, call, error, lasting):
    number = failures = 0
    while True:
        number += 1
        with a_world() as world, monkeypatch.context() as patch:
            failing = FailingCalls(patch, call, number, error, lasting)
            for step in world.steps():
                try:
                    answer = step()
                except (OSError, StoreError):  # background work: the worker logs it and tries again
                    answer = None
                    failures += 1
                if answer is not None and answer.status_code >= 500:
                    failures += 1
                    assert answer.headers["content-type"] == "application/problem+json"
                    if error in (errno.ENOSPC, errno.EMFILE):
                        assert answer.status_code in (503, 507), answer.text
                elif answer is not None:
                    assert answer.status_code in (200, 201, 204, 404, 409), answer.text
                world.audit.check()
            failing.end()
            world.check_parts()
            world.finish()
            if failing.passed < number:
                break
    assert failures or call in ("unlink", "mkdir"), "nothing has failed"


def test_a_failing_fsync_ends_the_process(monkeypatch):
    number = ended = 0
    while True:
        number += 1
        with a_world() as world, monkeypatch.context() as patch:
            failing = FailingCalls(patch, "fsync", number, errno.EIO, 1)

            def end(code):
                assert code == 74
                raise EndedError

            patch.setattr(os, "_exit", end)
            try:
                for step in world.steps():
                    step()
            except EndedError:
                ended += 1
            patch.undo()
            world.restart()
            world.check_parts()
            world.audit.check()
            world.finish()
            if failing.passed < number:
                break
    assert ended == number - 1 >= 10
