"""What split keys cost beside shared ones, in one run.

    python -m benchmarks.split_keys

* bytes of a dealing by the number of holders, less the section that a shared key takes;
* a round of four sites and 10^6 values over loopback, shared and split by turns, each on its own aggregator;
* a holder's work on the shares of 300 members, among 5 holders; and opening with 3 liars among 10.

The result goes to benchmarks/results/split_keys.json, with what was promised beside what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.proc import cpu_s
from benchmarks.report import RESULTS, machine, versions, write
from client_sdk.local import LocalFederation, local_federation, plan_for
from he_agg.ids import RoundId
from he_agg.plan.plan import SHARED, SPLIT, Plan
from he_agg.ring.primes import N
from he_agg.sharing.context import Context
from he_agg.sharing.dealer import deal
from he_agg.sharing.dealing import Excerpt, Holders
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.field import Elements, P
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import BadShare, answer, open_share, read_answer
from he_agg.sharing.thresholds import Thresholds
from keys.dealing import sealing_to
from keys.receiving import DEFAULT_SUITE, ReceivingKey

SITES, VALUES, ROUNDS = 4, 10**6, 15
MASK_KEY = bytes(32)

Row = dict[str, Any]


def main() -> int:
    """Measure, write the result, and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each kind [default: 15]")
    rounds = parser.parse_args().rounds
    rows = [*(dealing_bytes(m, most) for m, most in ((3, 9_000), (10, 45_000), (31, 135_000)))]
    rows += [round_seconds(rounds), holder_seconds(), liars_seconds()]
    result = {"machine": machine(), "versions": versions(), "rows": rows}
    for row in rows:
        print(json.dumps(row))
    write(result, RESULTS / "split_keys.json")
    return 0 if all(row["holds"] for row in rows) else 1


def judged(what: str, measured: float, at_most: float, **facts: Any) -> Row:
    """Put what was measured beside what was promised."""
    return {"what": what, "measured": measured, "at_most": at_most, "holds": measured <= at_most} | facts


def holders_of(m: int) -> Holders:
    """So many holders, with the hybrid suite."""
    return Holders(tuple(f"holder-{j:02}" for j in range(m)), (DEFAULT_SUITE,) * m, Thresholds.choose(m).threshold)


def dealing_bytes(m: int, most: int) -> Row:
    """Compare what a site sends beside its values: its dealing, or its key in the section of a shared one."""
    plans = {keys: plan_for({"w": np.zeros(10_000)}, m, keys=keys) for keys in (SHARED, SPLIT)}
    section = plans[SHARED].public.wire_bytes - plans[SPLIT].public.wire_bytes
    dealing = holders_of(m).dealing_bytes
    return judged(f"bytes of a dealing among {m} holders", dealing, most, section_of_a_shared_key=section)


