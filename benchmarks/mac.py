"""Measure what the MAC costs at one plan, in this process, pinned to one core. Started by benchmarks/codecs.py.

Each repetition encrypts one submission without tags and one that is tagged as it is made, as a site does; then it
verifies a sum that is whole in memory, and opens it. Ratios are taken within a repetition, so that whatever slows the
machine down for a while slows both down; their median counts. Before that the same sum with one bit flipped is seen to
be refused, and the sum itself to be accepted and right.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measure import seconds
from benchmarks.schemes import Ours
from he_agg.kernels.bitpack import fold, new_sum, pack
from he_agg.mac import Claim, RoundMac, tag_count
from he_agg.plan.schemes import DEFAULT_CODEC
from he_agg.plan.sections import Part

SITES = 3
WARM = 2


class Case:
    """A sum of three submissions, and everything to do it again."""

    def __init__(self, values: int, value_bits: int, max_sites: int) -> None:
        self.ours = Ours(DEFAULT_CODEC, values, value_bits, max_sites)
        self.plan, key = self.ours.plan.public, self.ours.key
        self.mac = RoundMac(key.mac_key, self.plan, key.epoch, self.ours.round_id)
        largest = self.plan.magnitude
        self.values = np.random.default_rng(1).integers(-largest, largest, self.plan.values, dtype=np.int32)
        sums = [new_sum(place.residues, place.section.modulus_bits) for place in self.plan.places]
        self.submissions: list[Claim] = []
        for site in range(SITES):
            total, nonce = self.mac.new_total(), f"{site:032x}"
            for number, packed in self.ours.encrypt(self.values, partial(self.mac.watch, total)):
                section = self.plan.places[number].section
                fold(sums[number], packed, section.modulus_bits, section.modulus)
            self.submissions.append((f"site-{site}", nonce, self.mac.tags(total, f"site-{site}", nonce)))
        self.parts = [
            Part(place.number, pack(residues, place.section.modulus_bits).data)
            for place, residues in zip(self.plan.places, sums, strict=True)
        ]

    def check(self) -> None:
        """See that the sum is accepted and right, and refused with one bit flipped."""
        last = self.parts[-1]
        changed = bytearray(last.packed)
        changed[0] ^= 1
        if self.mac.check(self.submissions).holds(last.number, changed):
            raise SystemExit("a sum with a flipped bit was accepted")
        if not self.verify():
            raise SystemExit("an honest sum was refused")
        if not np.array_equal(self.open(), self.values.astype(np.int64) * SITES):
            raise SystemExit("the sum is wrong")

    def encrypt(self) -> None:
        """Encrypt without tags."""
        for _ in self.ours.encrypt(self.values):
            pass

    def encrypt_and_tag(self) -> None:
        """Encrypt and tag, up to what goes into a manifest."""
        total = self.mac.new_total()
        for _ in self.ours.encrypt(self.values, partial(self.mac.watch, total)):
            pass
        self.mac.tags(total, "site-new", os.urandom(16).hex())

    def verify(self) -> bool:
        """Verify the sum."""
        check = self.mac.check(self.submissions)
        return [check.holds(part.number, part.packed) for part in self.parts] == [True] * len(self.parts)

    def open(self) -> Any:
        """Open the sum."""
        return self.ours.open(lambda number: self.parts[number].packed, SITES)


def measure(values: int, value_bits: int, max_sites: int, repetitions: int) -> dict[str, Any]:
    """One row."""
    case = Case(values, value_bits, max_sites)
    case.check()
    actions = (case.encrypt, case.encrypt_and_tag, case.verify, case.open)
    times = [[seconds(action) for action in actions] for _ in range(WARM + repetitions)][WARM:]
    tag = [tagged / plain - 1 for plain, tagged, _, _ in times]
    verify = [verified / opened for _, _, verified, opened in times]
    return {
        "value_bits": value_bits,
        "values": values,
        "max_sites": max_sites,
        "profile": case.plan.parameters.name,
        "tags": {section.name: tag_count(section) for section in case.plan.sections},
        "repetitions": repetitions,
        "tag_over_encrypt": statistics.median(tag),
        "tag_over_encrypt_range": [min(tag), max(tag)],
        "verify_over_open": statistics.median(verify),
        "verify_over_open_range": [min(verify), max(verify)],
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--values", type=int, default=10**7)
    parser.add_argument("--max-sites", type=int, default=31)
    parser.add_argument("--repetitions", type=int, default=31)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    json.dump(measure(options.values, options.bits, options.max_sites, options.repetitions), sys.stdout)


if __name__ == "__main__":
    main()
