"""The codec `ckks`: the whole vector in TenSEAL CKKS vectors under the group key. The only module that imports tenseal.

Readable by stock TenSEAL: every ciphertext, and every ciphertext of a sum, is an ordinary `CKKSVector`. Values go in
as integers at a scale that keeps half a step 14.6 standard deviations of the summed noise away (ckks_parameters.py),
so rounding after decryption is exact, every site gets the same bits, and nothing is released from which the key
could be computed (the noise never leaves).

TenSEAL's own checks cannot be trusted with strange bytes; it is only ever given bytes that this process built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from he_agg.bitpack import pack, unpack
from he_agg.codecs.base import GroupKey
from he_agg.codecs.ckks_parameters import CkksProfile
from he_agg.errors import DecryptionError, InputError, KeystoreError, Reason, WireError
from he_agg.plan import PublicPlan
from he_agg.seal_format import SealCiphertext, read_vector, write_vector
from he_agg.sections import Part, Section

__all__ = ["CkksCodec", "new_secret_context"]

_POLYNOMIALS = 2
_GRID_TOLERANCE = 0.4
"""A slot further from an integer is refused. The plan keeps 1/2 at 14.6 sigma or more, so honest noise reaches 0.4
with a probability below 2^-98 a slot, while the sum under a wrong key is uniform: 2048 slots all pass with 0.8^2048."""


def new_secret_context(profile: CkksProfile) -> bytes:
    """Make a fresh secret key and return it as a serialised TenSEAL context.

    Args:
        profile: the ring.

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


