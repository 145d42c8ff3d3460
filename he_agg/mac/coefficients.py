"""The linear function of one section, and what the residues of one part contribute to its tags.

Rows are `ROW` = 512 residues wide. Every part begins a new row, whatever its length, and its last row is as if padded
with zeros; so the rows of a part depend on nothing but its index, and parts can be worked on in any order.

Coefficients come from AES-256-CTR keystreams (ring/keystream.py) under the section's key, read as little-endian 64-bit
words w; a word stands for the high half of w * G, or of w * B (bound.py):

    gamma[c, t]   word c of stream (limb 0, batch t)
    beta[r, t]    row r of the part with index p, r = 1024 k + j: word j * n + (t mod 10) of stream
                  (limb 1 + t div 10, batch 2^32 p + k), n being how many tags share t div 10

Residues of more than 31 bits go through the same kernel in halves of 31 bits, which exactness allows.
"""

from __future__ import annotations

import numpy as np

from he_agg.kernels.bitpack import Packed, packed_bytes, unpack
from he_agg.kernels.jit import frozen
from he_agg.kernels.mac_rows import (
    MAX_ROWS,
    MAX_TAGS,
    ROW,
    Bytes,
    Words,
    drained,
    interleaved,
    new_out,
    rows_kernel,
    scale,
)
from he_agg.mac.bound import beta_range, gamma_range, tag_count
from he_agg.plan.sections import Section
from he_agg.ring.keystream import Keystream

__all__ = ["SectionMac"]

HALF_BITS = 31
"""The widest residues that the kernel takes as they are."""

UNPACKED_BITS = 32
"""How the kernel reads residues that are one 32-bit word each."""

WIDE_ROWS = 32
"""Rows of wide residues that are unpacked at a time: 128 KiB."""


class SectionMac:
    """Coefficients of one section in one attempt. A class because they are secret and wiped together.

    Args:
        key: The section's coefficient key. Wiping the caller's copy is the caller's business.
        tags: How many tags; `tag_count(section)` unless a test wants to see forgeries pass.
    """

    def __init__(self, section: Section, key: bytes, tags: int | None = None) -> None:
        self.section = section
        self.tags = tag_count(section) if tags is None else tags
        self._stream = Keystream(key)
        self._beta_limit = np.uint64(beta_range(section.modulus))
        limit = np.uint64(gamma_range(section.modulus))
        self._gammas: list[tuple[int, Words]] = []
        for first in range(0, self.tags, MAX_TAGS):
            columns = np.empty((min(MAX_TAGS, self.tags - first), ROW), dtype=np.uint64)
            for i, column in enumerate(columns):
                self._draw(limit, column, 0, first + i)
            self._gammas.append((columns.shape[0], interleaved(columns.T)))
            columns.fill(0)

    def contribution(self, index: int, packed: Packed) -> tuple[int, ...]:
        """Compute what one part adds to the section's tags, before pads.

        Args:
            packed: Its packed residues; bits after the last one count as zeros.
        """
        count, bits = self.section.residues_in(index), self.section.modulus_bits
        data = np.frombuffer(packed, dtype=np.uint8)
        if data.size != packed_bytes(count, bits):
            raise ValueError(f"{count} residues of {bits} bits take {packed_bytes(count, bits)} bytes, got {data.size}")
        totals = [0] * self.tags
        for block, start in enumerate(range(0, count, MAX_ROWS * ROW)):
            here = min(count - start, MAX_ROWS * ROW)
            piece = data[packed_bytes(start, bits) : packed_bytes(start + here, bits)]
            for group, (width, gamma) in enumerate(self._gammas):
                beta = np.empty(-(-here // ROW) * width, dtype=np.uint64)
                self._draw(self._beta_limit, beta, 1 + group, (index << 32) + block)
                for i, amount in enumerate(_Block(width, gamma, beta).sums(piece, here, bits)):
                    totals[group * MAX_TAGS + i] += amount
                beta.fill(0)
        return tuple(total % self.section.modulus for total in totals)

    def wipe(self) -> None:
        """Overwrite the coefficients. Contributions that are being computed come out wrong, or not at all."""
        self._stream.wipe()
        for _, gamma in self._gammas:
            gamma.fill(0)

    def _draw(self, limit: np.uint64, out: Words, limb: int, batch: int) -> None:
        words = np.empty(out.size, dtype=np.uint64)
        self._stream.fill(words.view(np.uint8), limb, batch)
        scale(words, limit, out)
        words.fill(0)

    def __repr__(self) -> str:
        return f"SectionMac({self.section.name!r}, {self.tags} tags, <coefficients>)"


class _Block:
    """Sums over up to `MAX_ROWS` rows, for up to `MAX_TAGS` tags."""

    def __init__(self, tags: int, gamma: Words, beta: Words) -> None:
        self._tags, self._gamma, self._beta = tags, frozen(gamma), frozen(beta)

    def sums(self, packed: Bytes, count: int, bits: int) -> list[int]:
        """Return the exact sums of coefficients times packed residues, one integer for each tag."""
        if bits > HALF_BITS:
            return self._wide_sums(packed, count, bits)
        out, (rows, rest) = new_out(self._tags), divmod(count, ROW)
        self._add(packed, bits, 0, rows, out)
        if rest:
            last = np.zeros(packed_bytes(ROW, bits), dtype=np.uint8)
            size = packed_bytes(rest, bits)
            last[:size] = packed[packed_bytes(rows * ROW, bits) :]
            if used := rest * bits % 8:
                last[size - 1] &= (1 << used) - 1
            self._add(last, bits, rows, 1, out)
        return drained(out, self._tags)

    def _wide_sums(self, packed: Bytes, count: int, bits: int) -> list[int]:
        low_out, high_out = new_out(self._tags), new_out(self._tags)
        for start in range(0, count, WIDE_ROWS * ROW):
            here = min(count - start, WIDE_ROWS * ROW)
            x = unpack(packed[packed_bytes(start, bits) : packed_bytes(start + here, bits)], here, bits)
            rows = -(-here // ROW)
            half = np.zeros(rows * ROW, dtype=np.uint32)
            for out, values in ((low_out, x & np.uint64((1 << HALF_BITS) - 1)), (high_out, x >> np.uint64(HALF_BITS))):
                half[:here] = values
                self._add(half.view(np.uint8), UNPACKED_BITS, start // ROW, rows, out)
        halves = zip(drained(low_out, self._tags), drained(high_out, self._tags), strict=True)
        return [low + (high << HALF_BITS) for low, high in halves]

    def _add(self, packed: Bytes, bits: int, first: int, rows: int, out: Words) -> None:
        beta = self._beta[first * self._tags : (first + rows) * self._tags]
        rows_kernel(bits, self._tags)(frozen(packed), self._gamma, beta, out, rows)
