"""Values, or coefficients, per second of each ring operation, on the core it is pinned to.

    taskset -c 1 python benchmarks/ring_bench.py [batches]

Medians. 34 batches of 30-bit residues are a part of 4 MiB. The last row is the floor for any scheme with
a shared key: one keystream word a value, added, packed to 21 bits.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from he_agg.kernels.bitpack import fold, pack, packed_bytes, unpack
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.ring import keystream
from he_agg.ring.encryptor import Encryptor, _encrypt
from he_agg.ring.keystream import Keystream
from he_agg.ring.limbs import packed_sizes
from he_agg.ring.modulus import modulus, shoup_quotients
from he_agg.ring.ntt_lanes import inverse_product
from he_agg.ring.opener import Opener
from he_agg.ring.params import RingParams
from he_agg.ring.primes import BATCH, N, ntt_primes
from he_agg.ring.sampling import NOISE_BYTES, centred_binomial
from he_agg.ring.uniform import STREAM_WORDS, replace_rejected, word_limit

PLANS = ((16, 8), (8, 8), (24, 31), (16, 100))
"""Bits of a value and sites: two, four and one value a coefficient, and one whose residues go modulo one prime."""


def show(name: str, count: int, action: Callable[[], object], of: str = "value") -> None:
    """Time an action on so many values, or coefficients, for about half a second and print its median."""
    action()
    times: list[float] = []
    while sum(times) < 0.5 or len(times) < 9:
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    print(f"{name:34s} {count / median / 1e6:9.1f} M/s {median / count * 1e9:8.3f} ns/{of}")


def pieces() -> None:
    """The steps of one batch, by themselves."""
    m, stream = modulus(ntt_primes(30)[0]), Keystream(bytes(32))
    x, planes = np.empty(STREAM_WORDS, dtype=np.uint32), np.empty(NOISE_BYTES, dtype=np.uint8)
    noise, batch = np.empty(BATCH, dtype=np.int8), x[:BATCH]
    factor = np.ones(N, dtype=np.uint32)
    tables = (factor, shoup_quotients(factor, m.q), m.inverse, m.inverse_quotients, np.uint32(m.q), batch)
    show("keystream for a", BATCH, lambda: stream.fill(x.view(np.uint8), 0, 1), "coefficient")
    show("rejection", BATCH, lambda: replace_rejected(x, BATCH, np.uint32(word_limit(m.q))), "coefficient")
    show("keystream for noise", BATCH, lambda: stream.fill(planes, 0, 1), "coefficient")
    show("noise", BATCH, lambda: centred_binomial(planes.view(np.uint64), noise.view(np.uint64)), "coefficient")
    show("product, inverse NTT", BATCH, lambda: inverse_product(batch, *tables), "coefficient")


def packing(count: int) -> None:
    """Packing and folding at the hot widths and at one that is not."""
    for bits in (14, 21, 24, 30, 40):
        q = (1 << bits) - 35
        x: Any = np.random.default_rng(1).integers(0, q, count).astype(np.uint32 if bits <= 31 else np.uint64)
        packed, total = pack(x, bits), x.copy()
        show(f"pack {bits}", count, partial(pack, x, bits, packed), "residue")
        show(f"unpack {bits}", count, partial(unpack, packed, x.size, bits, x), "residue")
        show(f"fold {bits}", count, partial(fold, total, packed, bits, q), "residue")


def parts(batches: int) -> None:
    """Whole parts, as a client sees them, of plans with more or less packing."""
    a_key = bytes(32)
    for bits, sites in PLANS:
        plan = HybridParameters.choose((1 << (bits - 1)) - 1, sites)
        params = RingParams(plan.packing, plan.primes, plan.moduli, plan.delta, plan.magnitude, sites)
        bound, count = plan.magnitude, batches * BATCH * params.digits
        values = np.random.default_rng(1).integers(-bound, bound + 1, count).astype(np.int32)
        out = [np.zeros(size, dtype=np.uint8) for size in packed_sizes(params, count)]
        e = Encryptor(params, a_key)  # the inner function, because the outer encrypts a batch once only
        show(
            f"encrypt + pack, {bits} bits, {sites} sites",
            count,
            partial(_encrypt, params, e._a, e._noise, e._keys, 0, values, out),
        )
        opener, sums = Opener(params, a_key, e.key_coefficients(), 1), np.empty(count, dtype=np.int32)
        show(f"open, {bits} bits, {sites} sites", count, partial(opener.open, 0, out, sums))
        assert np.array_equal(sums, values)


def mask(batches: int) -> None:
    """The floor: add a keystream word to each value mod 2**21, pack."""
    stream, words = Keystream(bytes(32)), np.empty(BATCH, dtype=np.uint32)
    values = np.random.default_rng(1).integers(0, 1 << 16, batches * BATCH).astype(np.uint32)
    out = np.empty(packed_bytes(values.size, 21), dtype=np.uint8)
    step = packed_bytes(BATCH, 21)

    def run() -> None:
        for i in range(batches):
            stream.fill(words.view(np.uint8), 0, i)
            np.add(words, values[i * BATCH : (i + 1) * BATCH], out=words)
            np.bitwise_and(words, (1 << 21) - 1, out=words)
            pack(words, 21, out[i * step : (i + 1) * step])

    show("floor: additive mask + pack 21", values.size, run)


def main() -> None:
    """Print everything."""
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 34
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cipher = keystream._fastest().__name__
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {cores} core(s), {batches} batches, keystream {cipher}")
    pieces()
    packing(batches * BATCH)
    parts(batches)
    mask(batches)


if __name__ == "__main__":
    main()
