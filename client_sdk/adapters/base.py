"""Turn a framework's model into named NumPy arrays, and back.

An adapter splits a model's state in two. *Shared* tensors are averaged; *local* state stays at the site: what `exclude`
names (personal layers, FedBN), and integers such as BatchNorm's `num_batches_tracked`, whose mean means nothing.

Some shared tensors are *statistics*, such as BatchNorm's running mean: no gradient moves them, so no server-side
optimizer may. Those among them that are *variances* are never negative.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.factors import warn_of_factors
from he_agg.errors import ConfigError, InputError, PlanError, Reason
from he_agg.plan.layout import Layout, TensorSpec

__all__ = [
    "Adapter",
    "Patterns",
    "Tensors",
    "bounds",
    "floored",
    "is_variance",
    "missing_extra",
    "numeric",
    "same_layout",
]

M = TypeVar("M")
Tensors = dict[str, NDArray[Any]]
Patterns = str | Iterable[str]

_VARIANCES = frozenset({"running_var", "moving_variance", "moving_var", "var", "variance"})
_STATISTICS = _VARIANCES | {"running_mean", "moving_mean", "moving_average", "mean"}
_COLLECTION = "batch_stats"
"""What PyTorch, Keras, Flax and Haiku call them: the last word of a name, or Flax's collection."""
_SMALL = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2", "float8_e5m2fnuz")
"""Dtypes of ml_dtypes, as JAX uses them, that float32 holds exactly."""


