"""Recognise an update again without storing it.

Keyed, because a plain hash of a guessable update would be an oracle for it. First AES-256-GMAC with a fixed key and
nonce: it takes a tenth of the time of SHA-256, and as long as nobody sees its tags it is a hash under which two updates
of n blocks collide with a chance of n/2^128. Then HMAC-SHA-256 over that tag, which is all that is ever written down.
Source: Carter and Wegman 1981 (a pseudorandom function of a universal hash).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from numpy.typing import NDArray

from he_agg import canonical

__all__ = ["recognise"]

_NONCE = bytes(12)
_PIECE_BYTES = 2**24
"""Hashed at a time: OpenSSL counts in 32 bits."""


def recognise(secret: bytes, weight: int, arrays: Sequence[NDArray[Any]]) -> str:
    """Compute the keyed fingerprint of an update.

    Args:
        secret: 32 bytes; whoever has them can test guesses.
        arrays: its tensors, in the order of the layout, contiguous.

    Returns:
        64 hex digits, the same for the same update.
    """
    key = hmac.digest(secret, b"he-agg/recognise/hash/v1", "sha256")
    mac = Cipher(AES256(key), modes.GCM(_NONCE)).encryptor()
    shapes = [[array.dtype.str, array.size] for array in arrays]
    mac.authenticate_additional_data(canonical.encode({"weight": weight, "arrays": shapes}))
    for array in arrays:
        data = array.reshape(-1).view(np.uint8)
        for start in range(0, data.size, _PIECE_BYTES):
            mac.authenticate_additional_data(data[start : start + _PIECE_BYTES].data)
    mac.finalize()
    outer = hmac.digest(secret, b"he-agg/recognise/tag/v1", "sha256")
    return hmac.digest(outer, mac.tag, "sha256").hex()
