"""Opening of a sum: the same cost for 3 submissions and for 300."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels.bitpack import Bytes, packed_bytes, unpack
from he_agg.kernels.jit import frozen
from he_agg.ring.keystream import TAIL_BYTES, Keystream
from he_agg.ring.limbs import batch_count, lift, limb_keys, require_packed
from he_agg.ring.params import RingParams
from he_agg.ring.passes import key_product, remove_product, round_one, round_two
from he_agg.ring.primes import BATCH_VALUES, N
from he_agg.ring.uniform import STREAM_WORDS


class ResidueError(ValueError):
    """A residue is not below its prime: bytes of ours hold none such."""


class Opener:
    """Opens the sum of a round, block by block, in any order, from any thread.

    A class because the sum's key is transformed once and wiped at the end. Use as a context manager.
    """

    def __init__(self, params: RingParams, a_key: bytes, key_sum: NDArray[np.signedinteger], sites: int) -> None:
        """Take the sum of the one-time keys.

        Args:
            a_key: The round's public key, from `keystream.a_key`.
            key_sum: The rounded sum of the sites' `key_coefficients`. Shape: (N,).

        Raises:
            ValueError: If the sum has the wrong shape or a coefficient beyond `sites`: then it is no sum of
                so many ternary keys. (A decryption that went wrong; the caller turns this into its own
                error.)
        """
        if not 1 <= sites <= params.max_sites:
            raise ValueError(f"1 to {params.max_sites} sites can be opened, got {sites}")
        integers = np.issubdtype(key_sum.dtype, np.signedinteger)
        if key_sum.shape != (N,) or not integers or np.abs(key_sum.astype(np.int64)).max() > sites:
            raise ValueError(f"this is not the sum of {sites} ternary keys of {N} coefficients")
        self.params = params
        self._a = Keystream(a_key)
        self._keys = limb_keys(params, key_sum)

    def open(
        self, first_batch: int, count: int, packed: Sequence[Bytes], out: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], int, int]:
        """Open a run of whole batches, or the last ones.

        Args:
            first_batch: Index of the first batch.
            count: How many values. Only the last batch of a submission may be short.
            packed: Summed residues, one array for each limb. Shape: (packed_bytes(count, bits),) each.
            out: Where to write. Shape: (count,).

        Returns:
            The exact sums, the largest distance of a value to the grid, and the sum of the squares of the
            distances, which is right as long as none is beyond 2**23. An honest sum of n submissions stays
            within 21 * n, always; with a wrong key the distance comes near half a step.

        Raises:
            ResidueError: If a residue is not below its prime.
            ValueError: If shapes are not as described.
        """
        require_packed(self.params, count, packed)
        if out is None:
            out = np.empty(count, dtype=np.int64)
        if out.shape != (count,) or out.dtype != np.int64 or not out.flags.c_contiguous:
            raise ValueError(f"opening {count} values needs as many int64, got {out.dtype} of {out.shape}")
        scratch = [np.empty(STREAM_WORDS + TAIL_BYTES // 4, dtype=np.uint32) for _ in self._keys]
        total = np.zeros(BATCH_VALUES, dtype=np.uint32)
        distance = squares = 0
        for i in range(batch_count(count)):
            sums = out[i * BATCH_VALUES : (i + 1) * BATCH_VALUES]
            for limb, bits in enumerate(self.params.limb_bits):
                start = packed_bytes(i * BATCH_VALUES, bits)
                part = packed[limb][start : start + packed_bytes(sums.size, bits)]
                unpack(part, sums.size, bits, total[: sums.size])
                self._remove_key(scratch[limb], limb, first_batch + i, total[: sums.size])
            furthest, square_sum = self._round([s[: sums.size] for s in scratch], sums)
            distance, squares = max(distance, int(furthest)), squares + int(square_sum)
        return out, distance, squares

    def _remove_key(self, words: NDArray[np.uint32], limb: int, batch: int, total: NDArray[np.uint32]) -> None:
        key = self._keys[limb]
        self._a.fill_with_tail(words.view(np.uint8), limb, batch)
        key_product(words[:STREAM_WORDS], frozen(total), *key.product_arguments())
        q = key.tables.q
        if int(remove_product(words[: total.size], total, np.uint32(q))) >= q:
            raise ResidueError(f"batch {batch} of limb {limb} holds a residue that is not below its prime")

    def _round(self, limbs: list[NDArray[np.uint32]], out: NDArray[np.int64]) -> tuple[np.signedinteger, np.int64]:
        delta, primes = self.params.delta, self.params.primes
        if len(primes) == 1:
            return round_one(limbs[0], np.int32(delta), np.uint32(primes[0]), out)
        p, q = primes
        inverse = pow(p, -1, q)
        numbers = (inverse, self._keys[1].tables.quotient(inverse), p, q, lift(p, q))
        arguments: list[Any] = [*limbs, *(np.uint32(n) for n in numbers), np.int64(delta), out]
        return round_two(*arguments)

    def wipe(self) -> None:
        """Overwrite the sum of the keys."""
        for key in self._keys:
            key.wipe()

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Opener({self.params}, <key>)"
