"""TenSEAL CKKS vectors of integers, as residues: the only module that imports tenseal.

One vector is one ciphertext of N/2 slots. Integers go in at a scale that keeps half a step 14.6 standard deviations of
the summed noise away (ckks_parameters.py), so rounding after decryption is exact and the noise, from which the key
could be computed, never leaves.

TenSEAL's own checks cannot be trusted with strange bytes; it is only ever given bytes that this process built.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from he_agg.codecs.base import OFF_GRID_HINT, GroupKey
from he_agg.codecs.seal_format import SealCiphertext, read_vector, write_vector
from he_agg.errors import DecryptionError, KeystoreError, Reason
from he_agg.plan.ckks_parameters import CkksParameters, CkksProfile

__all__ = ["CkksVectors", "OpenedKey", "new_secret_context"]

POLYNOMIALS = 2


def new_secret_context(profile: CkksProfile) -> bytes:
    """Make a fresh secret key and return it as a serialised TenSEAL context.

    Returns:
        The context with the secret key and nothing else: no public, relinearisation or Galois keys, for a sum
        needs none and each is one more thing to lose.
    """
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        profile.ring_degree,
        coeff_mod_bit_sizes=list(profile.chain_bits),
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    secret: bytes = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return secret


class CkksVectors:
    """Vectors of N/2 integers <-> 2N residues, under one group key. The key is loaded once.

    Args:
        key: the group key; its context must be of that ring.

    Raises:
        KeystoreError: the key holds no secret context of that ring.
    """

    def __init__(self, parameters: CkksParameters, key: GroupKey) -> None:
        self._parameters, self._profile = parameters, parameters.profile
        self._scale = 2.0**parameters.scale_bits
        self._context = _open_context(key)
        # One throw-away encryption tells how this library version labels ciphertexts of this ring.
        self._template = self._encrypt([0.0] * self.slots)

    @property
    def slots(self) -> int:
        """Integers in one vector."""
        return self._profile.slots

    @property
    def residues(self) -> int:
        """Residues of one vector."""
        return POLYNOMIALS * self._profile.ring_degree

    def encrypt(self, values: NDArray[Any]) -> NDArray[np.uint64]:
        """Encrypt up to N/2 integers; the rest of the slots are zero.

        Args:
            values: integers of a magnitude that the parameters were made for. Shape: (n,), n <= N/2.

        Returns:
            Polynomial 0, then polynomial 1. Shape: (2N,).
        """
        block = [0.0] * self.slots
        block[: values.size] = values.astype(np.float64).tolist()
        return self._encrypt(block).residues.reshape(-1)

    def decrypt(self, residues: NDArray[np.uint64], n_sites: int) -> NDArray[np.int64]:
        """Open one vector, exactly.

        Args:
            residues: all below the profile's modulus. Shape: (2N,).
            n_sites: how many ciphertexts it is the sum of.

        Raises:
            DecryptionError: it does not open to integers, or has more noise than so many honest ciphertexts.
        """
        template = self._template
        ciphertext = SealCiphertext(
            template.version, template.parms_id, self._scale, residues.reshape(template.residues.shape)
        )
        vector = ts.ckks_vector_from(self._context, write_vector(self.slots, ciphertext))
        return _to_integers(np.asarray(vector.decrypt()), self._parameters, n_sites)

    def _encrypt(self, block: list[float]) -> SealCiphertext:
        """Encrypt, take the ciphertext apart and see that it is of this ring."""
        size, ciphertext = read_vector(ts.ckks_vector(self._context, block, self._scale).serialize())
        expected = (POLYNOMIALS, 1, self._profile.ring_degree)
        if size != self.slots or ciphertext.residues.shape != expected or ciphertext.scale != self._scale:
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                f"the group key makes ciphertexts of shape {ciphertext.residues.shape}, expected {expected}",
                "ask the coordinator for the group key of this plan",
            )
        if int(ciphertext.residues.max()) >= self._profile.modulus:
            raise KeystoreError(Reason.KEY_MISMATCH, f"the group key is of another ring than {self._profile.name}")
        return ciphertext


class OpenedKey:
    """Opens a group key once: reading TenSEAL's context takes longer than encrypting a million values."""

    def __init__(self, parameters: CkksParameters) -> None:
        self._parameters = parameters
        self._opened: tuple[str, CkksVectors] | None = None

    def vectors(self, key: GroupKey) -> CkksVectors:
        """Return the vectors under this key, read anew only when the key is another one than last time.

        Raises:
            KeystoreError: the key holds no secret context of that ring.
        """
        if self._opened is None or self._opened[0] != key.key_id:
            self._opened = key.key_id, CkksVectors(self._parameters, key)
        return self._opened[1]


def _open_context(key: GroupKey) -> Any:
    try:
        context = ts.context_from(key.key_material)
        private = context.is_private()
    except (ValueError, RuntimeError) as error:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, "the group key holds no readable TenSEAL context") from error
    if not private:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, "the group key's TenSEAL context has no secret key")
    return context


def _to_integers(opened: NDArray[np.float64], parameters: CkksParameters, n_sites: int) -> NDArray[np.int64]:
    if not np.isfinite(opened).all():
        raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers", OFF_GRID_HINT)
    integers = np.rint(opened)
    noise = opened - integers
    too_far = np.abs(noise).max() > parameters.largest_distance(n_sites)
    if too_far or np.square(noise).sum() > parameters.largest_square_sum(n_sites):
        raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers", OFF_GRID_HINT)
    if np.abs(integers).max() >= 2**62:
        raise DecryptionError(Reason.SUM_OUT_OF_RANGE, "the sum opened to numbers no plan allows", OFF_GRID_HINT)
    return integers.astype(np.int64)