def round_seconds(rounds: int) -> Row:
    """Time rounds of either kind by turns: from the first site's call to the last site's mean."""
    rng = np.random.default_rng(1)
    update = {"w": rng.uniform(-0.1, 0.1, VALUES).astype(np.float32)}
    seconds: dict[str, list[float]] = {SHARED: [], SPLIT: []}
    busy: dict[str, list[tuple[float, float]]] = {SHARED: [], SPLIT: []}
    with contextlib.ExitStack() as stack:
        running: dict[str, LocalFederation] = {
            keys: stack.enter_context(local_federation(_plan(update, keys, rounds + 2), SITES)) for keys in seconds
        }
        for number in range(rounds + 2):
            for keys, federation in running.items():
                before = _busy(federation)
                spent = _round(federation, update, number)
                after = _busy(federation)
                if number >= 2:  # the first ones compile
                    seconds[keys].append(spent)
                    busy[keys].append((after[0] - before[0], after[1] - before[1]))
    medians = {keys: statistics.median(found) for keys, found in seconds.items()}
    differences = sorted(split - shared for split, shared in zip(seconds[SPLIT], seconds[SHARED], strict=True))
    return judged(
        f"seconds that a round of {SITES} sites and {VALUES} values takes longer",
        round(statistics.median(differences), 4),
        0.25,
        quartiles=[round(differences[len(differences) // 4], 4), round(differences[-1 - len(differences) // 4], 4)],
        shared_s=round(medians[SHARED], 4),
        split_s=round(medians[SPLIT], 4),
        rounds=rounds,
        processor_s={
            keys: {
                who: round(statistics.median(each), 4) for who, each in zip(_WHO, zip(*found, strict=True), strict=True)
            }
            for keys, found in busy.items()
        },
    )


_WHO = ("aggregator", "sites")


def _busy(federation: LocalFederation) -> tuple[float, float]:
    """Return what the aggregator's process, and this one with all sites in it, have used of the processor so far."""
    return cpu_s(federation.aggregator.pid), time.process_time()


def _plan(update: dict[str, Any], keys: str, rounds: int) -> Plan:
    return plan_for(update, SITES, name=f"bench-{keys}", clip=1.0, weight_cap=10, rounds=rounds, keys=keys)


def _round(federation: LocalFederation, update: dict[str, Any], number: int) -> float:
    opened = federation.everywhere(lambda site, _: next(site.rounds()))
    changed = [{"w": update["w"] + np.float32(1e-3 * (number + 1) + 1e-4 * i)} for i in range(SITES)]
    started = time.perf_counter()
    federation.everywhere(lambda _, i: opened[i].aggregate(changed[i], weight=1))
    return time.perf_counter() - started


class Dealt:
    """Dealings of so many members to so many holders, for real: sealed, committed to and proven.

    Attributes:
        excerpts: what each holder gets of each member, with the member's context.
        keys: the holders' sharing keys.
        contexts: of the members.
    """

    def __init__(self, members: int, m: int) -> None:
        rng, listed = np.random.default_rng(3), holders_of(m)
        self.keys = {name: ReceivingKey.generate() for name in listed.names}
        seal = sealing_to({name: key.public for name, key in self.keys.items()})
        self.contexts = [_context(i) for i in range(members)]
        key = rng.integers(-21, 22, N).astype(np.int8)
        dealings = [deal(key, MASK_KEY, context, listed, seal) for context in self.contexts]
        self.excerpts = {
            name: [(one.excerpt(name), context) for one, context in zip(dealings, self.contexts, strict=True)]
            for name in listed.names
        }

    def answer_of(self, name: str) -> bytes:
        """Do a holder's work: open, check, and add its shares."""
        return answer([_share(excerpt, context, self.keys[name]) for excerpt, context in self.excerpts[name]])


def _context(member: int) -> Context:
    digests = {what: hashlib.sha256(what.encode()).hexdigest() for what in ("plan_id", "key_id", "roster", "holders")}
    return Context(RoundId("bench", 1, 1), 1, **digests, dealer=f"site-{member}", nonce=f"{member:032x}")


def _share(excerpt: Excerpt, context: Context, key: ReceivingKey) -> Elements:
    found = open_share(excerpt, context, key.open)
    if isinstance(found, BadShare):
        raise TypeError(found.fault)
    return found


def _timed(work: Callable[[], object], times: int = 5) -> float:
    """Return the median of several times. Units: seconds."""
    spent = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return round(statistics.median(spent[1:]), 5)


def holder_seconds() -> Row:
    """Time a holder's work on the shares of 300 members among 5 holders."""
    members, m = 300, 5
    dealt = Dealt(members, m)
    last = holders_of(m).names[-1]  # whose shares are whole rows, not seeds
    return judged(f"seconds of one of {m} holders for {members} members", _timed(partial(dealt.answer_of, last)), 0.3)


def liars_seconds() -> Row:
    """Time opening a sum of 10 keys from the answers of 10 holders of whom 3 lie."""
    members, m, liars = 10, 10, (2, 5, 9)
    dealt, rng = Dealt(members, m), np.random.default_rng(2)
    rows = {j: read_answer(dealt.answer_of(name)) for j, name in enumerate(holders_of(m).names, start=1)}
    rows |= {j: rng.integers(0, P, N).astype(np.uint16) for j in liars}
    masks, threshold = total_mask(MASK_KEY, dealt.contexts), Thresholds.choose(m).threshold

    def open_sum() -> None:
        found = rebuild(rows, threshold, lambda total: unmasked(total, masks, members) is not None)
        if found.liars != liars:
            raise ValueError(f"expected liars {liars}, got {found.liars}")

    return judged(f"seconds to open with {len(liars)} liars of {m} holders", _timed(open_sum, 30), 0.010)


if __name__ == "__main__":
    sys.exit(main())