class CkksCodec:
    """Exact integers <-> parts of CKKS residues.

    Args:
        plan: the public half of a plan whose codec is `ckks`.
    """

    def __init__(self, plan: PublicPlan) -> None:
        self._plan = plan
        self._profile = plan.parameters.profile
        self._scale = 2.0**plan.parameters.scale_bits

    @property
    def sections(self) -> tuple[Section, ...]:
        """Moduli and residue counts."""
        return self._plan.sections

    def encrypt(self, values: NDArray[np.int32], key: GroupKey) -> Iterator[Part]:
        """Encrypt one vector under fresh randomness, part by part, in order.

        Args:
            values: the integers. Shape: (plan.values,), each at most M in absolute value.
            key: the group key.

        Raises:
            InputError: another shape or dtype, or a value beyond the plan.
            KeystoreError: a key made for another plan.
        """
        if values.shape != (self._plan.values,) or values.dtype != np.int32:
            raise InputError(
                Reason.WRONG_SHAPE,
                f"expected {self._plan.values} int32 values, got {values.size} {values.dtype}",
            )
        # TenSEAL corrupts neighbours of a value that is too large, without a word: look first.
        if int(values.max()) > self._plan.magnitude or int(values.min()) < -self._plan.magnitude:
            raise InputError(Reason.BEYOND_CLIP, f"expected values within {self._plan.magnitude}, got one beyond")
        return self._encrypt(values, _open_context(key, self._plan))

    def _encrypt(self, values: NDArray[np.int32], context: Any) -> Iterator[Part]:
        slots, unit = self._profile.slots, _POLYNOMIALS * self._profile.ring_degree
        (section,) = self.sections
        block = np.zeros(slots)
        for place in self._plan.places:
            residues = np.empty(place.residues, dtype=np.uint64)
            first = place.index * section.part_residues // unit
            for i in range(place.residues // unit):
                chunk = values[(first + i) * slots : (first + i + 1) * slots]
                block[: chunk.size] = chunk
                block[chunk.size :] = 0
                ciphertext = self._checked(ts.ckks_vector(context, block.tolist(), self._scale).serialize())
                residues[i * unit : (i + 1) * unit] = ciphertext.residues.reshape(-1)
            yield Part(place.number, pack(residues, section.modulus_bits))

    def decrypt(self, total: Iterable[Part], n_sites: int, key: GroupKey) -> NDArray[np.int64]:
        """Open a sum, exactly.

        Args:
            total: all parts of the sum, in order.
            n_sites: how many submissions were added.
            key: the group key.

        Returns:
            The sums. Shape: (plan.values,).

        Raises:
            DecryptionError: the sum did not open to integers within `n_sites * M`; nothing is released.
            KeystoreError: a key made for another plan.
            WireError: parts missing, out of order, or of another length.
        """
        if not 1 <= n_sites <= self._plan.max_sites:
            raise DecryptionError(
                Reason.COUNT_MISMATCH, f"expected a sum of 1 to {self._plan.max_sites} sites, got {n_sites}"
            )
        context = _open_context(key, self._plan)
        slots, unit = self._profile.slots, _POLYNOMIALS * self._profile.ring_degree
        # One throw-away encryption tells how this library version labels ciphertexts of this ring.
        template = self._checked(ts.ckks_vector(context, [0.0] * slots, self._scale).serialize())
        (section,) = self.sections
        sums = np.empty(section.residues // unit * slots, dtype=np.int64)
        position = 0
        parts = iter(total)
        for place in self._plan.places:
            part = next(parts, None)
            if part is None or part.number != place.number or len(part.packed) != place.packed_bytes:
                raise WireError(Reason.TRUNCATED, f"sum: expected part {place.number} of {place.packed_bytes} bytes")
            residues, bad = unpack(part.packed, place.residues, section.modulus_bits, section.modulus)
            if bad >= 0:
                raise WireError(Reason.RESIDUE_OUT_OF_RANGE, f"sum, part {place.number}: residue {bad} is not below q")
            for start in range(0, place.residues, unit):
                ciphertext = SealCiphertext(
                    template.version,
                    template.parms_id,
                    self._scale,
                    residues[start : start + unit].reshape(template.residues.shape),
                )
                vector = ts.ckks_vector_from(context, write_vector(slots, ciphertext))
                sums[position : position + slots] = _to_integers(np.asarray(vector.decrypt()))
                position += slots
        if next(parts, None) is not None:
            raise WireError(Reason.TRAILING_BYTES, f"sum: expected {len(self._plan.places)} parts, got more")
        sums = sums[: self._plan.values]
        if int(np.abs(sums).max()) > n_sites * self._plan.magnitude:
            raise DecryptionError(
                Reason.SUM_OUT_OF_RANGE,
                f"expected sums within {n_sites} x {self._plan.magnitude}, got one beyond",
            )
        return sums

    def _checked(self, serialized: bytes) -> SealCiphertext:
        """Take a fresh ciphertext apart and see that it is of this plan's ring."""
        size, ciphertext = read_vector(serialized)
        expected = (_POLYNOMIALS, 1, self._profile.ring_degree)
        if size != self._profile.slots or ciphertext.residues.shape != expected or ciphertext.scale != self._scale:
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                f"the group key makes ciphertexts of shape {ciphertext.residues.shape}, expected {expected}",
                "ask the coordinator for the group key of this plan",
            )
        if int(ciphertext.residues.max()) >= self._profile.modulus:
            raise KeystoreError(Reason.KEY_MISMATCH, f"the group key is of another ring than {self._profile.name}")
        return ciphertext


def _open_context(key: GroupKey, plan: PublicPlan) -> Any:
    if key.plan_id != plan.plan_id:
        raise KeystoreError(
            Reason.KEY_MISMATCH,
            f"expected a group key for plan {plan.plan_id[:12]}, got key {key.key_id[:12]} for plan {key.plan_id[:12]}",
            "ask the coordinator for the group key of this plan",
        )
    try:
        context = ts.context_from(key.ckks_context)
        private = context.is_private()
    except (ValueError, RuntimeError) as error:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, "the group key holds no readable TenSEAL context") from error
    if not private:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, "the group key's TenSEAL context has no secret key")
    return context


def _to_integers(opened: NDArray[np.float64]) -> NDArray[np.int64]:
    if not np.isfinite(opened).all():
        raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers", _OFF_GRID_HINT)
    integers = np.rint(opened)
    if np.abs(opened - integers).max() > _GRID_TOLERANCE:
        raise DecryptionError(Reason.OFF_GRID, "the sum did not open to integers", _OFF_GRID_HINT)
    if np.abs(integers).max() >= 2**62:
        raise DecryptionError(Reason.SUM_OUT_OF_RANGE, "the sum opened to numbers no plan allows", _OFF_GRID_HINT)
    return integers.astype(np.int64)


_OFF_GRID_HINT = "most likely a site used another group key; compare key ids with `he-agg keys show`"
