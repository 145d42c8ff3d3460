"""Encryption of one submission under a one-time key that nobody can supply or reuse."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.kernels.bitpack import Bytes, pack, packed_bytes
from he_agg.kernels.jit import frozen
from he_agg.ring.keystream import KEY_BYTES, TAIL_BYTES, Keystream
from he_agg.ring.limbs import LimbKey, batch_count, join_arguments, limb_keys, packed_sizes, require_packed
from he_agg.ring.params import RingParams
from he_agg.ring.passes import add_and_round, key_product
from he_agg.ring.primes import BATCH, coefficients_of
from he_agg.ring.sampling import NOISE_BYTES, centred_binomial, fresh_key, key_of
from he_agg.ring.uniform import STREAM_WORDS

Watching = Callable[[Bytes], None]
"""Is called with packed residues."""


class ValueBeyondError(ValueError):
    """A value exceeds the bound of the ring's parameters."""


class Encryptor:
    """One submission's encryption: c = a*s + e + D*m, rounded, block by block, in any order, from any thread.

    A class because the key must live exactly as long as the submission: it is made here, from the operating system's
    generator or from a seed, it is never an argument, and `wipe` ends it. Every batch can be encrypted once: two
    ciphertexts of one batch under one key would give away the difference of their plaintexts, so a second
    attempt is refused even after a failure. To start over, make a new Encryptor.

    Use as a context manager, which wipes at the end.
    """

    def __init__(self, params: RingParams, a_key: bytes, seed: bytes | None = None) -> None:
        """Draw a fresh key, or have one follow from a seed.

        Args:
            a_key: The round's public key, from `keystream.a_key`.
            seed: Of one plaintext and no other: the same two give the same bytes each time. Secret. 32 bytes.
        """
        if seed is not None and len(seed) != KEY_BYTES:
            raise ValueError(f"a seed has {KEY_BYTES} bytes, got {len(seed)}")
        self.params = params
        self._a = Keystream(a_key)
        self._coefficients: NDArray[np.int8] | None = fresh_key() if seed is None else key_of(seed)
        self._keys = limb_keys(params, self._coefficients)
        self._noise = Keystream(os.urandom(KEY_BYTES) if seed is None else _noise_key(seed))
        self._done: set[int] = set()
        self._active = 0
        self._state = threading.Condition()

    def key_coefficients(self) -> NDArray[np.int8]:
        """Return a copy of the one-time key, to be put into one CKKS vector under the group key.

        Secret: fill it with zeros after use.

        Returns:
            Coefficients in [-21, 21]. Shape: (N,).
        """
        if self._coefficients is None:
            raise ValueError("this one-time key was wiped")
        return self._coefficients.copy()

    def encrypt(
        self,
        first_batch: int,
        values: NDArray[np.int32],
        out: Sequence[Bytes] | None = None,
        watching: Sequence[Watching] = (),
    ) -> tuple[Bytes, ...]:
        """Encrypt and pack a run of whole batches, or the submission's last ones.

        Args:
            first_batch: Index of the first batch; values[0] is value first_batch * BATCH * digits.
            values: Signed values within the plan. Only the last batch of a submission may be short.
                Shape: (count,).
            out: Where to write, one array for each modulus that is sent. Shapes: `packed_sizes`.
            watching: Called with each batch's packed residues as soon as they are made, one for each modulus; nobody
                if left out. What they see of a value out of bounds is a ciphertext like any other.

        Returns:
            The packed residues: `out` if given.

        Raises:
            ValueBeyondError: If a value is out of bounds. The batches count as encrypted all the same, and
                `out` is zeroed.
            ValueError: If a batch was encrypted before, the key was wiped, or types and shapes are not as
                described.
        """
        if values.dtype != np.int32 or values.ndim != 1 or not values.flags.c_contiguous:
            raise ValueError(f"values are one contiguous int32 array, got {values.dtype} of {values.shape}")
        if out is None:
            out = [np.empty(size, dtype=np.uint8) for size in packed_sizes(self.params, values.size)]
        require_packed(self.params, values.size, out)
        with self._claimed(range(first_batch, first_batch + batch_count(self.params, values.size))):
            fine = _encrypt(self.params, self._a, self._noise, self._keys, first_batch, values, out, watching)
        if not fine:
            for o in out:
                o.fill(0)
            raise ValueBeyondError(f"a value exceeds the plan's bound of {self.params.max_abs_value}")
        return tuple(out)

    @contextmanager
    def _claimed(self, batches: range) -> Iterator[None]:
        with self._state:
            if self._coefficients is None:
                raise ValueError("this one-time key was wiped")
            if batches.start < 0 or not self._done.isdisjoint(batches):
                raise ValueError(f"batches {batches.start} to {batches.stop - 1} were encrypted before")
            self._done.update(batches)
            self._active += 1
        try:
            yield
        finally:
            with self._state:
                self._active -= 1
                self._state.notify_all()

    def wipe(self) -> None:
        """Overwrite the key and the noise key, once the threads that are encrypting have finished.

        Waiting is not a courtesy: a key that turns to zeros under a running kernel leaves e + D*k, plaintext.
        """
        with self._state:
            if self._coefficients is not None:
                self._coefficients.fill(0)
                self._coefficients = None  # from here on nobody else begins
            self._state.wait_for(lambda: self._active == 0)
            for key in self._keys:
                key.wipe()
            self._noise.wipe()

    def __enter__(self) -> Encryptor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Encryptor({self.params}, <one-time key>)"


