"""AES-256-CTR keystreams, seekable by (limb, batch).

Only this module and signing.py import `cryptography` in he_agg.

Format: the stream of (limb, batch) under a key is AES-256 of the counter blocks

    be32(limb) | be64(batch) | be32(2), be32(3), ...

Counting from 2 makes it the keystream of AES-256-GCM under the 96-bit nonce be32(limb) | be64(batch), by
GCM's definition. That is of use because OpenSSL's GCM runs on vector AES instructions where its CTR does
not: 21.6 against 8.6 GB/s on a Zen 5 core, although it computes a tag that nobody wants. Both give the same
bytes, so the faster one on this machine is chosen at the first use and nothing else depends on the choice.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

if sys.byteorder != "little":
    raise ImportError("he_agg.ring reads keystreams as little-endian words and supports no big-endian machine")

KEY_BYTES = 32
"""Bytes of a key: AES-256."""

MAX_FILL_BYTES = 1 << 18
"""The most that one fill may ask for; also the size of the block of zeros that is encrypted."""

TAIL_BYTES = 16
"""Room behind a stream for the tag that GCM computes and nobody wants."""

A_LABEL = "he-agg/a/v1"
"""Domain of the common polynomials a; the version changes with the format of anything below it."""

_ZEROS = memoryview(bytes(MAX_FILL_BYTES))
_Idle = deque[CipherContext]
_Start = Callable[[algorithms.AES, bytes, NDArray[np.uint8], _Idle], None]


def _by_ctr(key: algorithms.AES, nonce: bytes, out: NDArray[np.uint8], idle: _Idle) -> None:
    counter = nonce + (2).to_bytes(4, "big")
    try:
        cipher = idle.pop()  # one thread's as long as it is not there
    except IndexError:
        cipher = Cipher(key, modes.CTR(counter)).encryptor()
    else:
        cipher.reset_nonce(counter)
    cipher.update_into(_ZEROS[: out.size], out.data)
    idle.append(cipher)


def _by_gcm(key: algorithms.AES, nonce: bytes, out: NDArray[np.uint8], _: _Idle) -> None:
    Cipher(key, modes.GCM(nonce)).encryptor().update_into(_ZEROS[: out.size], out.data)


@lru_cache(maxsize=1)
def _fastest() -> _Start:
    key, out = algorithms.AES(bytes(KEY_BYTES)), np.empty(MAX_FILL_BYTES, dtype=np.uint8)
    idle = _Idle()

    def best_of_three(start: _Start) -> float:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            start(key, bytes(12), out, idle)
            times.append(time.perf_counter() - begin)
        return min(times)

    try:
        return min((_by_ctr, _by_gcm), key=best_of_three)
    except UnsupportedAlgorithm:  # a provider without GCM; CTR gives the same bytes
        return _by_ctr


class Keystream:
    """Keystreams under one key. A class because the key must be wiped when the streams are done."""

    def __init__(self, key: bytes | bytearray) -> None:
        """Copy a key.

        Args:
            key: 32 bytes. Wiping the caller's copy is the caller's business.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a keystream key has {KEY_BYTES} bytes, got {len(key)}")
        self._key: bytearray | None = bytearray(key)
        self._gcm = AESGCM(key) if _fastest() is _by_gcm else None
        self._idle = _Idle()  # set up for the key: a quarter of what a fill costs

    def fill(self, out: NDArray[np.uint8], limb: int, batch: int) -> None:
        """Overwrite a buffer with the first bytes of one stream.

        `cryptography` holds the GIL while it works: about 0.45 ns per coefficient of one limb with vector AES, 1.1 ns
        without, is the part of encryption that threads cannot share.

        Args:
            out: A contiguous buffer of at most `MAX_FILL_BYTES`. Shape: (n,).
            limb: Which limb, 0 <= limb < 2**32.
            batch: Which batch, 0 <= batch < 2**64.

        Raises:
            ValueError: If the key was wiped or the buffer is too large.
        """
        key = self._key
        if key is None:
            raise ValueError("this keystream was wiped")
        if out.size > MAX_FILL_BYTES:
            raise ValueError(f"at most {MAX_FILL_BYTES} bytes of a stream, got a buffer of {out.size}")
        nonce = limb.to_bytes(4, "big") + batch.to_bytes(8, "big")
        _fastest()(algorithms.AES(key), nonce, out, self._idle)
        if self._key is None:  # wiped meanwhile
            self._idle.clear()

    def fill_with_tail(self, out: NDArray[np.uint8], limb: int, batch: int) -> None:
        """Do as `fill` but for the last `TAIL_BYTES` of the buffer, which come out as anything.

        A fifth faster for one batch: the cipher is set up once for all streams, and GCM's one-shot form, which
        sets up nothing, insists on writing its tag.

        Args:
            out: A contiguous buffer of at most `MAX_FILL_BYTES` and the tail. Shape: (n + TAIL_BYTES,).
        """
        size = out.size - TAIL_BYTES
        if self._gcm is None or self._key is None or size > MAX_FILL_BYTES:
            self.fill(out[:size], limb, batch)
            return
        self._gcm.encrypt_into(limb.to_bytes(4, "big") + batch.to_bytes(8, "big"), _ZEROS[:size], None, out.data)

    def wipe(self) -> None:
        """Overwrite our copy of the key. Copies inside OpenSSL are freed, and cleared, by OpenSSL."""
        if self._key is not None:
            self._key[:] = bytes(KEY_BYTES)
            self._key = None
            self._gcm = None
            self._idle.clear()

    def __repr__(self) -> str:
        return "Keystream(<key>)" if self._key is not None else "Keystream(<wiped>)"


def a_key(federation: str | bytes, epoch: int, round_number: int, attempt: int, plan_id: bytes) -> bytes:
    """Derive the public key of a round's common polynomials.

    SHA-256 over five fields after the label, each preceded by its length as be32, so that no two different
    tuples encode alike; the integers are be64.

    Args:
        plan_id: The plan's digest, as bytes.

    Returns:
        32 bytes; public.
    """
    name = federation.encode() if isinstance(federation, str) else federation
    numbers = [n.to_bytes(8, "big") for n in (epoch, round_number, attempt)]
    fields = [A_LABEL.encode(), name, *numbers, plan_id]
    return hashlib.sha256(b"".join(len(f).to_bytes(4, "big") + f for f in fields)).digest()
