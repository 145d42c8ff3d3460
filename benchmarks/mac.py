"""What the MAC costs: tagging against encrypting, verifying against opening, of the codec hybrid, on one core.

    python -m benchmarks.mac [--values 10000000] [--repetitions 31] [--out benchmarks/results/mac.json]

Each repetition encrypts one submission and tags each part as soon as it is made, as a site does; then it verifies a sum
that is whole in memory, and opens it. Ratios are taken within a repetition, so that whatever slows the machine down for
a while slows both down; their median counts. Before that the same sum with one bit flipped is seen to be refused.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, machine, versions, write
from he_agg import Layout, Plan
from he_agg.codecs.hybrid import HybridCodec
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import fold, new_sum, pack
from he_agg.mac import RoundMac, Tags, TagTotal, tag_count
from he_agg.plan.sections import Part
from keys import GroupKey

ROUND = RoundId("bench", 1, 1)
SITES, MAX_SITES = 3, 31
VALUE_BITS = (16, 8, 24)
PROMISED = {"tag_over_encrypt": 0.25, "verify_over_open": 0.40}
"""At 16 bits."""


class Case:
    """A sum of three submissions, and everything to do it again."""

    def __init__(self, values: int, value_bits: int) -> None:
        layout = Layout.of({"w": np.zeros(values, dtype=np.float32)}, clip=1.0, weight_cap=1000)
        self.plan = Plan.create("bench", layout, max_sites=MAX_SITES, value_bits=value_bits).public
        self.codec = HybridCodec(self.plan)
        self.key = GroupKey.create(Plan(self.plan, layout))
        self.mac = RoundMac(self.key.mac_seed, self.plan, self.key.epoch, ROUND)
        largest = self.plan.magnitude
        self.values = np.random.default_rng(1).integers(-largest, largest, self.plan.values, dtype=np.int32)
        sums = [new_sum(place.residues, place.section.modulus_bits) for place in self.plan.places]
        self.submissions: list[tuple[str, str, Tags]] = []
        for site in range(SITES):
            total = self.mac.new_total()
            for part in self.codec.encrypt(self.values, self.key, ROUND, threads=1):
                section = self.plan.places[part.number].section
                fold(sums[part.number], part.packed, section.modulus_bits, section.modulus)
                total.add(part.number, self.mac.part(part.number, part.packed))
            name, nonce = f"site-{site}", f"{site:032x}"
            self.submissions.append((name, nonce, self.mac.tags(total, name, nonce)))
        self.parts = [
            Part(place.number, pack(residues, place.section.modulus_bits).data)
            for place, residues in zip(self.plan.places, sums, strict=True)
        ]

    def encrypt_and_tag(self) -> tuple[float, float]:
        """Seconds of both."""
        encrypt_s, tag_s, total = 0.0, 0.0, self.mac.new_total()
        begin = time.perf_counter()
        for part in self.codec.encrypt(self.values, self.key, ROUND, threads=1):
            made = time.perf_counter()
            total.add(part.number, self.mac.part(part.number, part.packed))
            encrypt_s += made - begin
            begin = time.perf_counter()
            tag_s += begin - made
        self.mac.tags(total, "site-new", os.urandom(16).hex())
        return encrypt_s, tag_s + time.perf_counter() - begin

    def total_of(self, parts: list[Part]) -> TagTotal:
        total = self.mac.new_total()
        for part in parts:
            total.add(part.number, self.mac.part(part.number, part.packed))
        return total

    def verify(self) -> float:
        """Seconds."""
        begin = time.perf_counter()
        if not self.mac.verify(self.total_of(self.parts), self.submissions):
            raise SystemExit("an honest sum was refused")
        return time.perf_counter() - begin

    def open(self) -> float:
        """Seconds."""
        begin = time.perf_counter()
        sums = self.codec.decrypt(lambda number: self.parts[number], SITES, self.key, ROUND, threads=1)
        seconds = time.perf_counter() - begin
        if not np.array_equal(sums, self.values.astype(np.int64) * SITES):
            raise SystemExit("the sum is wrong")
        return seconds

    def refuses(self) -> bool:
        """Whether a flipped bit is seen."""
        last = self.parts[-1]
        changed = bytearray(last.packed)
        changed[0] ^= 1
        total = self.total_of([*self.parts[:-1], Part(last.number, bytes(changed))])
        return not self.mac.verify(total, self.submissions)


def measure(values: int, value_bits: int, repetitions: int) -> dict[str, Any]:
    """One row."""
    case = Case(values, value_bits)
    if not case.refuses():
        raise SystemExit("a sum with a flipped bit was accepted")
    times: dict[str, list[float]] = {name: [] for name in ("encrypt", "tag", "verify", "open")}
    for repetition in range(repetitions + 2):
        row = (*case.encrypt_and_tag(), case.verify(), case.open())
        if repetition >= 2:  # the first ones warm
            for seconds, column in zip(row, times.values(), strict=True):
                column.append(seconds)
    ratios = {
        "tag_over_encrypt": [t / e for t, e in zip(times["tag"], times["encrypt"], strict=True)],
        "verify_over_open": [v / o for v, o in zip(times["verify"], times["open"], strict=True)],
    }
    return {
        "value_bits": value_bits,
        "values": values,
        "profile": case.plan.parameters.name,
        "tags": {section.name: tag_count(section) for section in case.plan.sections},
        **{f"{name}_values_per_s": round(values / statistics.median(t)) for name, t in times.items()},
        **{name: round(statistics.median(r), 4) for name, r in ratios.items()},
        **{f"{name}_range": [round(min(r), 4), round(max(r), 4)] for name, r in ratios.items()},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10**7)
    parser.add_argument("--repetitions", type=int, default=31)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS / "mac.json")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "command": f"python -m benchmarks.mac --values {options.values} --repetitions {options.repetitions}",
        "sites": SITES,
        "max_sites": MAX_SITES,
        "promised": PROMISED,
        "rows": [measure(options.values, bits, options.repetitions) for bits in VALUE_BITS],
    }
    write(report, options.out)
    for row in report["rows"]:
        speeds = ", ".join(f"{n} {row[f'{n}_values_per_s'] / 1e6:,.0f}" for n in ("encrypt", "tag", "verify", "open"))
        print(f"{row['value_bits']:2} bits, {row['profile']}, M values/s on one core: {speeds}")
        for name, limit in PROMISED.items():
            low, high = row[f"{name}_range"]
            promise = (
                "" if row["value_bits"] != 16 else f", promised {limit}: {'kept' if row[name] <= limit else 'MISSED'}"
            )
            print(f"   {name} {row[name]:.3f} ({low:.3f} to {high:.3f}){promise}")


if __name__ == "__main__":
    main()