class Adapter(ABC, Generic[M]):
    """Between models of one framework and named arrays.

    Args:
        include: fnmatch patterns of the tensors that are averaged.
        exclude: patterns of those that are not, although included: they stay local.
        statistics: patterns of tensors that no gradient moves, besides those that are known by their names.
        variances: patterns of those statistics that are never negative, likewise.
    """

    naming = ""
    """How models of this kind come by other names for their tensors, for hints."""

    def __init__(
        self,
        include: Patterns = "*",
        exclude: Patterns = (),
        *,
        statistics: Patterns | None = None,
        variances: Patterns = (),
    ) -> None:
        self._include, self._exclude, self._variances = _patterns(include), _patterns(exclude), _patterns(variances)
        self._statistics = None if statistics is None else _patterns(statistics)
        self._warned = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(include={self._include}, exclude={self._exclude})"

    @abstractmethod
    def state(self, model: M) -> Tensors:
        """Return all state that can be written back, shared or local, by name, as copies.

        What cannot be read as numbers is an error, unless it is excluded: then it stays as it is in the model.
        """

    @abstractmethod
    def write(self, model: M, tensors: Mapping[str, NDArray[Any]]) -> M:
        """Write some of the state back, dtypes of the model kept. Returns the model, or a new one for pytrees."""

    def statistics(self, model: M) -> frozenset[str]:
        """Name shared tensors that no gradient moves; server-side optimizers leave them alone."""
        return self.statistics_in(model, self.tensors(model))

    def variances(self, model: M) -> frozenset[str]:
        """Name those statistics that are never negative; a mean of them is, by half a grid step or by noise."""
        return self._variances_in(model, self.tensors(model))

    def statistics_in(self, model: M, names: Iterable[str]) -> frozenset[str]:  # noqa: ARG002 - for adapters that know
        """Pick the statistics out of the names of a model's shared tensors."""
        told = (*(self._statistics or ()), *self._variances)
        return frozenset(name for name in names if _last(name) in _STATISTICS or _fits(name, told))

    def _variances_in(self, model: M, names: Iterable[str]) -> frozenset[str]:
        statistics = self.statistics_in(model, names)
        return frozenset(name for name in statistics if is_variance(name) or _fits(name, self._variances))

    def check_statistics(self, model: M) -> None:
        """Refuse a model whose tensors have numbers for names, where nobody has said which of them are statistics."""
        names = self.tensors(model)
        if self._statistics is None and not self._variances and all(name.isdecimal() for name in names):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"expected to be told which of {len(names)} tensors are statistics (BatchNorm's running mean and "
                "variance), which a server-side optimizer must not move; their names are only numbers",
                'statistics=["3", "4"], variances=["4"] by their places in the list; statistics=[] if there are none',
            )

    def is_shared(self, name: str, array: NDArray[Any]) -> bool:
        """Tell whether a tensor is averaged: a float that is included and not excluded."""
        return array.dtype.kind == "f" and not self._stays(name)

    def _stays(self, name: str) -> bool:
        return not _fits(name, self._include) or _fits(name, self._exclude)

    def _read(self, leaves: Iterable[tuple[str, Any]], read: Callable[[str, Any], NDArray[Any]]) -> Tensors:
        """Read leaves as arrays, but for those that are excluded and cannot be."""
        found: Tensors = {}
        for name, leaf in leaves:
            try:
                found[name] = read(name, leaf)
            except InputError:
                if not self._stays(name):
                    raise
        return found

    def tensors(self, model: M) -> Tensors:
        """Return the shared tensors as copies: float16, float32 or float64 (bfloat16 as float32, exactly)."""
        shared = {name: array for name, array in self.state(model).items() if self.is_shared(name, array)}
        if not shared:
            raise InputError(
                Reason.MISSING_TENSOR,
                f"expected at least one float tensor to average, {self!r} leaves none",
                "look at the include and exclude patterns",
            )
        self._warn(shared)
        return shared

    def _warn(self, names: Iterable[str]) -> None:
        """Warn, once, of what can be averaged and should hardly be."""
        self._warned = self._warned or warn_of_factors(tuple(names))

    def local(self, model: M) -> Tensors:
        """Return what stays at the site: excluded tensors, integers, booleans. For checkpoints."""
        return {name: array for name, array in self.state(model).items() if not self.is_shared(name, array)}

    def load(self, model: M, tensors: Mapping[str, Any]) -> M:
        """Put shared tensors into a model.

        Args:
            model: of the same architecture; local state in it stays.
            tensors: exactly the model's shared tensors.

        Returns:
            The model itself; a new tree where models are pytrees.

        Raises:
            InputError: the tensors are not the model's; the first one that differs is named.
        """
        mine = self.tensors(model)
        arrays = {name: np.asarray(value) for name, value in tensors.items()}
        same_layout(arrays, mine, "the tensors to load", "the model")
        return self.write(model, floored(arrays, self._variances_in(model, mine)))

    def load_local(self, model: M, tensors: Mapping[str, Any]) -> M:
        """Put back what `local` gave."""
        arrays = {name: np.asarray(value) for name, value in tensors.items()}
        same_layout(arrays, self.local(model), "the local state to load", "the model")
        return self.write(model, arrays) if arrays else model

    def layout(self, model: M, clip: float | Mapping[str, float], weight_cap: int) -> Layout:
        """Return the plan's layout for this model.

        Args:
            model: its architecture counts, not its values.
            clip: bound on absolute values of an update; or patterns to bounds, of which the first that fits counts.
            weight_cap: the largest sample count a site may give.

        Raises:
            PlanError: a tensor without a bound.
        """
        tensors = self.tensors(model)
        return Layout.of(tensors, clip=bounds(tensors, clip), weight_cap=weight_cap)


def is_variance(name: str) -> bool:
    """Tell by its name alone whether a tensor is a running variance."""
    return _last(name) in _VARIANCES


def floored(tensors: Mapping[str, NDArray[Any]], variances: Collection[str]) -> Tensors:
    """Return tensors with no variance below zero."""
    return {name: np.maximum(array, 0) if name in variances else array for name, array in tensors.items()}


def _last(name: str) -> str:
    """Return the last word of a name; in Flax's collection of statistics "mean", unless it is a variance."""
    words = name.split(":")[0].replace("/", ".").split(".")
    return words[-1] if _COLLECTION not in words or words[-1] in _VARIANCES else "mean"


