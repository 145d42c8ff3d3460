"""The layout: which tensors a federation averages, in which order, and within which bounds.

Sites only. The aggregator sees a fingerprint of it, so a site whose own model differs finds out before it uploads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg import canonical
from he_agg.errors import InputError, PlanError, Reason

__all__ = ["Layout", "TensorSpec"]

DTYPES = ("float16", "float32", "float64")
MAX_TENSORS = 100_000
MAX_WEIGHT_CAP = 2**40
MAX_VALUES = 2**36


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model.

    Attributes:
        name: its key in the dict that sites hand in.
        shape: its shape; () for a single number, and a 0 anywhere for an empty one.
        dtype: float16, float32 or float64.
        clip: bound on the absolute value of every element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    clip: float

    @property
    def size(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name!r}: {self.dtype} {self.shape}, clip {self.clip:g}"


@dataclass(frozen=True)
class Layout:
    """Ordered tensors and the cap on sample weights. Build it with `Layout.of`.

    Attributes:
        tensors: in the order in which they are flattened.
        weight_cap: the largest weight (sample count) a site may give; 1 means the plain mean.
    """

    tensors: tuple[TensorSpec, ...]
    weight_cap: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.tensors) <= MAX_TENSORS:
            raise PlanError(
                Reason.BAD_PLAN,
                f"expected 1 to {MAX_TENSORS} tensors, got {len(self.tensors)}",
                "hand in the named arrays of the model, or of its update",
            )
        if len({spec.name for spec in self.tensors}) != len(self.tensors):
            raise PlanError(Reason.BAD_PLAN, "expected each tensor name once, got one twice")
        whole = isinstance(self.weight_cap, int | np.integer) and not isinstance(self.weight_cap, bool)
        if not whole or not 1 <= self.weight_cap <= MAX_WEIGHT_CAP:
            raise PlanError(
                Reason.BAD_PLAN,
                f"expected a whole number of 1 to {MAX_WEIGHT_CAP} as weight cap, got {self.weight_cap}",
                "the cap is the largest sample count of a site; 1 means the plain mean",
            )
        for spec in self.tensors:
            _check_spec(spec)
        if self.size > MAX_VALUES:
            raise PlanError(Reason.BAD_PLAN, f"expected at most {MAX_VALUES} values, got {self.size}")

    @property
    def size(self) -> int:
        """How many values all tensors hold together."""
        return sum(spec.size for spec in self.tensors)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical form: what the aggregator sees of a layout."""
        return canonical.digest(self.to_json())

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Any],
        *,
        clip: float | Mapping[str, float],
        weight_cap: int,
    ) -> Layout:
        """Make the layout of a model from an example of its update.

        Args:
            tensors: named arrays; only names, shapes and dtypes are looked at.
            clip: bound on absolute values, one for all tensors or one per name.
            weight_cap: the largest sample count a site may give.

        Raises:
            PlanError: no tensors, a name or dtype that cannot be, or a bound that is not positive and finite.
        """
        specs = []
        for name, value in _named(tensors).items():
            array = np.asarray(value)
            if isinstance(clip, Mapping) and name not in clip:
                raise PlanError(
                    Reason.BAD_PLAN,
                    f"expected a clip bound for tensor {name!r}, got none",
                    "name every tensor, or give one bound for all",
                )
            bound = clip[name] if isinstance(clip, Mapping) else clip
            if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer | np.floating):
                raise PlanError(
                    Reason.BAD_PLAN,
                    f"tensor {name!r}: expected a number as clip bound, got {type(bound).__name__}",
                    "give the largest absolute value that an update may have",
                )
            specs.append(TensorSpec(name, tuple(array.shape), array.dtype.name, float(bound)))
        return cls(tuple(specs), weight_cap)

    def arrays(self, tensors: Mapping[str, Any]) -> list[NDArray[Any]]:
        """Check the site's tensors against the layout and return them in its order.

        Raises:
            InputError: a tensor is missing, extra, misshapen or of another dtype. The first one is named.
        """
        found = []
        tensors = _named(tensors)
        for position, spec in enumerate(self.tensors):
            if spec.name not in tensors:
                raise InputError(
                    Reason.MISSING_TENSOR,
                    f"tensor {spec.name!r} ({position + 1} of {len(self.tensors)}): expected {spec.dtype} "
                    f"{spec.shape}, got none",
                    "hand in every tensor of the plan; `he-agg plan show` lists them",
                )
            array = np.asarray(tensors[spec.name])
            if array.shape != spec.shape:
                raise InputError(
                    Reason.WRONG_SHAPE,
                    f"tensor {spec.name!r}: expected shape {spec.shape}, got {array.shape}",
                    "hand in arrays of the plan's shapes, the same at every site; `he-agg plan show` lists them",
                )
            if array.dtype.name != spec.dtype:
                raise InputError(
                    Reason.WRONG_DTYPE,
                    f"tensor {spec.name!r}: expected dtype {spec.dtype}, got {array.dtype.name}",
                    f"convert it with `.astype({spec.dtype!r})` if that loses nothing you need",
                    f"write it as {spec.dtype} if that loses nothing you need",
                )
            found.append(array)
        known = {spec.name for spec in self.tensors}
        extra = [name for name in tensors if name not in known]
        if extra:
            raise InputError(
                Reason.EXTRA_TENSOR,
                f"expected the {len(self.tensors)} tensors of the plan, got {len(extra)} more: first {extra[0]!r}",
                "leave it out, or found a federation whose plan has it",
            )
        return found

    def difference(self, other: Layout) -> str:
        """Say in words where another layout first differs; empty if it does not."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=False):
            if mine != theirs:
                return f"expected tensor {mine}; got {theirs}"
        if len(self.tensors) > len(other.tensors):
            return f"expected tensor {self.tensors[len(other.tensors)]}; got no more tensors"
        if len(self.tensors) < len(other.tensors):
            return f"expected no more tensors; got {other.tensors[len(self.tensors)]}"
        if self.weight_cap != other.weight_cap:
            return f"expected weight cap {self.weight_cap}; got {other.weight_cap}"
        return ""

    def to_json(self) -> canonical.Json:
        """Return the canonical document."""
        return {
            "tensors": [
                {"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "clip": canonical.decimal(s.clip)}
                for s in self.tensors
            ],
            "weight_cap": self.weight_cap,
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Layout:
        """Read what `to_json` wrote."""
        fields = canonical.Fields(value, "layout")
        specs = []
        for member in fields.array("tensors", MAX_TENSORS):
            tensor = canonical.Fields(member, "layout.tensors")
            shape = tensor.array("shape", 32)
            if not all(type(n) is int for n in shape):
                raise PlanError(Reason.BAD_PLAN, "layout.tensors.shape: expected integers")
            spec = TensorSpec(
                tensor.string("name"),
                tuple(shape),
                tensor.string("dtype"),
                canonical.parse_decimal(tensor.string("clip")),
            )
            tensor.end()
            specs.append(spec)
        weight_cap = fields.integer("weight_cap", 1, MAX_WEIGHT_CAP)
        fields.end()
        return cls(tuple(specs), weight_cap)


def _named(tensors: Any) -> Mapping[str, Any]:
    """Refuse what has no names."""
    if not hasattr(tensors, "keys"):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected arrays by name, got {type(tensors).__name__}",
            "hand in a dict of arrays, with the plan's names as keys; client_sdk.adapters makes one of a model",
            "write an NPZ file of named arrays",
        )
    return tensors  # type: ignore[no-any-return]


def _check_spec(spec: TensorSpec) -> None:
    if not isinstance(spec.name, str) or not 1 <= len(spec.name) <= 255:
        length = len(spec.name) if isinstance(spec.name, str) else type(spec.name).__name__
        start = f" ({spec.name[:40]!r}...)" if isinstance(spec.name, str) else ""
        raise PlanError(
            Reason.BAD_PLAN,
            f"expected tensor names of 1 to 255 characters, got {length}{start}",
            "rename the tensor, or the modules around it; the federation's tensors must have these names at every site",
        )
    if spec.dtype not in DTYPES:
        raise PlanError(
            Reason.BAD_PLAN,
            f"tensor {spec.name!r}: expected a dtype out of {', '.join(DTYPES)}, got {spec.dtype}",
            "convert it to a float dtype, or keep it local by leaving it out of the update",
        )
    if any(n < 0 or n > MAX_VALUES for n in spec.shape):
        raise PlanError(Reason.BAD_PLAN, f"tensor {spec.name!r}: expected a shape of counts, got {spec.shape}")
    if not 0 < spec.clip < 1e30 or not spec.clip >= 1e-30:
        raise PlanError(
            Reason.BAD_PLAN,
            f"tensor {spec.name!r}: expected a clip bound of 1e-30 to 1e30, got {spec.clip:g}",
            "give the largest absolute value that an update may have",
        )