def _noise_key(seed: bytes) -> bytes:
    return hmac.digest(seed, b"he-agg/noise-key/v1", "sha256")


def _encrypt(
    params: RingParams,
    a_stream: Keystream,
    noise_stream: Keystream,
    keys: tuple[LimbKey, ...],
    first_batch: int,
    values: NDArray[np.int32],
    out: Sequence[Bytes],
    watching: Sequence[Watching] = (),
) -> bool:
    """Encrypt with given keys; the deterministic half, which only `Encryptor` and the tests may call.

    Returns:
        Whether every value was within bounds.
    """
    # The noise's keystream is used up before that of a begins: in the same place both stay in the L2 cache.
    rooms = [np.empty(max(4 * STREAM_WORDS, NOISE_BYTES) + TAIL_BYTES, dtype=np.uint8) for _ in keys]
    planes, noise = rooms[0][: NOISE_BYTES + TAIL_BYTES], np.empty(BATCH, dtype=np.int8)
    plane_words, noise_words = planes[:-TAIL_BYTES].view(np.uint64), noise.view(np.uint64)
    streams = [room[: 4 * STREAM_WORDS + TAIL_BYTES] for room in rooms]
    words = [stream[:-TAIL_BYTES].view(np.uint32) for stream in streams]
    # Made once, not once a batch: a call with many arguments costs microseconds.
    products, rounding = [key.product_arguments() for key in keys], _rounding_arguments(params)
    values, worst, batch_values = frozen(values), 0, params.digits * BATCH
    watching = watching or [_nobody] * len(out)
    sent = tuple(zip(words[: len(out)], params.sent_bits, out, watching, strict=True))
    try:
        for i in range(batch_count(params, values.size)):
            message = values[i * batch_values : (i + 1) * batch_values]
            count = coefficients_of(message.size, params.digits)
            noise_stream.fill_with_tail(planes, 0, first_batch + i)
            centred_binomial(plane_words, noise_words)
            for limb, product in enumerate(products):
                a_stream.fill_with_tail(streams[limb], limb, first_batch + i)
                key_product(words[limb], _soon(message, limb), *product)
            worst = max(worst, int(add_and_round(message, count, noise, words[0], words[-1], *rounding)))
            for residues, bits, packed, watch in sent:
                start = packed_bytes(i * BATCH, bits)
                # Only the coefficients in use are sent.
                watch(pack(residues[:count], bits, packed[start : start + packed_bytes(count, bits)]))
    finally:
        for secret in (*rooms, noise):
            secret.fill(0)
    return worst <= 2 * params.max_abs_value


def _nobody(_: Bytes) -> None:
    """Look at nothing."""


def _soon(message: NDArray[np.int32], limb: int) -> NDArray[np.uint32]:
    """Return a batch of words to be fetched from memory while a limb is worked on, of the values that follow."""
    piece = message[limb * BATCH : (limb + 1) * BATCH]
    return (piece if piece.size == BATCH else frozen(np.empty(BATCH, dtype=np.int32))).view(np.uint32)


def _rounding_arguments(params: RingParams) -> tuple[Any, ...]:
    """Return the arguments of `add_and_round` after the residues."""
    sent = prod(params.moduli)
    r, s = (*params.moduli, 1)[:2]
    message = (params.digits, float(params.base), np.uint32(params.max_abs_value), float(params.delta))
    return (*message, *join_arguments(params), sent / params.modulus, float(r), float(s))