def _patterns(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def bounds(names: Iterable[str], clip: float | Mapping[str, float]) -> dict[str, float]:
    """Make a clip bound for each name out of one number or patterns."""
    if not isinstance(clip, Mapping):
        return dict.fromkeys(names, float(clip))
    found = {}
    for name in names:
        fitting = [bound for pattern, bound in clip.items() if fnmatchcase(name, pattern)]
        if not fitting:
            raise PlanError(
                Reason.BAD_PLAN,
                f"expected a clip bound for tensor {name!r}, no pattern fits",
                'add a last pattern "*" for the rest',
            )
        found[name] = float(fitting[0])
    return found


def same_layout(
    got: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]] | Layout,
    got_name: str,
    expected_name: str,
) -> None:
    """Check that two sets of tensors have the same names, shapes and dtypes."""
    specs = expected.tensors if isinstance(expected, Layout) else _specs(expected)
    hint = "the architecture must be the plan's, at every site and in every round; rebuild the model as it was founded"
    for spec in specs:
        if spec.name not in got:
            raise InputError(
                Reason.MISSING_TENSOR,
                f"tensor {spec.name!r}: {expected_name} has it ({spec.dtype} {spec.shape}), {got_name} not",
                hint,
            )
        array = got[spec.name]
        if array.shape != spec.shape:
            raise InputError(
                Reason.WRONG_SHAPE,
                f"tensor {spec.name!r}: {expected_name} has shape {spec.shape}, {got_name} {array.shape}",
                hint,
            )
        if array.dtype.name != spec.dtype:
            raise InputError(
                Reason.WRONG_DTYPE,
                f"tensor {spec.name!r}: {expected_name} has dtype {spec.dtype}, {got_name} {array.dtype.name}",
                f"convert it with `.astype({spec.dtype!r})`, or the model to the plan's dtype",
            )
    known = {spec.name for spec in specs}
    for name in got:
        if name not in known:
            raise InputError(Reason.EXTRA_TENSOR, f"tensor {name!r}: {got_name} has it, {expected_name} not", hint)


def _specs(arrays: Mapping[str, NDArray[Any]]) -> tuple[TensorSpec, ...]:
    """Return specs of arrays of any dtype."""
    return tuple(TensorSpec(name, array.shape, array.dtype.name, 1.0) for name, array in arrays.items())


def numeric(name: str, value: Any) -> NDArray[Any]:
    """Return a leaf as a NumPy array of its own memory, in C order and native byte order.

    Raises:
        InputError: it holds what cannot be averaged: complex numbers, objects, a sparse matrix.
    """
    if hasattr(value, "tocoo") or hasattr(value, "toarray") or hasattr(value, "todense"):
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected a dense array, got a sparse one ({type(value).__name__})",
            "make it dense (`.toarray()`, `.todense()`), or exclude it",
        )
    if np.ma.is_masked(value):
        raise InputError(
            Reason.NON_FINITE,
            f"tensor {name!r}: expected a value in every place, got {int(np.ma.getmaskarray(value).sum())} masked",
            "fill them first (`.filled(0.0)`), or exclude it",
        )
    array = np.asarray(value)
    if array.dtype.name in _SMALL:
        array = array.astype(np.float32)
    if array.dtype.kind == "c":
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected real numbers, got {array.dtype.name}",
            "hand in real and imaginary part as two tensors, or exclude it",
        )
    if array.dtype.kind not in "fiub" or array.dtype.name in ("longdouble", "float128"):
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected numbers of up to 64 bits, got {array.dtype.name}",
            "convert it to float64, or exclude it",
        )
    # Not ascontiguousarray: that makes 0-d arrays 1-d.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)


def missing_extra(package: str, extra: str) -> ConfigError:
    """Return the error for an optional package that is not installed."""
    return ConfigError(
        Reason.BAD_CONFIG,
        f"the package {package!r} is needed for this and not installed",
        f"pip install 'he-agg[{extra}]'",
    )
