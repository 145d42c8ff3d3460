"""The linear function of one section, and what it makes of the residues of one part: its tags, before pads.

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
from he_agg.ring.keystream import TAIL_BYTES, Keystream

__all__ = ["PartTags", "SectionMac"]

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
                drawn = self._draw(limit, ROW, 0, first + i)
                column[:] = drawn
                drawn.fill(0)
            self._gammas.append((columns.shape[0], interleaved(columns.T)))
            columns.fill(0)

    def begin(self, index: int) -> PartTags:
        """Begin to compute the tags of one part, before pads, as its residues are made."""
        return PartTags(self, index)

    def contribution(self, index: int, packed: Packed) -> tuple[int, ...]:
        """Compute the tags of one part, before pads.

        Args:
            packed: Its packed residues; bits after the last one count as zeros.
        """
        part = self.begin(index)
        part.add(packed)
        return part.contribution()

    def blocks(self, index: int, number: int, rows: int) -> list[_Block]:
        """Draw the coefficients of so many rows of a part, from row `MAX_ROWS` * number on, for all tags."""
        drawn = []
        for group, (width, gamma) in enumerate(self._gammas):
            beta = self._draw(self._beta_limit, rows * width, 1 + group, (index << 32) + number)
            drawn.append(_Block(width, gamma, beta, self.section.modulus_bits))
        return drawn

    def wipe(self) -> None:
        """Overwrite the coefficients. Contributions that are being computed come out wrong, or not at all."""
        self._stream.wipe()
        for _, gamma in self._gammas:
            gamma.fill(0)

    def _draw(self, limit: np.uint64, count: int, limb: int, batch: int) -> Words:
        words = np.empty(count + TAIL_BYTES // 8, dtype=np.uint64)
        self._stream.fill_with_tail(words.view(np.uint8), limb, batch)
        numbers = words[:count]
        scale(numbers, limit)
        return numbers

    def __repr__(self) -> str:
        return f"SectionMac({self.section.name!r}, {self.tags} tags, <coefficients>)"


class PartTags:
    """The tags of one part, before pads, from residues that come stretch by stretch, in order.

    So they can be looked at by the thread that makes them, while they are in its cache. A class because the
    coefficients of up to `MAX_ROWS` rows are secret, drawn at once, and overwritten when those rows are done. Not for
    two threads.
    """

    def __init__(self, mac: SectionMac, index: int) -> None:
        self._mac, self._index, self._bits = mac, index, mac.section.modulus_bits
        self._done, self._left = 0, mac.section.residues_in(index)
        self._totals = [0] * mac.tags
        self._blocks: list[_Block] = []

    def add(self, packed: Packed) -> None:
        """Add the residues that follow: whole rows of `ROW`, or the part's last ones."""
        data = np.frombuffer(packed, dtype=np.uint8)
        rows = data.size // packed_bytes(ROW, self._bits)
        count = self._left if data.size == packed_bytes(self._left, self._bits) else rows * ROW
        if not 0 < count <= self._left or data.size != packed_bytes(count, self._bits):
            raise ValueError(
                f"expected whole rows of {ROW} out of {self._left} residues of {self._bits} bits, got {data.size} bytes"
            )
        while count:
            number, row = divmod(self._done // ROW, MAX_ROWS)
            if row == 0:
                self._drain()
                self._blocks = self._mac.blocks(self._index, number, min(-(-self._left // ROW), MAX_ROWS))
            here = min(count, (MAX_ROWS - row) * ROW)
            size = packed_bytes(here, self._bits)
            for block in self._blocks:
                block.add(data[:size], here, row)
            data, count = data[size:], count - here
            self._done, self._left = self._done + here, self._left - here
        if self.complete:
            self._drain()

    @property
    def complete(self) -> bool:
        """Whether all residues were added."""
        return not self._left

    def contribution(self) -> tuple[int, ...]:
        """Return the tags of the whole part, before pads.

        Raises:
            ValueError: residues are missing.
        """
        if self._left:
            raise ValueError(f"{self._left} of {self._done + self._left} residues are missing")
        return tuple(total % self._mac.section.modulus for total in self._totals)

    def _drain(self) -> None:
        for group, block in enumerate(self._blocks):
            for i, amount in enumerate(block.drained()):
                self._totals[group * MAX_TAGS + i] += amount
        self._blocks = []

    def __repr__(self) -> str:
        return f"PartTags({self._mac.section.name!r}, part {self._index}, <coefficients>)"


class _Block:
    """Sums over up to `MAX_ROWS` rows, for up to `MAX_TAGS` tags: integers, of packed residues times coefficients."""

    def __init__(self, tags: int, gamma: Words, beta: Words, bits: int) -> None:
        self._tags, self._bits = tags, bits
        self._gamma, self._beta, self._drawn = frozen(gamma), frozen(beta), beta
        self._kernel = rows_kernel(bits if bits <= HALF_BITS else UNPACKED_BITS, tags)
        self._outs = [new_out(tags) for _ in range(-(-bits // HALF_BITS))]

    def add(self, packed: Bytes, count: int, first: int) -> None:
        """Add so many residues, the first of which begins row `first`."""
        if self._bits > HALF_BITS:
            self._add_wide(packed, count, first)
            return
        rows, rest = divmod(count, ROW)
        (out,) = self._outs
        self._add_rows(packed, first, rows, out)
        if rest:
            last = np.zeros(packed_bytes(ROW, self._bits), dtype=np.uint8)
            size = packed_bytes(rest, self._bits)
            last[:size] = packed[packed_bytes(rows * ROW, self._bits) :]
            if used := rest * self._bits % 8:
                last[size - 1] &= (1 << used) - 1
            self._add_rows(last, first + rows, 1, out)

    def _add_wide(self, packed: Bytes, count: int, first: int) -> None:
        for start in range(0, count, WIDE_ROWS * ROW):
            here = min(count - start, WIDE_ROWS * ROW)
            piece = packed[packed_bytes(start, self._bits) : packed_bytes(start + here, self._bits)]
            x = unpack(piece, here, self._bits)
            rows = -(-here // ROW)
            half = np.zeros(rows * ROW, dtype=np.uint32)
            halves = (x & np.uint64((1 << HALF_BITS) - 1), x >> np.uint64(HALF_BITS))
            for out, values in zip(self._outs, halves, strict=True):
                half[:here] = values
                self._add_rows(half.view(np.uint8), first + start // ROW, rows, out)

    def _add_rows(self, packed: Bytes, first: int, rows: int, out: Words) -> None:
        beta = self._beta[first * self._tags : (first + rows) * self._tags]
        self._kernel(frozen(packed), self._gamma, beta, out, rows)

    def drained(self) -> list[int]:
        """Return the exact sums, one integer for each tag, and overwrite the coefficients of rows. The end of it."""
        self._drawn.fill(0)
        amounts = zip(*(drained(out, self._tags) for out in self._outs), strict=True)
        return [sum(half << (i * HALF_BITS) for i, half in enumerate(of_tag)) for of_tag in amounts]
