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
from he_agg.ring.limbs import batch_count, join_arguments, limb_keys, require_packed
from he_agg.ring.params import RingParams
from he_agg.ring.passes import key_product, open_and_split
from he_agg.ring.primes import BATCH, N, coefficients_of
from he_agg.ring.sampling import NOISE_BOUND
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
            ValueError: If the sum has the wrong shape or a coefficient beyond 21 * `sites`: then it is no sum of
                so many keys. (A decryption that went wrong; the caller turns this into its own error.)
        """
        if not 1 <= sites <= params.max_sites:
            raise ValueError(f"1 to {params.max_sites} sites can be opened, got {sites}")
        integers = np.issubdtype(key_sum.dtype, np.signedinteger)
        if key_sum.shape != (N,) or not integers or np.abs(key_sum.astype(np.int64)).max() > NOISE_BOUND * sites:
            raise ValueError(f"this is not the sum of {sites} one-time keys of {N} coefficients")
        self.params = params
        self._a = Keystream(a_key)
        self._keys = limb_keys(params, key_sum)
        self._products = [key.product_arguments() for key in self._keys]
        self._opening = _opening_arguments(params)

    def open(self, first_batch: int, packed: Sequence[Bytes], out: NDArray[np.signedinteger]) -> tuple[int, int, int]:
        """Open a run of whole batches, or the last ones.

        Args:
            first_batch: Index of the first batch.
            packed: Summed residues, one array for each modulus. Shapes: `packed_sizes` of so many values.
            out: Where to write the exact sums, int32 or int64. Only the last batch of a submission may be short.

        Returns:
            The largest distance of a coefficient to the grid; the sum of the squares of the distances; and the largest
            magnitude of a value. What an honest sum stays within: plan/hybrid_parameters.py; with a wrong key the
            distance comes near half a step.

        Raises:
            ResidueError: If a residue is not below its modulus.
            ValueError: If shapes are not as described.
        """
        if out.ndim != 1 or not np.issubdtype(out.dtype, np.signedinteger) or not out.flags.c_contiguous:
            raise ValueError(f"opening needs one contiguous array of integers, got {out.dtype} of {out.shape}")
        require_packed(self.params, out.size, packed)
        scratch = [np.empty(STREAM_WORDS + TAIL_BYTES // 4, dtype=np.uint32) for _ in self._keys]
        totals = [np.empty(BATCH, dtype=np.uint32) for _ in packed]
        furthest = squares = largest = 0
        batch_values = self.params.digits * BATCH
        for i in range(batch_count(self.params, out.size)):
            sums = out[i * batch_values : (i + 1) * batch_values]
            count = coefficients_of(sums.size, self.params.digits)
            for total, bits, part in zip(totals, self.params.sent_bits, packed, strict=True):
                start = packed_bytes(i * BATCH, bits)
                unpack(part[start : start + packed_bytes(count, bits)], count, bits, total[:count])
            for limb, (words, product) in enumerate(zip(scratch, self._products, strict=True)):
                self._a.fill_with_tail(words.view(np.uint8), limb, first_batch + i)
                key_product(words[:STREAM_WORDS], frozen(totals[0]), *product)
            first, last = totals[0][:count], totals[-1][:count]
            arguments = (first, last, scratch[0], scratch[-1], *self._opening, sums)
            *residues, distance, square_sum, magnitude = open_and_split(*arguments)
            if any(int(residue) >= q for residue, q in zip(residues, self.params.moduli, strict=False)):
                raise ResidueError(f"batch {first_batch + i} holds a residue that is not below its modulus")
            furthest, squares = max(furthest, int(distance)), squares + int(square_sum)
            largest = max(largest, int(magnitude))
        return furthest, squares, largest

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


def _opening_arguments(params: RingParams) -> tuple[Any, ...]:
    """Return the arguments of `open_and_split` after the residues."""
    message = (params.digits, float(params.base), float(params.delta))
    r, s = (*params.moduli, 1)[:2]
    inverse = pow(r, -1, s) if s > 1 else 0
    ratio = params.modulus / (r * s)
    return (*message, *join_arguments(params), float(r), float(s), float(inverse), ratio)
