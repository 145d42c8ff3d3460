"""What is measured: ways to add vectors of many sites, each reduced to encrypt, fold and open of one part at a time.

Every scheme gets the same int32 vector. `encrypt` gives pieces of bytes as they would be sent, `fold` adds one
submission's piece onto a running sum, `open` turns all pieces of the sum into numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from he_agg import Layout, Plan
from he_agg.codecs import codec_for
from he_agg.codecs.base import Watch, unwatched
from he_agg.ids import RoundId
from he_agg.kernels import bitpack
from he_agg.plan.schemes import SCHEMES as CODECS
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part
from he_agg.ring.keystream import Keystream
from he_agg.ring.primes import BATCH
from keys import GroupKey

Piece = tuple[int, Any]
Source = Callable[[int], Any]


class Scheme(Protocol):
    """One way to add vectors."""

    def encrypt(self, values: Any) -> Iterator[Piece]:
        """Pieces of one submission, numbered."""

    def wire_bytes(self, piece: Any) -> int:
        """Bytes of one piece as it travels."""

    def new_sum(self, piece: Piece) -> Any:
        """Something to fold pieces of this number onto."""

    def fold(self, total: Any, piece: Piece) -> Any:
        """Add; returns the sum."""

    def finish(self, total: Any, number: int) -> Any:
        """The sum as it is sent back."""

    def open(self, source: Source, n_sites: int) -> Any:
        """Numbers out of the pieces of a sum."""


class Ours:
    """A codec of he-agg, one thread."""

    def __init__(self, codec: str, n_values: int, value_bits: int, max_sites: int) -> None:
        layout = Layout.of({"w": np.broadcast_to(np.zeros(1), (n_values,))}, clip=1.0, weight_cap=1)
        plan = Plan.create("bench", layout, max_sites=max_sites, value_bits=value_bits, codec=codec)
        self.plan, self.key, self.codec = plan, GroupKey.create(plan), codec_for(plan.public)
        self.round_id = RoundId("bench", 1, 1)

    def encrypt(self, values: Any, watch: Watch = unwatched) -> Iterator[Piece]:
        for part in self.codec.encrypt(values, self.key, self.round_id, threads=1, watch=watch):
            yield part.number, part.packed

    def wire_bytes(self, piece: Piece) -> int:
        number, packed = piece
        return len(encode_part(Part(number, packed), self.plan.public.places[number], self.plan.plan_id))

    def new_sum(self, piece: Piece) -> Any:
        place = self.plan.public.places[piece[0]]
        return bitpack.new_sum(place.residues, place.section.modulus_bits)

    def fold(self, total: Any, piece: Piece) -> Any:
        number, packed = piece
        section = self.plan.public.places[number].section
        if bitpack.fold(total, packed, section.modulus_bits, section.modulus) >= 0:
            raise ValueError("a residue that is none")
        return total

    def finish(self, total: Any, number: int) -> Any:
        return bitpack.pack(total, self.plan.public.places[number].section.modulus_bits).data

    def open(self, source: Source, n_sites: int) -> Any:
        return self.codec.decrypt(lambda n: Part(n, source(n)), n_sites, self.key, self.round_id, threads=1)


class StockTenseal:
    """TenSEAL as it is used elsewhere: N = 8192, primes [60, 40, 40], scale 2^40, `ckks_vector` and `serialize`.

    4096 values to a vector: a longer one makes the same ciphertexts and prints a warning for every use.
    """

    def __init__(self, *_: Any) -> None:
        import tenseal as ts

        self.ts = ts
        self.context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self.context.global_scale = 2**40

    def encrypt(self, values: Any) -> Iterator[Piece]:
        for number, start in enumerate(range(0, values.size, 4096)):
            yield number, self.ts.ckks_vector(self.context, values[start : start + 4096].tolist()).serialize()

    def wire_bytes(self, piece: Piece) -> int:
        return len(piece[1])

    def new_sum(self, piece: Piece) -> Any:
        return None

    def fold(self, total: Any, piece: Piece) -> Any:
        vector = self.ts.ckks_vector_from(self.context, piece[1])
        return vector if total is None else total + vector

    def finish(self, total: Any, number: int) -> Any:
        return total.serialize()

    def open(self, source: Source, n_sites: int) -> Any:
        out, number = [], 0
        while (piece := source(number)) is not None:
            out.append(np.rint(self.ts.ckks_vector_from(self.context, piece).decrypt()))
            number += 1
        return np.concatenate(out)


class Plaintext:
    """FedAvg of float32 in NumPy: the sum is `acc += w * x`."""

    _PIECE = 2**20

    def __init__(self, *_: Any) -> None:
        self.weight = np.float32(1)

    def encrypt(self, values: Any) -> Iterator[Piece]:
        # The vector is float32 already where this scheme is used: all it takes is a copy into a message.
        floats = values.view(np.float32)
        for number, start in enumerate(range(0, values.size, self._PIECE)):
            yield number, floats[start : start + self._PIECE].tobytes()

    def wire_bytes(self, piece: Piece) -> int:
        return len(piece[1])

    def new_sum(self, piece: Piece) -> Any:
        return np.zeros(len(piece[1]) // 4, dtype=np.float32)

    def fold(self, total: Any, piece: Piece) -> Any:
        total += self.weight * np.frombuffer(piece[1], dtype=np.float32)
        return total

    def finish(self, total: Any, number: int) -> Any:
        return total.tobytes()

    def open(self, source: Source, n_sites: int) -> Any:
        out, number = [], 0
        while (piece := source(number)) is not None:
            out.append(np.frombuffer(piece, dtype=np.float32) / np.float32(n_sites))
            number += 1
        return np.concatenate(out)


class Mask:
    """The floor for anything with a shared key: add a keystream word to each integer, pack. No HE at all.

    Every site masks with a stream of its own and whoever holds the seeds removes all of them, so opening takes one
    keystream per site: it is measured for the sites of the row.
    """

    def __init__(self, _: str, n_values: int, value_bits: int, max_sites: int) -> None:
        self.bits = value_bits + (max_sites - 1).bit_length()
        self.n_values = n_values
        self.q = 1 << self.bits
        self.words = np.empty(BATCH, dtype=np.uint32)
        self.stream = Keystream(bytes(32))

    def encrypt(self, values: Any) -> Iterator[Piece]:
        unsigned = values.view(np.uint32)
        for number, start in enumerate(range(0, values.size, BATCH)):
            chunk = unsigned[start : start + BATCH]
            words = self.words[: chunk.size]
            self.stream.fill(words.view(np.uint8), 0, number)
            np.add(words, chunk, out=words)
            np.bitwise_and(words, self.q - 1, out=words)
            yield number, bitpack.pack(words, self.bits)

    def wire_bytes(self, piece: Piece) -> int:
        return len(piece[1])

    def new_sum(self, piece: Piece) -> Any:
        return np.zeros(min(BATCH, self.n_values - piece[0] * BATCH), dtype=np.uint32)

    def fold(self, total: Any, piece: Piece) -> Any:
        bitpack.fold(total, piece[1], self.bits, self.q)
        return total

    def finish(self, total: Any, number: int) -> Any:
        return bitpack.pack(total, self.bits).tobytes()

    def open(self, source: Source, n_sites: int) -> Any:
        out = np.empty(self.n_values, dtype=np.int64)
        half = self.q >> 1
        for number, start in enumerate(range(0, self.n_values, BATCH)):
            target = out[start : start + BATCH]
            words = bitpack.unpack(source(number), target.size, self.bits)
            pad = self.words[: target.size]
            for _ in range(n_sites):
                self.stream.fill(pad.view(np.uint8), 0, number)
                np.subtract(words, pad, out=words)
            np.bitwise_and(words, self.q - 1, out=words)
            target[:] = words
            target[target >= half] -= self.q
        return out


SCHEMES: dict[str, Callable[..., Scheme]] = {
    **dict.fromkeys(CODECS, Ours),
    "tenseal-stock": StockTenseal,
    "plaintext-float32": Plaintext,
    "mask-floor": Mask,
}
