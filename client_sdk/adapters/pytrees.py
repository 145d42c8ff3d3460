"""Nested dicts, lists, tuples and namedtuples of arrays: NumPy, JAX and Flax parameters, Keras weights.

The name of a leaf is its path: ``{"dense": [w, b]}`` has ``dense/0`` and ``dense/1``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import Adapter, Tensors, numeric
from he_agg.errors import InputError, Reason

__all__ = ["KerasAdapter", "PytreeAdapter"]

SEPARATOR = "/"


class PytreeAdapter(Adapter[Any]):
    """For models that are trees of arrays. `load` returns a new tree of the same structure; the old one stays.

    Leaves may be anything NumPy can read through `__array__`, so JAX arrays too; loaded leaves are NumPy arrays of the
    leaf's dtype (Python floats stay floats), which JAX functions take as they are. Integer and boolean leaves and None
    stay local. A tensor's float dtype is kept; bfloat16 travels as float32.
    """

    def state(self, model: Any) -> Tensors:
        """Return every numeric leaf by its path, as a copy."""
        leaves: dict[str, Any] = {}
        for name, leaf in _leaves(model, ""):
            if name in leaves:
                raise InputError(
                    Reason.BAD_ARGUMENT,
                    f"expected each path once, got {name!r} twice",
                    f"rename a key: keys must not contain {SEPARATOR!r} or be equal as text",
                )
            leaves[name] = leaf
        return self._read(leaves.items(), numeric)

    def write(self, model: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
        """Return a new tree with some leaves replaced."""
        return _rebuilt(model, "", tensors)


class KerasAdapter(PytreeAdapter):
    """For objects with `get_weights` and `set_weights`, such as Keras models. Writes in place.

    Tensors are named by their variable's `path` where `model.weights` tells it, else by their number.
    """

    def state(self, model: Any) -> Tensors:
        """Return every weight by its variable's path."""
        weights = model.get_weights()
        return self._read(zip(_paths(model, len(weights)), weights, strict=True), numeric)

    def write(self, model: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
        """Set some weights of the model."""
        weights = model.get_weights()
        names = _paths(model, len(weights))
        model.set_weights([_like(w, tensors[n]) if n in tensors else w for n, w in zip(names, weights, strict=True)])
        return model


def _paths(model: Any, count: int) -> list[str]:
    variables = getattr(model, "weights", None)
    paths = [str(getattr(v, "path", i)) for i, v in enumerate(variables)] if isinstance(variables, list | tuple) else []
    return paths if len(set(paths)) == count == len(paths) else [str(i) for i in range(count)]


def _children(node: Any) -> Iterator[tuple[str, Any]] | None:
    """Return keys and children of an inner node; None for a leaf."""
    if isinstance(node, Mapping):
        return ((str(key), child) for key, child in node.items())
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return iter(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return ((str(i), child) for i, child in enumerate(node))
    return None


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = _children(node)
    if children is None:
        if node is not None:
            yield path or "value", node
        return
    for key, child in children:
        yield from _leaves(child, f"{path}{SEPARATOR}{key}" if path else key)


def _rebuilt(node: Any, path: str, tensors: Mapping[str, NDArray[Any]]) -> Any:
    children = _children(node)
    if children is None:
        name = path or "value"
        return node if node is None or name not in tensors else _like(node, tensors[name])
    new = [_rebuilt(child, f"{path}{SEPARATOR}{key}" if path else key, tensors) for key, child in children]
    if isinstance(node, Mapping):
        pairs = dict(zip(node, new, strict=True))
        return pairs if type(node) is dict else type(node)(pairs)  # type: ignore[call-arg]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*new)
    return type(node)(new)


def _like(leaf: Any, value: NDArray[Any]) -> Any:
    """Return a value as a leaf of the same kind."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf)(value)
    dtype = getattr(leaf, "dtype", None)
    return np.array(value, dtype=np.asarray(leaf).dtype if dtype is None else np.dtype(dtype), order="C", copy=True)
